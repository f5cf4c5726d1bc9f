#include "kernels/gemm_plans_cuda.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

#include "kernels/gemm_search_cuda.h"

namespace vernier::kernels::cuda {
namespace {

// Below this a product lasts a few microseconds, and a search gains less than its noise.
constexpr double kSearchFlops = 2e9;
// Below this a product lasts up to some 200 us; there are many such shapes, each expert's among
// them, and each may cost a few milliseconds.
constexpr double kCarefulFlops = 1e11;
// From here on a product lasts milliseconds, and a per cent of it is worth a second of search,
// once.
constexpr double kThoroughFlops = 1e12;
// A longer product is searched on its first tokens: they fill the device many times over, so that
// the rest would only repeat what they tell.
constexpr double kMostTimedFlops = 1.2e12;
constexpr int kQuickCandidates = 8;
constexpr int kCandidates = 16;

// Buckets of tokens: powers of two up to 256, then these and the middles between them, as multiples
// of 256. Tokens that are searched in part are such multiples too.
constexpr int64_t kTokenStep = 256;

int64_t round_up_tokens(int64_t n) {
  const auto size = static_cast<uint64_t>(n);
  if (n <= kTokenStep) return static_cast<int64_t>(std::bit_ceil(size));
  const int64_t step = std::max(kTokenStep, static_cast<int64_t>(std::bit_floor(size)) / 2);
  return (n + step - 1) / step * step;
}

Effort effort_for(double n_flops) {
  if (n_flops < kCarefulFlops) return Effort::kQuick;
  return n_flops < kThoroughFlops ? Effort::kCareful : Effort::kThorough;
}

Product first_tokens(Product product, int64_t n_tokens) {
  product.x = product.x.row_range(0, n_tokens);
  if (product.form == ProductForm::kWeightGradient) {
    product.weight = product.weight.row_range(0, n_tokens);
  } else {
    product.y = product.y.row_range(0, n_tokens);
  }
  return product;
}

// As many of its tokens as the search should time.
Product timed_part(const Product& product) {
  const int64_t n_tokens = product.x.rows;
  const double share = kMostTimedFlops / ProductShape(product).n_flops();
  if (share >= 1) return product;
  const auto n_timed = static_cast<int64_t>(share * static_cast<double>(n_tokens));
  return first_tokens(product,
                      std::min(n_tokens, std::max(kTokenStep, n_timed / kTokenStep * kTokenStep)));
}

// What a search runs in the product's place, as often as it likes: y is a matrix of zeros that lies
// as the product's own does where that is added to.
struct Trial {
  Tensor scratch;
  Product product;

  explicit Trial(const Product& original) : product(timed_part(original)) {
    if (!product.adds) return;
    AnyMatrixView& y = product.y;
    constexpr int64_t kAlignment = 16;
    const auto past_aligned =
        static_cast<int64_t>(reinterpret_cast<uintptr_t>(y.data) % uintptr_t{kAlignment});
    const int64_t n_bytes = y.rows * std::max(y.row_stride, y.cols) * y.elem_bytes() + kAlignment;
    scratch = Tensor(DType::kU8, {n_bytes}, y.device);
    fill_zero(scratch.data(), y.device, n_bytes);
    y.data = scratch.data() + past_aligned;
  }
};

std::string_view suffix(ProductForm form) {
  switch (form) {
    case ProductForm::kForward:
      return "";
    case ProductForm::kInputGradient:
      return " input gradient";
    default:
      return " weight gradient";
  }
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
      m(product.m()),
      n(product.n()),
      k(product.k()),
      x_stride(product.x.row_stride),
      weight_stride(product.weight.row_stride),
      y_stride(product.y.row_stride),
      x_alignment(alignment_bytes(product.x)),
      weight_alignment(alignment_bytes(product.weight)),
      y_alignment(alignment_bytes(product.y)),
      fast_accumulation(product.fast_accumulation),
      form(product.form),
      adds(product.adds) {}

double ProductShape::n_flops() const {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

ProductShape ProductShape::bucket() const {
  ProductShape rounded = *this;
  int64_t& n_tokens = form == ProductForm::kWeightGradient ? rounded.k : rounded.m;
  n_tokens = round_up_tokens(n_tokens);
  return rounded;
}

std::string ProductShape::text() const {
  return fmt::format("{} {} m {} n {} k {} strides {} {} {} aligned {} {} {}{}{}{}",
                     dtype_info(operand_dtype).name, dtype_info(y_dtype).name, m, n, k, x_stride,
                     weight_stride, y_stride, x_alignment, weight_alignment, y_alignment,
                     fast_accumulation ? " fast accumulation" : "", suffix(form),
                     adds ? " added" : "");
}

GemmPlans::GemmPlans(Device& device)
    : library_(device.state<LtLibrary>()), machine_(machine_name(device)) {
  stored_ = load_plans(path(), machine_);
}

std::optional<Algorithm> GemmPlans::find(const Product& product) {
  const ProductShape shape(product);
  const auto known = plans_.find(shape);
  if (known != plans_.end()) return known->second;
  return plans_[shape] = choose(product, shape);
}

std::optional<Algorithm> GemmPlans::choose(const Product& product, const ProductShape& shape) {
  const LtProduct whole(library_, product);
  const ProductShape bucket = shape.bucket();
  if (!is_worth_searching(bucket)) return first_choice(whole);
  const std::optional<Algorithm> plan = plan_of_bucket(product, bucket);
  return plan && whole.accepts(*plan) ? plan : first_choice(whole);
}

std::optional<Algorithm> GemmPlans::plan_of_bucket(const Product& product,
                                                   const ProductShape& bucket) {
  const std::string text = bucket.text();
  if (const auto stored = stored_.find(text); stored != stored_.end()) {
    if (const auto algorithm = from_digits(text, stored->second)) return algorithm;
  }
  const std::optional<Algorithm> best = search_bucket(product, bucket);
  if (!best) return std::nullopt;
  stored_[text] = to_digits(text, *best);
  save_plans(path(), machine_, stored_);
  return best;
}

std::optional<Algorithm> GemmPlans::search_bucket(const Product& product,
                                                  const ProductShape& bucket) {
  const Trial trial(product);
  const LtProduct timed(library_, trial.product);
  const Effort effort = effort_for(bucket.n_flops());
  const std::vector<Algorithm> candidates =
      timed.heuristics(effort == Effort::kQuick ? kQuickCandidates : kCandidates);
  if (candidates.empty()) return std::nullopt;
  return search(timed, candidates, ProductShape(trial.product).n_flops(), effort);
}

// Plain FP32 products are a debugging path: not worth a search, which would take seconds.
bool GemmPlans::is_worth_searching(const ProductShape& bucket) const {
  return is_searching_ && bucket.operand_dtype != DType::kF32 && bucket.n_flops() >= kSearchFlops;
}

}  // namespace vernier::kernels::cuda
