// Devices: memory, copies in the queue's order, uploads. Without one: what open_device says.
#include "tensor/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "base/testing.h"
#include "tensor/any_matrix.h"

namespace vernier {
namespace {

using ::testing::HasSubstr;

std::vector<float> counted(int64_t size) {
  std::vector<float> values(static_cast<size_t>(size));
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

TEST(Host, IsWhatNoDeviceMeans) {
  EXPECT_EQ(compute_dtype(nullptr), DType::kF32);
  std::vector<float> from = counted(10), to(10, -1.0f);
  copy_bytes(to.data(), nullptr, from.data(), nullptr, 40);
  EXPECT_EQ(to, from);
  fill_zero(to.data(), nullptr, 40);
  EXPECT_EQ(to, std::vector<float>(10));
}

TEST(Host, AMatrixIsCopiedWithoutWhatLiesBetweenItsRows) {
  std::vector<float> wide = counted(12);
  const Matrix copy = to_host(ConstMatrixView(wide.data(), 3, 2, 4));
  EXPECT_EQ(std::vector<float>(copy.values().begin(), copy.values().end()),
            (std::vector<float>{0, 1, 4, 5, 8, 9}));
}

TEST(AbsentDevice, IsASentence) {
  const Error error = error_of([] { open_device({.index = n_devices()}); });
  EXPECT_THAT(error.message(), HasSubstr("CUDA"));
}

class OnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    if (n_devices() == 0) GTEST_SKIP() << "no CUDA device";
    device_ = open_device({});
  }
  std::unique_ptr<Device> device_;
};

TEST_F(OnDevice, CopiesGoThereAndBackInOrder) {
  const std::vector<float> values = counted(100000);
  const Vector<float> there(std::span<const float>(values), device_.get());
  const Vector<float> again(there.size(), device_.get());
  copy_bytes(const_cast<float*>(again.view().data), device_.get(), there.view().data, device_.get(),
             there.size() * 4);
  EXPECT_EQ(again.to_host(), values);
}

TEST_F(OnDevice, HostMemoryMayChangeAfterACopy) {
  std::vector<float> values = counted(1 << 20);
  const std::vector<float> before = values;
  const Vector<float> there(std::span<const float>(values), device_.get());
  values.assign(values.size(), 0.0f);
  EXPECT_EQ(there.to_host(), before);
}

TEST_F(OnDevice, StridedMatricesAndZeros) {
  std::vector<float> wide = counted(12);
  const AnyMatrix there = to_device(ConstMatrixView(wide.data(), 3, 2, 4), device_.get());
  const Matrix back = to_host(there);
  EXPECT_EQ(back.view().row(2)[1], 9);
  const AnyMatrix zeros = new_zeros(5, 7, device_.get());
  const Matrix here = to_host(zeros);
  for (const float value : here.values()) EXPECT_EQ(value, 0);
}

TEST_F(OnDevice, FreedMemoryIsCountedAndTheLimitHolds) {
  const int64_t before = device_->memory().used_bytes;
  {
    const Tensor tensor(DType::kU8, {int64_t{64} << 20}, device_.get());
    EXPECT_GE(device_->memory().used_bytes, before + (int64_t{64} << 20));
  }
  device_->synchronize();
  EXPECT_EQ(device_->memory().used_bytes, before);
  EXPECT_GE(device_->memory().peak_bytes, int64_t{64} << 20);

  const auto small = open_device({.max_bytes = int64_t{64} << 20});
  const Error error = error_of([&] { Tensor(DType::kU8, {int64_t{1} << 30}, small.get()); });
  EXPECT_EQ(error.kind(), ErrorKind::kOutOfMemory);
  EXPECT_THAT(error.message(), HasSubstr("no room for 1073741824 bytes more"));
}

TEST_F(OnDevice, UploadsArriveWhateverTheirSizes) {
  const auto queue = device_->new_upload_queue(3);
  std::vector<std::vector<float>> sources;
  for (const int64_t size : {1, 3, 1000, 1 << 20, 5 << 20, 7}) sources.push_back(counted(size));
  for (int round = 0; round < 3; ++round) {
    std::vector<UploadQueue::Upload> uploads;
    for (const auto& source : sources) {
      uploads.push_back(queue->push(source.data(), std::ssize(source) * 4));
    }
    for (size_t i = 0; i < sources.size(); ++i) {
      queue->wait(uploads[i].ticket);
      const Tensor there =
          Tensor::adopt(DType::kF32, {std::ssize(sources[i])}, device_.get(), uploads[i].data);
      const Tensor here = to_device(there.view(), nullptr);
      EXPECT_TRUE(std::ranges::equal(here.as<float>(), sources[i])) << i;
    }
  }
}

TEST_F(OnDevice, PinnedCopiesKeepTheQueuesOrder) {
  auto* pinned = static_cast<float*>(device_->allocate_pinned(4000));
  std::iota(pinned, pinned + 1000, 0.0f);
  Vector<float> there(1000, device_.get());
  device_->copy_pinned(there.view().data, pinned, 4000);
  device_->copy_pinned(pinned, there.view().data, 4000);
  device_->synchronize();
  EXPECT_EQ(pinned[999], 999.0f);
  device_->free_pinned(pinned);
}

struct Counter {
  explicit Counter(Device&) { ++n_made; }
  static inline int n_made = 0;
};

TEST_F(OnDevice, KeepsOneObjectOfAKind) {
  Counter& first = device_->state<Counter>();
  EXPECT_EQ(&device_->state<Counter>(), &first);
  EXPECT_EQ(Counter::n_made, 1);
}

}  // namespace
}  // namespace vernier
