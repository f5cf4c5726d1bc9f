// Shares of tensors, against the rules written out by hand for Nemotron 3 Super at eight ranks and
// against the whole put together again.
#include "model/cut.h"

#include <gmock/gmock.h>

#include <numeric>

#include "base/error.h"

namespace vernier::model {
namespace {

using comm::Range;
using comm::Share;
using ::testing::ElementsAre;

TEST(Cut, TakesAPartOfEverySegment) {
  // z, x, B, C, dt of Super: 8192 inner, 8 groups of 128, 128 heads; 2320 rows on each of 8 ranks.
  const Cut in_proj{.kind = CutKind::kRows, .segments = {8192, 8192, 1024, 1024, 128}};
  EXPECT_EQ(kept_size(in_proj, {3, 8}), 2320);
  EXPECT_THAT(kept_ranges(in_proj, {3, 8}),
              ElementsAre(Range{3072, 4096}, Range{8192 + 3072, 8192 + 4096},
                          Range{16384 + 384, 16384 + 512}, Range{17408 + 384, 17408 + 512},
                          Range{18432 + 48, 18432 + 64}));
}

TEST(Cut, RepeatsAHeadWhereRanksOutnumberHeads) {
  const Cut kv{.kind = CutKind::kRows, .segments = {256}, .unit = 128, .repeats = true};
  for (int64_t rank = 0; rank < 8; ++rank) {
    const int64_t head = rank / 4;
    EXPECT_THAT(kept_ranges(kv, {rank, 8}), ElementsAre(Range{head * 128, (head + 1) * 128}));
  }
  EXPECT_THAT(kept_ranges(kv, {1, 2}), ElementsAre(Range{128, 256}));
  EXPECT_THAT(kept_ranges(kv, {0, 1}), ElementsAre(Range{0, 256}));
}

TEST(Cut, KeepsBlocksOf16Together) {
  // Nano's 1856 hidden channels are 116 blocks, which 8 ranks cannot share equally.
  const Cut mlp{.kind = CutKind::kColumns, .segments = {1856}, .unit = 16};
  int64_t end = 0;
  for (int64_t rank = 0; rank < 8; ++rank) {
    const Range range = kept_ranges(mlp, {rank, 8}).front();
    EXPECT_EQ(range.begin, end);
    EXPECT_EQ(range.size() % 16, 0);
    EXPECT_THAT(range.size(), ::testing::AnyOf(224, 240));
    end = range.end;
  }
  EXPECT_EQ(end, 1856);
}

Tensor numbered(int64_t n_rows, int64_t n_cols) {
  Tensor tensor(DType::kI32, {n_rows, n_cols});
  std::iota(tensor.as<int32_t>().begin(), tensor.as<int32_t>().end(), 0);
  return tensor;
}

TEST(CutTensor, CopiesRowsAndColumns) {
  const Tensor whole = numbered(4, 4);
  const Tensor rows =
      cut_tensor(whole.view(), {.kind = CutKind::kRows, .segments = {2, 2}}, {1, 2});
  EXPECT_EQ(rows.shape(), (Shape{2, 4}));
  EXPECT_THAT(rows.as<int32_t>(), ElementsAre(4, 5, 6, 7, 12, 13, 14, 15));
  const Tensor columns =
      cut_tensor(whole.view(), {.kind = CutKind::kColumns, .segments = {4}}, {0, 2});
  EXPECT_EQ(columns.shape(), (Shape{4, 2}));
  EXPECT_THAT(columns.as<int32_t>(), ElementsAre(0, 1, 4, 5, 8, 9, 12, 13));
}

TEST(CutTensor, CutsAVectorAndLeavesInnerDimensionsWhole) {
  Tensor taps(DType::kI32, {4, 1, 2});
  std::iota(taps.as<int32_t>().begin(), taps.as<int32_t>().end(), 0);
  const Tensor part = cut_tensor(taps.view(), {.kind = CutKind::kRows, .segments = {2, 2}}, {0, 2});
  EXPECT_EQ(part.shape(), (Shape{2, 1, 2}));
  EXPECT_THAT(part.as<int32_t>(), ElementsAre(0, 1, 4, 5));
}

std::vector<float> decoded(const formats::PackedView& packed) {
  std::vector<float> values(static_cast<size_t>(packed.n * packed.k));
  packed.format->decode_rows(packed, 0, packed.n, values.data());
  return values;
}

formats::PackedTensor packed_weight(std::string_view format, int64_t n, int64_t k) {
  Tensor weight(DType::kF32, {n, k});
  float value = 0;
  for (float& elem : weight.as<float>()) elem = value += 0.37f;
  return formats::find_format(format)->encode(weight.view(), {});
}

// Every format decodes a share to what it decodes of the whole.
TEST(CutPacked, DecodesAsTheWholeDoes) {
  constexpr int64_t kRows = 6, kCols = 96;
  for (const formats::Format* format : formats::all_formats()) {
    const formats::PackedTensor whole = packed_weight(format->name, kRows, kCols);
    const std::vector<float> expected = decoded(whole.view());
    for (int64_t rank = 0; rank < 3; ++rank) {
      const formats::PackedTensor rows =
          cut_packed(whole.view(), {.kind = CutKind::kRows, .segments = {kRows}}, {rank, 3}, "m");
      const std::vector<float> by_rows = decoded(rows.view());
      const formats::PackedTensor columns =
          cut_packed(whole.view(), {.kind = CutKind::kColumns, .segments = {kCols}, .unit = 16},
                     {rank, 3}, "m");
      const std::vector<float> by_columns = decoded(columns.view());
      for (int64_t row = 0; row < kRows; ++row) {
        for (int64_t col = 0; col < kCols; ++col) {
          const float value = expected[static_cast<size_t>(row * kCols + col)];
          if (row / 2 == rank) {
            EXPECT_EQ(by_rows[static_cast<size_t>((row % 2) * kCols + col)], value);
          }
          if (col / 32 == rank) {
            EXPECT_EQ(by_columns[static_cast<size_t>(row * 32 + col % 32)], value);
          }
        }
      }
    }
  }
}

TEST(CutPacked, RefusesToDivideABlock) {
  const formats::PackedTensor whole = packed_weight("nvfp4", 4, 48);
  try {
    cut_packed(whole.view(), {.kind = CutKind::kColumns, .segments = {48}, .unit = 8}, {0, 2},
               "layers.0.out_proj");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_EQ(error.message(),
              "--tp 2: inputs 0 to 24 of layers.0.out_proj would be one rank's, expected whole "
              "blocks of 16 (nvfp4)");
  }
}

}  // namespace
}  // namespace vernier::model
