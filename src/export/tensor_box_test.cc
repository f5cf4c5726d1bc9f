#include "export/tensor_box.h"

#include <gmock/gmock.h>

#include <numeric>

namespace vernier::exporting {
namespace {

using ::testing::ElementsAre;

Tensor numbered(Shape shape) {
  Tensor tensor(DType::kI32, std::move(shape));
  std::iota(tensor.as<int32_t>().begin(), tensor.as<int32_t>().end(), 0);
  return tensor;
}

Tensor zeros(Shape shape) {
  Tensor tensor(DType::kI32, std::move(shape));
  std::ranges::fill(tensor.as<int32_t>(), 0);
  return tensor;
}

TEST(TensorBox, Intersections) {
  const Box box{{2, 0}, {4, 8}};
  EXPECT_EQ(intersection(box, {{4, 6}, {9, 9}}), (Box{{4, 6}, {2, 2}}));
  EXPECT_EQ(intersection(box, {{6, 0}, {1, 8}}), std::nullopt);
  EXPECT_EQ(intersection(Box{}, Box{}), Box{});  // of scalars
}

TEST(TensorBox, BoundsHoldWithoutOverflow) {
  constexpr int64_t kMost = INT64_MAX;
  EXPECT_TRUE(is_within({{2}, {2}}, {4}));
  EXPECT_TRUE(is_within({{}, {}}, {}));
  EXPECT_FALSE(is_within({{3}, {2}}, {4}));
  EXPECT_FALSE(is_within({{kMost}, {2}}, {4}));
  EXPECT_FALSE(is_within({{0}, {kMost}}, {4}));
  EXPECT_FALSE(is_within({{0, 0}, {1, 1}}, {4}));
  EXPECT_FALSE(is_within({{0}, {1, 1}}, {4, 4}));
}

TEST(TensorBox, CopiesAnInnerBox) {
  const Tensor from = numbered({3, 4});
  Tensor to = zeros({2, 3});
  copy_box(from.view(), {{1, 2}, {2, 2}}, to, {0, 1});
  EXPECT_THAT(to.as<int32_t>(), ElementsAre(0, 6, 7, 0, 10, 11));
}

TEST(TensorBox, CopiesRunsOfWholeInnerDimensions) {
  const Tensor from = numbered({3, 2, 2});
  Tensor to = zeros({2, 2, 2});
  copy_box(from.view(), {{1, 0, 0}, {2, 2, 2}}, to, {0, 0, 0});
  EXPECT_THAT(to.as<int32_t>(), ElementsAre(4, 5, 6, 7, 8, 9, 10, 11));
  Tensor scalar = zeros({});
  copy_box(numbered({}).view(), {}, scalar, {});
  EXPECT_THAT(scalar.as<int32_t>(), ElementsAre(0));
}

TEST(TensorBox, RowsAreContiguousColumnsAreNot) {
  const Tensor tensor = numbered({3, 4});
  const auto rows = contiguous_bytes(tensor.view(), {{1, 0}, {2, 4}});
  ASSERT_TRUE(rows);
  EXPECT_EQ(rows->data(), tensor.view().data + 16);
  EXPECT_EQ(rows->size(), 32u);
  const auto in_a_row = contiguous_bytes(tensor.view(), {{2, 1}, {1, 2}});
  ASSERT_TRUE(in_a_row);
  EXPECT_EQ(in_a_row->data(), tensor.view().data + 36);
  EXPECT_FALSE(contiguous_bytes(tensor.view(), {{0, 1}, {2, 2}}));
  const auto spanned = spanned_bytes(tensor.view(), {{0, 1}, {2, 2}});
  EXPECT_EQ(spanned.data(), tensor.view().data + 4);
  EXPECT_EQ(spanned.size(), 24u);  // elements 1 to 6
}

}  // namespace
}  // namespace vernier::exporting
