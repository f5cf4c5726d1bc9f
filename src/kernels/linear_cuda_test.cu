// The paths of linear layers on a device.
#include "kernels/linear_cuda.h"

#include "kernels/linear_test_support.h"

namespace vernier::kernels::cuda {
namespace {

class LinearOnDevice : public OnEveryTarget {};

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
