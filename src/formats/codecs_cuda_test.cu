// The scalar definitions on the device: every code and every BF16 value converts there to what it
// converts to on the host, bit for bit.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "formats/bf16.h"
#include "formats/e2m1.h"
#include "formats/e4m3.h"
#include "formats/fp16.h"

namespace vernier::formats {
namespace {

constexpr int kThreads = 256;

// What all codecs make of one FP32 value.
struct Codes {
  uint32_t e4m3, e4m3_saturating, e2m1, bf16, fp16, fp16_stochastic;
  bool operator==(const Codes&) const = default;
};

VERNIER_HD Codes encode(float value, uint32_t random13) {
  return {float_to_e4m3(value), float_to_e4m3_saturating(value),
          float_to_e2m1(value), float_to_bf16(value),
          float_to_fp16(value), float_to_fp16_stochastic(value, random13)};
}

// What all codecs make of one code, as bits.
struct Values {
  uint32_t e4m3, e2m1, bf16, fp16;
  bool operator==(const Values&) const = default;
};

VERNIER_HD Values decode(uint32_t code) {
  return {float_bits(e4m3_to_float(code & 0xFF)), float_bits(e2m1_to_float(code & 0xF)),
          float_bits(bf16_to_float(code)), float_bits(fp16_to_float(code))};
}

// One thread a value; the values are all FP32 numbers whose low 14 bits are zero, 2^18 of them:
// every BF16 value and the midpoints between BF16 neighbours.
__global__ void encode_all(Codes* codes) {
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  codes[index] = encode(bits_float(index << 14), index & 0x1FFF);
}

__global__ void decode_all(Values* values) {
  const uint32_t code = blockIdx.x * kThreads + threadIdx.x;
  values[code] = decode(code);
}

bool has_device() {
  int n_devices = 0;
  return cudaGetDeviceCount(&n_devices) == cudaSuccess && n_devices > 0;
}

template <class T, class Kernel>
std::vector<T> run_on_device(Kernel kernel, int n) {
  T* device = nullptr;
  std::vector<T> host(n);
  EXPECT_EQ(cudaMalloc(&device, n * sizeof(T)), cudaSuccess);
  kernel<<<n / kThreads, kThreads>>>(device);
  EXPECT_EQ(cudaMemcpy(host.data(), device, n * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(cudaFree(device), cudaSuccess);
  return host;
}

TEST(CodecsOnDevice, EncodeAsOnTheHost) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device";
  constexpr int kValues = 1 << 18;
  const std::vector<Codes> codes = run_on_device<Codes>(encode_all, kValues);
  for (uint32_t index = 0; index < kValues; ++index) {
    ASSERT_EQ(codes[index], encode(bits_float(index << 14), index & 0x1FFF)) << index;
  }
}

TEST(CodecsOnDevice, DecodeAsOnTheHost) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device";
  constexpr int kCodes = 1 << 16;
  const std::vector<Values> values = run_on_device<Values>(decode_all, kCodes);
  for (uint32_t code = 0; code < kCodes; ++code) ASSERT_EQ(values[code], decode(code)) << code;
}

}  // namespace
}  // namespace vernier::formats
