// NCCL over a group of hosts: the hosts agree on an id, and from then on devices send by
// themselves.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <nccl.h>

#include <cstring>
#include <exception>
#include <utility>

#include "base/error.h"
#include "comm/matrix_checks.h"
#include "comm/nccl_communicator.h"
#include "tensor/device_cuda.h"

namespace vernier::comm {
namespace {

void check_nccl(ncclResult_t status, const char* call) {
  if (status == ncclSuccess) return;
  throw Error(
      ErrorKind::kCommFault,
      fmt::format("devices could not talk to each other: {} in {} (NCCL_DEBUG=WARN says more)",
                  ncclGetErrorString(status), call));
}
#define VERNIER_NCCL_CALL(call) check_nccl((call), #call)

// One id for all, made by rank 0.
ncclUniqueId agree_on_id(const Communicator& host) {
  ncclUniqueId id = {};
  if (host.rank() == 0) VERNIER_NCCL_CALL(ncclGetUniqueId(&id));
  const std::string bytes =
      host.broadcast(std::string(reinterpret_cast<const char*>(&id), sizeof(id)), 0);
  std::memcpy(&id, bytes.data(), sizeof(id));
  return id;
}

// NCCL takes the thread's current device.
void select(Device* device) {
  int index = 0;
  VERNIER_CUDA(cudaStreamGetDevice(stream_of(device), &index));
  VERNIER_CUDA(cudaSetDevice(index));
}

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, Device* device)
      : host_(std::move(host)), device_(device) {
    const ncclUniqueId id = agree_on_id(*host_);
    select(device_);
    VERNIER_NCCL_CALL(ncclCommInitRank(&nccl_, size(), id, rank()));
  }

  // Work still queued ends first; where an exception passes, its other ranks may never come, so it
  // is dropped.
  ~NcclCommunicator() override {
    if (std::uncaught_exceptions() > 0) {
      ncclCommAbort(nccl_);
    } else {
      cudaStreamSynchronize(stream_of(device_));
      ncclCommDestroy(nccl_);
    }
  }

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }

  void sum(AnyMatrixView values) const override {
    VERNIER_CHECK(values.dtype == DType::kF32);
    if (values.device == nullptr) return host_->sum(values);
    if (is_contiguous(values)) return sum_contiguous(values);
    AnyMatrix copy(values.rows, values.cols, values.dtype, device_);
    copy_matrix(values, copy);
    sum_contiguous(copy);
    copy_matrix(copy, values);
  }

  void exchange_rows(ConstAnyMatrixView own, std::span<const int64_t> n_to, AnyMatrixView arrived,
                     std::span<const int64_t> n_from) const override {
    check_exchange(own, n_to, arrived, n_from, size());
    if (own.device == nullptr) return host_->exchange_rows(own, n_to, arrived, n_from);
    check_health();
    VERNIER_NCCL_CALL(ncclGroupStart());
    int64_t first_to = 0, first_from = 0;
    for (int rank = 0; rank < size(); ++rank) {
      queue_send(own.row_range(first_to, n_to[rank]), rank);
      queue_receive(arrived.row_range(first_from, n_from[rank]), rank);
      first_to += n_to[rank];
      first_from += n_from[rank];
    }
    VERNIER_NCCL_CALL(ncclGroupEnd());
  }

  void send(ConstAnyMatrixView values, int to) const override {
    if (values.device == nullptr) return host_->send(values, to);
    VERNIER_CHECK(is_contiguous(values) && to != rank());
    check_health();
    queue_send(values, to);
  }
  void receive(AnyMatrixView values, int from) const override {
    if (values.device == nullptr) return host_->receive(values, from);
    VERNIER_CHECK(is_contiguous(values) && from != rank());
    check_health();
    queue_receive(values, from);
  }

  void sum(std::span<int64_t> values) const override { host_->sum(values); }
  void sum(std::span<double> values) const override { host_->sum(values); }
  void max(std::span<float> values) const override { host_->max(values); }
  void gather_all(std::span<const int64_t> own, std::span<int64_t> all) const override {
    host_->gather_all(own, all);
  }
  std::vector<std::string> gather(const std::string& own, int root) const override {
    return host_->gather(own, root);
  }
  std::string broadcast(const std::string& own, int root) const override {
    return host_->broadcast(own, root);
  }
  void barrier() const override { host_->barrier(); }

  std::unique_ptr<Communicator> split(int64_t color) const override {
    return with_device(host_->split(color), device_);
  }

 private:
  void sum_contiguous(AnyMatrixView values) const {
    if (size_bytes(values) == 0) return;
    VERNIER_CHECK(values.device == device_);
    check_health();
    const auto n = static_cast<size_t>(values.rows * values.cols);
    VERNIER_NCCL_CALL(ncclAllReduce(values.data, values.data, n, ncclFloat32, ncclSum, nccl_,
                                    stream_of(device_)));
  }

  void queue_send(ConstAnyMatrixView values, int to) const {
    if (size_bytes(values) == 0) return;
    VERNIER_CHECK(values.device == device_);
    VERNIER_NCCL_CALL(ncclSend(values.data, static_cast<size_t>(size_bytes(values)), ncclUint8, to,
                               nccl_, stream_of(device_)));
  }
  void queue_receive(AnyMatrixView values, int from) const {
    if (size_bytes(values) == 0) return;
    VERNIER_CHECK(values.device == device_);
    VERNIER_NCCL_CALL(ncclRecv(values.data, static_cast<size_t>(size_bytes(values)), ncclUint8,
                               from, nccl_, stream_of(device_)));
  }

  // What was queued earlier and has failed since: costs a read of host memory.
  void check_health() const {
    ncclResult_t status = ncclSuccess;
    VERNIER_NCCL_CALL(ncclCommGetAsyncError(nccl_, &status));
    check_nccl(status, "an earlier call");
  }

  std::unique_ptr<Communicator> host_;
  Device* device_;
  ncclComm_t nccl_ = nullptr;
};

}  // namespace

std::unique_ptr<Communicator> with_device(std::unique_ptr<Communicator> host, Device* device) {
  if (device == nullptr || host->size() == 1) return host;
  return std::make_unique<NcclCommunicator>(std::move(host), device);
}

}  // namespace vernier::comm
