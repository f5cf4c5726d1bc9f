// Each rank has a thread that waits for the first rank's word (ending_hub.h): whatever the rank
// computes, it ends within moments of a failure elsewhere. A launcher need not see to that.
#include "comm/world_tcp.h"

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <tuple>

#include "base/error.h"
#include "comm/communicator_tcp.h"
#include "comm/ending_hub.h"

namespace vernier::comm {
namespace {

// The first rank's word, as its thread hears it and the rank waits for it.
class Word {
 public:
  void set(Notice::Kind kind) {
    const std::scoped_lock lock(mutex_);
    kind_ = kind;
    changed_.notify_all();
  }
  Notice::Kind wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return kind_.has_value(); });
    return *kind_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Notice::Kind> kind_;
};

class TcpWorld : public World {
 public:
  TcpWorld(Mesh mesh, Complain complain)
      : complain_(std::move(complain)), mesh_(std::move(mesh)), all_(tcp_communicator(mesh_)) {
    if (mesh_.rank == 0) {
      std::tie(control_, mesh_.controls[0]) = connected_sockets();
      hub_ = std::thread([this] { run_ending_hub(mesh_.controls, complain_); });
    } else {
      control_ = std::move(mesh_.controls[0]);
    }
    watcher_ = std::thread([this] { watch(); });
  }

  // Waits for the others, since one may yet fail and end all. Where an exception passes that nobody
  // has spoken for, the others find this rank gone.
  ~TcpWorld() override {
    if (std::uncaught_exceptions() == 0) {
      send_notice(control_, {Notice::Kind::kEndedWell});
      word_.wait();
    }
    is_leaving_ = true;
    shut_down(control_);
    watcher_.join();
    if (hub_.joinable()) hub_.join();
  }

  const Communicator& all() const override { return *all_; }

  bool speaks_for_failure(int status) override {
    send_notice(control_, {Notice::Kind::kFailed, status});
    is_silent_ = word_.wait() == Notice::Kind::kBeSilent;
    return !is_silent_;
  }

  // The watcher ends the process, when all others have been told; where nobody tells it, it ends
  // all the same.
  void end(int status) override {
    std::fflush(nullptr);
    if (!is_silent_) send_notice(control_, {Notice::Kind::kEndAll, status});
    std::this_thread::sleep_for(std::chrono::seconds(5));
    std::_Exit(status);
  }

 private:
  void watch() {
    while (const std::optional<Notice> notice = receive_notice(control_)) {
      if (notice->kind == Notice::Kind::kEnd) std::_Exit(notice->status);
      word_.set(notice->kind);
      if (notice->kind == Notice::Kind::kLeave) return;
    }
    if (is_leaving_) return;
    // All others find the same; one says so.
    if (mesh_.rank == 1) complain_(sentence_of_loss(0));
    std::_Exit(exit_status(ErrorKind::kCommFault));
  }

  const Complain complain_;
  Mesh mesh_;
  std::unique_ptr<Communicator> all_;
  Socket control_;  // with the hub
  Word word_;
  bool is_silent_ = false;
  std::atomic<bool> is_leaving_ = false;
  std::thread watcher_;
  std::thread hub_;  // on the first rank
};

}  // namespace

std::unique_ptr<World> tcp_world(const Seat& seat, Complain complain) {
  return std::make_unique<TcpWorld>(meet(seat), std::move(complain));
}

}  // namespace vernier::comm
