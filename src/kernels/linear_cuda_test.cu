// What linear layers and their gradients do on a device alone: paths, and weights that are decoded
// in several tiles.
#include "kernels/linear_cuda.h"

#include "kernels/linear_backward.h"
#include "kernels/linear_test_support.h"

namespace vernier::kernels::cuda {
namespace {

class LinearOnDevice : public OnEveryTarget {};

TEST_P(LinearOnDevice, TilesOfDecodedWeightsAddUp) {
  // Three tiles, the last one shorter: a tile has at least 256 rows.
  constexpr int64_t kN = 600;
  constexpr int64_t kK = 64;
  constexpr int64_t kTokens = 70;
  device()->state<DecodedTiles>().most_bytes = 1;
  const Matrix x = rounded(random_matrix(kTokens, kK, 1));
  const Matrix g_y = rounded(random_matrix(kTokens, kN, 2));
  for (const formats::Format* format : formats::all_formats()) {
    SCOPED_TRACE(format->name);
    const Tensor source = bf16_weight(kN, kK, 3);
    const formats::PackedTensor packed = format->encode(source.view(), {});
    const formats::PackedTensor weight = to_device(packed.view(), device());
    for (const DType dtype : {DType::kF32, GetParam().compute_dtype}) {
      AnyMatrix y(kTokens, kN, dtype, device());
      kernels::linear(activation(x), weight.view(), {}, y);
      expect_product(to_host(y), x, decoded(packed.view()),
                     product_bound(is_bf16(), false, kK, dtype));
      AnyMatrix g_x(kTokens, kK, dtype, device());
      kernels::linear_input_gradient(activation(g_y), weight.view(), g_x);
      expect_input_gradient(to_host(g_x), g_y, decoded(packed.view()),
                            product_bound(is_bf16(), false, kN, dtype));
    }
  }
}

TEST_P(LinearOnDevice, FewTokensAreDecodedInTheProduct) {
  for (const formats::Format* format : formats::all_formats()) {
    const Tensor source = bf16_weight(32, 64, 4);
    const formats::PackedTensor weight =
        to_device(format->encode(source.view(), {}).view(), device());
    const bool is_few = is_bf16() && format != &formats::bf16_format();
    EXPECT_EQ(linear_path(weight.view(), {}, 1),
              is_few ? LinearPath::kFewTokens : LinearPath::kDecoded)
        << format->name;
    EXPECT_EQ(linear_path(weight.view(), {}, 100), LinearPath::kDecoded) << format->name;
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, LinearOnDevice, testing::Values(kTargets[1], kTargets[2]),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace vernier::kernels::cuda
