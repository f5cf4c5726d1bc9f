// Every check on every backend of one process, on the host and on a device that the backend cannot
// reach.
#include "comm/communicator.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>

#include "comm/communicator_checks.h"
#include "comm/thread_ranks.h"

namespace vernier::comm {
namespace {

// A device by its interface alone, which works at once in host memory.
class PretendDevice : public Device {
 public:
  std::string name() const override { return "pretended"; }
  DType compute_dtype() const override { return DType::kF32; }
  DeviceMemory memory() const override { return {}; }
  std::byte* allocate(int64_t bytes) override {
    return static_cast<std::byte*>(std::malloc(static_cast<size_t>(bytes)));
  }
  void free(std::byte* data) noexcept override { std::free(data); }
  void* allocate_pinned(int64_t bytes) override { return allocate(bytes); }
  void free_pinned(void* data) noexcept override { std::free(data); }
  void copy_from_host(void* to, const void* from, int64_t bytes) override { copy(to, from, bytes); }
  void copy_to_host(void* to, const void* from, int64_t bytes) override { copy(to, from, bytes); }
  void copy_pinned(void* to, const void* from, int64_t bytes) override { copy(to, from, bytes); }
  void copy(void* to, const void* from, int64_t bytes) override {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  }
  void fill_zero(void* to, int64_t bytes) override {
    std::memset(to, 0, static_cast<size_t>(bytes));
  }
  void synchronize() override {}
  std::unique_ptr<UploadQueue> new_upload_queue(int) override { return nullptr; }
};

struct Backend {
  int n_threads;  // 0: alone()
  bool on_device;
};

std::ostream& operator<<(std::ostream& out, const Backend& backend) {
  if (backend.n_threads == 0) {
    out << "Alone";
  } else {
    out << backend.n_threads << "Threads";
  }
  return out << (backend.on_device ? "Device" : "Host");
}

class CommunicatorTest : public ::testing::TestWithParam<std::tuple<Backend, CommunicatorCheck>> {};

TEST_P(CommunicatorTest, KeepsItsContract) {
  const auto& [backend, check] = GetParam();
  const auto body = [&, on_device = backend.on_device, run = check.run](const Communicator& group) {
    PretendDevice device;
    run(group, on_device ? &device : nullptr);
  };
  if (backend.n_threads == 0) {
    body(*alone());
  } else {
    run_thread_ranks(backend.n_threads, body);
  }
}

INSTANTIATE_TEST_SUITE_P(All, CommunicatorTest,
                         ::testing::Combine(::testing::Values(Backend{0, false}, Backend{0, true},
                                                              Backend{1, false}, Backend{2, false},
                                                              Backend{3, false}, Backend{3, true},
                                                              Backend{4, false}),
                                            ::testing::ValuesIn(communicator_checks().begin(),
                                                                communicator_checks().end())),
                         [](const auto& info) {
                           return ::testing::PrintToString(std::get<0>(info.param)) +
                                  std::get<1>(info.param).name;
                         });

}  // namespace
}  // namespace vernier::comm
