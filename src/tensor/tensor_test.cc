#include "tensor/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "base/testing.h"

namespace vernier {
namespace {

using ::testing::HasSubstr;

TEST(TensorTest, CountsElements) {
  EXPECT_EQ(n_elems({}), 1);  // a scalar
  EXPECT_EQ(n_elems({7}), 7);
  EXPECT_EQ(n_elems({2, 3, 4}), 24);
  EXPECT_EQ(n_elems({2, 0, 4}), 0);
}

TEST(TensorTest, CountsBytesAndPacksNarrowTypes) {
  EXPECT_EQ(n_bytes(DType::kF32, {}), 4);
  EXPECT_EQ(n_bytes(DType::kBF16, {3, 5}), 30);
  EXPECT_EQ(n_bytes(DType::kF4, {4, 16}), 32);
  EXPECT_EQ(n_bytes(DType::kF4, {3}), 2);
  EXPECT_EQ(n_bytes(DType::kF6E2M3, {4}), 3);
  EXPECT_EQ(n_bytes(DType::kU64, {0}), 0);
  // Beyond what 32 bits count.
  EXPECT_EQ(n_bytes(DType::kBF16, {131072, 131072}), int64_t{1} << 35);
}

TEST(TensorTest, PrintsShapes) {
  EXPECT_EQ(to_string(Shape{}), "[]");
  EXPECT_EQ(to_string(Shape{4, 16}), "[4, 16]");
}

TEST(TensorTest, OwnsAlignedMemoryOfTheRightSize) {
  for (const int64_t size : {0, 1, 15, 64, 1000}) {
    Tensor tensor(DType::kF32, {size});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data()) % 64, 0u);
    EXPECT_EQ(tensor.size(), size);
    EXPECT_EQ(tensor.view().size_bytes(), size * 4);
    std::memset(tensor.data(), 0x5A, static_cast<size_t>(size) * 4);
  }
}

TEST(TensorTest, ViewsSeeTheOwnersElements) {
  Tensor tensor(DType::kF32, {2, 3});
  const std::span<float> elems = tensor.as<float>();
  ASSERT_EQ(elems.size(), 6u);
  for (size_t index = 0; index < 6; ++index) elems[index] = static_cast<float>(index);
  const TensorView& view = tensor.view();
  EXPECT_EQ(view.data, tensor.data());
  EXPECT_EQ(view.as<float>()[5], 5.0f);
  EXPECT_EQ(view.bytes().size(), 24u);
}

TEST(TensorTest, MovesKeepTheMemory) {
  Tensor tensor(DType::kU8, {8});
  const std::byte* data = tensor.data();
  Tensor moved = std::move(tensor);
  EXPECT_EQ(moved.data(), data);
  EXPECT_EQ(moved.view().data, data);
  EXPECT_EQ(moved.shape(), Shape{8});
}

TEST(TensorTest, SaysWhatCouldNotBeAllocated) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the address sanitizer ends the process instead of failing the allocation";
#endif
  const int64_t too_many = int64_t{1} << 58;
  const Error error = error_of([&] { Tensor(DType::kU8, {too_many}); });
  EXPECT_EQ(error.kind(), ErrorKind::kOutOfMemory);
  EXPECT_THAT(error.message(), HasSubstr("cannot allocate 288230376151711744 bytes"));
  EXPECT_THAT(error.message(), HasSubstr("[288230376151711744]"));
}

}  // namespace
}  // namespace vernier
