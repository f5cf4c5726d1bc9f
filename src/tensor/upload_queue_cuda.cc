// Each thread has two page-locked buffers: while the device fetches one, the thread fills the other
// from the host (for a mapped file, that is the read). Copies go to a stream of the queue's own,
// and an upload's memory is allocated in that stream's order. The device's stream waits on an event
// behind the last piece of an upload, so that neither stream waits for the host.
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "tensor/upload_queue_cuda.h"

namespace vernier {
namespace {

constexpr int64_t kPieceBytes = int64_t{8} << 20;

// Page-locked memory, and the event after which it may be filled again.
class StagingBuffer {
 public:
  StagingBuffer() {
    VERNIER_CUDA(cudaMallocHost(&data_, kPieceBytes));
    VERNIER_CUDA(cudaEventCreateWithFlags(&fetched_, cudaEventDisableTiming));
  }
  ~StagingBuffer() {
    cudaEventDestroy(fetched_);
    cudaFreeHost(data_);
  }
  StagingBuffer(const StagingBuffer&) = delete;
  StagingBuffer& operator=(const StagingBuffer&) = delete;

  void copy(std::byte* to, const std::byte* from, int64_t bytes, cudaStream_t stream) {
    VERNIER_CUDA(cudaEventSynchronize(fetched_));
    std::memcpy(data_, from, static_cast<size_t>(bytes));
    VERNIER_CUDA(
        cudaMemcpyAsync(to, data_, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream));
    VERNIER_CUDA(cudaEventRecord(fetched_, stream));
  }

 private:
  void* data_ = nullptr;
  cudaEvent_t fetched_ = nullptr;
};

struct Piece {
  std::byte* to;
  const std::byte* from;
  int64_t bytes;
  int64_t ticket;
};

class CudaUploadQueue : public UploadQueue {
 public:
  CudaUploadQueue(CudaDevice& device, int index, cudaMemPool_t pool, int n_threads)
      : device_(device), index_(index), pool_(pool) {
    VERNIER_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    VERNIER_CUDA(cudaEventCreateWithFlags(&uploaded_, cudaEventDisableTiming));
    for (int thread = 0; thread < n_threads; ++thread) threads_.emplace_back([this] { work(); });
  }

  ~CudaUploadQueue() override {
    {
      const std::lock_guard lock(mutex_);
      pieces_.clear();
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    cudaStreamSynchronize(stream_);
    cudaEventDestroy(uploaded_);
    cudaStreamDestroy(stream_);
  }

  Upload push(const void* from, int64_t bytes) override {
    std::byte* to = allocate_from(pool_, bytes, stream_, [this] { return device_.memory(); });
    const std::lock_guard lock(mutex_);
    const int64_t ticket = next_ticket_++;
    const auto* source = static_cast<const std::byte*>(from);
    for (int64_t first = 0; first < bytes; first += kPieceBytes) {
      const int64_t count = std::min(kPieceBytes, bytes - first);
      pieces_.push_back({to + first, source + first, count, ticket});
      ++n_unsent_[ticket];
    }
    changed_.notify_all();
    return {to, ticket};
  }

  void wait(int64_t ticket) override {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return is_sent(ticket) || failure_ != nullptr; });
      if (failure_ != nullptr) std::rethrow_exception(failure_);
    }
    VERNIER_CUDA(cudaEventRecord(uploaded_, stream_));
    VERNIER_CUDA(cudaStreamWaitEvent(device_.stream(), uploaded_));
  }

 private:
  bool is_sent(int64_t ticket) const {
    return n_unsent_.empty() || n_unsent_.begin()->first > ticket;
  }

  void finish(const Piece& piece) {
    if (--n_unsent_[piece.ticket] == 0) n_unsent_.erase(piece.ticket);
  }

  bool take(Piece& piece) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopping_ || !pieces_.empty(); });
    if (pieces_.empty()) return false;
    piece = pieces_.front();
    pieces_.pop_front();
    return true;
  }

  void work() {
    try {
      VERNIER_CUDA(cudaSetDevice(index_));
      StagingBuffer buffers[2];
      Piece piece = {};
      for (int turn = 0; take(piece); turn ^= 1) {
        buffers[turn].copy(piece.to, piece.from, piece.bytes, stream_);
        const std::lock_guard lock(mutex_);
        finish(piece);
        changed_.notify_all();
      }
      VERNIER_CUDA(cudaStreamSynchronize(stream_));  // the buffers are read until then
    } catch (...) {
      const std::lock_guard lock(mutex_);
      failure_ = std::current_exception();
      changed_.notify_all();
    }
  }

  CudaDevice& device_;
  const int index_;
  cudaMemPool_t pool_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t uploaded_ = nullptr;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> pieces_;
  std::map<int64_t, int64_t> n_unsent_;  // pieces by ticket
  int64_t next_ticket_ = 0;
  bool stopping_ = false;
  std::exception_ptr failure_;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<UploadQueue> new_cuda_upload_queue(CudaDevice& device, int index,
                                                   cudaMemPool_t pool, int n_threads) {
  return std::make_unique<CudaUploadQueue>(device, index, pool, n_threads);
}

}  // namespace vernier
