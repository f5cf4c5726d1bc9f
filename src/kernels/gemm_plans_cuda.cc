#include "kernels/gemm_plans_cuda.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/gemm_search_cuda.h"

namespace vernier::kernels::cuda {
namespace {

// Below this a product lasts a few microseconds, and a search gains less than its noise.
constexpr double kSearchFlops = 2e9;
// From here on a per cent is worth tenths of a second of search, once.
constexpr double kThoroughFlops = 1e11;
constexpr int kCandidates = 16;

// Buckets of m: powers of two up to 128, then steps of at least 128 and an eighth of m.
int64_t round_up_m(int64_t m) {
  const auto floor = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(m)));
  if (m <= 128) return m == floor ? m : 2 * floor;
  const int64_t step = std::max<int64_t>(128, floor / 8);
  return (m + step - 1) / step * step;
}

// The device's name alone does not tell a part of it from the whole.
std::string machine_name(Device& device) {
  return fmt::format("{} {} multiprocessors cublasLt {}", device.name(),
                     vernier::cuda(&device).properties().multiProcessorCount, cublasLtGetVersion());
}

// FNV-1a.
uint64_t hash_of(const std::string& text) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3u;
  return hash;
}

// An algorithm as it is stored: its words, then a hash of the product and them. The library trusts
// the words, so damaged ones must not reach it.
std::string to_digits(const std::string& product, const Algorithm& algorithm) {
  std::string digits;
  for (const uint64_t word : algorithm.data) digits += fmt::format("{:016x}", word);
  return digits + fmt::format("{:016x}", hash_of(product + digits));
}

std::optional<Algorithm> from_digits(const std::string& product, const std::string& digits) {
  constexpr size_t kWord = 16;
  Algorithm algorithm;
  if (digits.size() != kWord * (std::size(algorithm.data) + 1)) return std::nullopt;
  if (digits.find_first_not_of("0123456789abcdef") != digits.npos) return std::nullopt;
  for (size_t word = 0; word < std::size(algorithm.data); ++word) {
    algorithm.data[word] = std::stoull(digits.substr(kWord * word, kWord), nullptr, 16);
  }
  if (to_digits(product, algorithm) != digits) return std::nullopt;
  return algorithm;
}

std::optional<Algorithm> first_choice(const LtProduct& product) {
  const std::vector<Algorithm> candidates = product.heuristics(1);
  if (candidates.empty()) return std::nullopt;
  return candidates[0];
}

}  // namespace

ProductShape::ProductShape(const Product& product)
    : operand_dtype(product.x.dtype),
      y_dtype(product.y.dtype),
      m(product.x.rows),
      n(product.weight.rows),
      k(product.x.cols),
      x_stride(product.x.row_stride),
      weight_stride(product.weight.row_stride),
      y_stride(product.y.row_stride),
      x_alignment(alignment_bytes(product.x)),
      weight_alignment(alignment_bytes(product.weight)),
      y_alignment(alignment_bytes(product.y)),
      fast_accumulation(product.fast_accumulation) {}

double ProductShape::n_flops() const {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

ProductShape ProductShape::bucket() const {
  ProductShape rounded = *this;
  rounded.m = round_up_m(m);
  return rounded;
}

std::string ProductShape::text() const {
  return fmt::format("{} {} m {} n {} k {} strides {} {} {} aligned {} {} {}{}",
                     dtype_info(operand_dtype).name, dtype_info(y_dtype).name, m, n, k, x_stride,
                     weight_stride, y_stride, x_alignment, weight_alignment, y_alignment,
                     fast_accumulation ? " fast accumulation" : "");
}

GemmPlans::GemmPlans(Device& device)
    : library_(device.state<LtLibrary>()), machine_(machine_name(device)) {
  stored_ = load_plans(path(), machine_);
}

std::optional<Algorithm> GemmPlans::find(const Product& product) {
  const ProductShape shape(product);
  const auto known = plans_.find(shape);
  if (known != plans_.end()) return known->second;
  return plans_[shape] = choose(LtProduct(library_, product), shape);
}

std::optional<Algorithm> GemmPlans::choose(const LtProduct& product, const ProductShape& shape) {
  const ProductShape bucket = shape.bucket();
  return is_worth_searching(bucket) ? searched(product, bucket) : first_of_bucket(product, bucket);
}

std::optional<Algorithm> GemmPlans::searched(const LtProduct& product, const ProductShape& bucket) {
  const std::string text = bucket.text();
  if (const auto stored = stored_.find(text); stored != stored_.end()) {
    const auto algorithm = from_digits(text, stored->second);
    if (algorithm) return product.accepts(*algorithm) ? algorithm : first_choice(product);
  }
  const std::vector<Algorithm> candidates = product.heuristics(kCandidates);
  if (candidates.empty()) return std::nullopt;
  const double n_flops = bucket.n_flops();
  const Algorithm best = search(product, candidates, n_flops, n_flops >= kThoroughFlops);
  stored_[text] = to_digits(text, best);
  save_plans(path(), machine_, stored_);
  return best;
}

std::optional<Algorithm> GemmPlans::first_of_bucket(const LtProduct& product,
                                                    const ProductShape& bucket) {
  const auto known = first_choices_.find(bucket);
  if (known != first_choices_.end() && product.accepts(known->second)) return known->second;
  const auto first = first_choice(product);
  if (first) first_choices_[bucket] = *first;
  return first;
}

// Plain FP32 products are a debugging path: not worth a search, which would take seconds.
bool GemmPlans::is_worth_searching(const ProductShape& bucket) const {
  return is_searching_ && bucket.operand_dtype != DType::kF32 && bucket.n_flops() >= kSearchFlops;
}

}  // namespace vernier::kernels::cuda
