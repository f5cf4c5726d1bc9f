// The plans of products: what a search finds is kept, in the process and on disk.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <random>
#include <vector>

#include "base/file.h"
#include "base/testing.h"
#include "formats/bf16.h"
#include "formats/e4m3.h"
#include "kernels/gemm_cuda.h"
#include "kernels/gemm_plans_cuda.h"
#include "kernels/gemm_search_cuda.h"

namespace vernier::kernels::cuda {
namespace {

bool same(const Algorithm& a, const Algorithm& b) { return std::memcmp(&a, &b, sizeof a) == 0; }

class GemmPlansTest : public testing::Test {
 protected:
  void SetUp() override {
    if (n_devices() == 0) GTEST_SKIP() << "no CUDA device";
    setenv("XDG_CACHE_HOME", cache_.path().c_str(), 1);
    device_ = open_device({});
  }
  void TearDown() override { unsetenv("XDG_CACHE_HOME"); }

  // [rows, cols] of random codes of the type, all finite.
  AnyMatrix operand(int64_t rows, int64_t cols, DType dtype) const {
    std::mt19937 engine(static_cast<uint32_t>(rows));
    std::normal_distribution<float> normal;
    AnyMatrix host(rows, cols, dtype, nullptr);
    for (int64_t index = 0; index < rows * cols; ++index) {
      if (dtype == DType::kBF16) {
        host.view().as<uint16_t>()[index] = formats::float_to_bf16(normal(engine));
      } else {
        host.view().as<uint8_t>()[index] = formats::float_to_e4m3(normal(engine));
      }
    }
    AnyMatrix there(rows, cols, dtype, device_.get());
    copy_matrix(host, there);
    return there;
  }

  TemporaryDirectory cache_;
  std::unique_ptr<Device> device_;
};

ConstAnyMatrixView described(int64_t rows, int64_t cols) {
  return {nullptr, rows, cols, cols, DType::kBF16, nullptr};
}
AnyMatrixView described_output(int64_t rows, int64_t cols) {
  return {nullptr, rows, cols, cols, DType::kF32, nullptr};
}

TEST(ProductShapeTest, BucketsRoundUp) {
  const auto bucket = [](int64_t m) {
    return ProductShape(
               {.x = described(m, 64), .weight = described(32, 64), .y = described_output(m, 32)})
        .bucket()
        .m;
  };
  EXPECT_EQ(bucket(1), 1);
  EXPECT_EQ(bucket(3), 4);
  EXPECT_EQ(bucket(100), 128);
  EXPECT_EQ(bucket(129), 256);
  EXPECT_EQ(bucket(768), 768);
  EXPECT_EQ(bucket(1000), 1024);
  EXPECT_EQ(bucket(8192), 8192);
  EXPECT_EQ(bucket(1100), 1536);
  EXPECT_EQ(bucket(8193), 12288);
}

// A weight's gradient sums over tokens.
TEST(ProductShapeTest, BucketsRoundTokensUp) {
  const ProductShape bucket = ProductShape({.x = described(700, 32),
                                            .weight = described(700, 48),
                                            .y = described_output(32, 48),
                                            .form = ProductForm::kWeightGradient})
                                  .bucket();
  EXPECT_EQ(bucket.m, 32);
  EXPECT_EQ(bucket.n, 48);
  EXPECT_EQ(bucket.k, 768);
}

// Files of plans are kept: the texts of old products do not change.
TEST(ProductShapeTest, TextsTellProductsApart) {
  Product product{
      .x = described(64, 64), .weight = described(64, 64), .y = described_output(64, 64)};
  const std::string plain = "BF16 F32 m 64 n 64 k 64 strides 64 64 64 aligned 16 16 16";
  EXPECT_EQ(ProductShape(product).text(), plain);
  product.fast_accumulation = true;
  EXPECT_EQ(ProductShape(product).text(), plain + " fast accumulation");
  product.fast_accumulation = false;
  product.form = ProductForm::kInputGradient;
  EXPECT_EQ(ProductShape(product).text(), plain + " input gradient");
  product.form = ProductForm::kWeightGradient;
  product.adds = true;
  EXPECT_EQ(ProductShape(product).text(), plain + " weight gradient added");
}

TEST_F(GemmPlansTest, ASearchIsKeptOnDisk) {
  const AnyMatrix x = operand(1024, 1024, DType::kBF16);
  const AnyMatrix weight = operand(1024, 1024, DType::kBF16);
  AnyMatrix y(1024, 1024, DType::kBF16, device_.get());
  const Product product{.x = x, .weight = weight, .y = y};
  GemmPlans plans(*device_);
  const auto found = plans.find(product);
  ASSERT_TRUE(found);
  EXPECT_TRUE(same(*found, *plans.find(product)));
  const std::string text = read_file(plans.path());
  EXPECT_NE(text.find("BF16 BF16 m 1024 n 1024 k 1024"), text.npos) << text;
  // Another process, which searches nothing: its file does not change.
  GemmPlans others(*device_);
  EXPECT_TRUE(same(*found, *others.find(product)));
  EXPECT_EQ(read_file(plans.path()), text);
  // Another m of the bucket takes the same.
  const Product shorter{
      .x = x.view().row_range(0, 1000), .weight = weight, .y = y.view().row_range(0, 1000)};
  EXPECT_TRUE(others.find(shorter));
  EXPECT_EQ(read_file(plans.path()), text);
}

// The search runs the product many times; what is added to y is added once.
TEST_F(GemmPlansTest, ASearchLeavesWhatIsAddedToAlone) {
  const AnyMatrix g_y = operand(1024, 1024, DType::kBF16);
  const AnyMatrix x = operand(1024, 1040, DType::kBF16);
  Matrix ones(1024, 1040);
  for (float& value : ones.values()) value = 1;
  const auto run = [&](ConstMatrixView before, bool adds) {
    AnyMatrix y = to_device(before, device_.get());
    multiply({.x = g_y, .weight = x, .y = y, .form = ProductForm::kWeightGradient, .adds = adds});
    return to_host(y);
  };
  const Matrix added = run(ones, true);
  EXPECT_NE(read_file(device_->state<GemmPlans>().path()).find(" weight gradient added"),
            std::string::npos);
  const Matrix alone = run(ones, false);
  for (size_t i = 0; i < alone.values().size(); ++i) {
    // Sums of 1024 products of normal numbers, by two algorithms.
    ASSERT_NEAR(added.values()[i], alone.values()[i] + 1, 2e-3);
  }
}

// So many rows that only the first are timed.
TEST_F(GemmPlansTest, LongProductsAreSearchedInPart) {
  constexpr int64_t kRows = 20 << 10;
  AnyMatrix x(kRows, 8192, DType::kBF16, device_.get());
  vernier::fill_zero(x.view().data, device_.get(), x.size_bytes());
  AnyMatrix y(kRows, 8192, DType::kBF16, device_.get());
  const Product product{.x = x, .weight = x.view().row_range(0, 8192), .y = y};
  GemmPlans plans(*device_);
  ASSERT_TRUE(plans.find(product));
  EXPECT_NE(read_file(plans.path()).find("m 24576 n 8192 k 8192"), std::string::npos);
}

TEST_F(GemmPlansTest, ADamagedAlgorithmIsSearchedAgain) {
  const AnyMatrix x = operand(1024, 1024, DType::kF8E4M3);
  AnyMatrix y(1024, 1024, DType::kBF16, device_.get());
  const Product product{.x = x, .weight = x, .y = y};
  GemmPlans plans(*device_);
  ASSERT_TRUE(plans.find(product));
  std::string damaged = read_file(plans.path());
  char& digit = damaged[damaged.find("algorithm\": \"") + 20];
  digit = digit == '1' ? '2' : '1';
  write_file(plans.path(), damaged);
  EXPECT_TRUE(GemmPlans(*device_).find(product));
  EXPECT_NE(read_file(plans.path()), damaged);
}

TEST_F(GemmPlansTest, SmallProductsAreNotSearched) {
  const AnyMatrix x = operand(16, 64, DType::kBF16);
  AnyMatrix y(16, 16, DType::kF32, device_.get());
  GemmPlans plans(*device_);
  ASSERT_TRUE(plans.find({.x = x, .weight = x, .y = y}));
  EXPECT_FALSE(std::filesystem::exists(plans.path()));
}

TEST_F(GemmPlansTest, ProductsRepeatBitForBit) {
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    const AnyMatrix x = operand(300, 4096, dtype);
    const AnyMatrix weight = operand(512, 4096, dtype);
    const auto run = [&] {
      AnyMatrix y(300, 512, DType::kF32, device_.get());
      multiply({.x = x, .weight = weight, .y = y, .alpha = 0.25f});
      const Matrix found = to_host(y);
      return std::vector<float>(found.values().begin(), found.values().end());
    };
    EXPECT_EQ(run(), run());
  }
}

TEST_F(GemmPlansTest, NeighboursAreOtherAlgorithmsThatGiveTheSameProduct) {
  const AnyMatrix x = operand(256, 512, DType::kBF16);
  AnyMatrix y(256, 256, DType::kF32, device_.get());
  LtLibrary library(*device_);
  const LtProduct product(library, {.x = x, .weight = x, .y = y});
  const std::vector<Algorithm> choices = product.heuristics(1);
  ASSERT_FALSE(choices.empty());
  const Algorithm first = choices[0];
  ASSERT_TRUE(product.queue(first) == CUBLAS_STATUS_SUCCESS);
  const Matrix expected = to_host(y);
  for (const Algorithm& other : neighbours(product, first)) {
    EXPECT_FALSE(same(other, first));
    if (product.queue(other) != CUBLAS_STATUS_SUCCESS) continue;
    const Matrix found = to_host(y);
    // Sums of 512 products of normal numbers, added in another order.
    for (size_t i = 0; i < found.values().size(); ++i) {
      ASSERT_NEAR(found.values()[i], expected.values()[i], 1e-3);
    }
  }
}

}  // namespace
}  // namespace vernier::kernels::cuda
