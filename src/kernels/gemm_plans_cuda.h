// Which of cuBLASLt's algorithms computes which product. Large products search once (gemm_search),
// the longer they last the harder, and remember the answer, here and on disk (plan_file.h); small
// ones take the library's first choice. The answer depends on the product's shape and on what the
// file holds.
#pragma once

#include <compare>
#include <map>
#include <optional>
#include <string>

#include "kernels/lt_product_cuda.h"
#include "kernels/plan_file.h"

namespace vernier::kernels::cuda {

// What the choice of an algorithm depends on.
struct ProductShape {
  DType operand_dtype;
  DType y_dtype;
  int64_t m, n, k;
  int64_t x_stride, weight_stride, y_stride;
  int x_alignment, weight_alignment, y_alignment;
  bool fast_accumulation;
  ProductForm form;
  bool adds;

  explicit ProductShape(const Product& product);
  auto operator<=>(const ProductShape&) const = default;

  double n_flops() const;
  // With the number of tokens, which is m or a weight gradient's k, rounded up. Experts get another
  // number in every batch, while the best algorithm changes slowly with it: shapes of one bucket
  // share what was searched.
  ProductShape bucket() const;
  // The key of the file.
  std::string text() const;
};

// One a device: device->state<GemmPlans>().
class GemmPlans {
 public:
  explicit GemmPlans(Device& device);

  // The algorithm of a product, the same in every call of the process. Absent where the library has
  // none. The first product of a bucket may run many times here, overwriting its y; one that adds
  // to y runs on a scratch matrix as large.
  std::optional<Algorithm> find(const Product& product);

  LtLibrary& library() { return library_; }
  std::filesystem::path path() const { return plan_path(machine_); }
  // Off: the library's first choice everywhere, for tests and comparisons.
  void set_searching(bool is_searching) { is_searching_ = is_searching; }

 private:
  std::optional<Algorithm> choose(const Product& product, const ProductShape& shape);
  std::optional<Algorithm> plan_of_bucket(const Product& product, const ProductShape& bucket);
  std::optional<Algorithm> search_bucket(const Product& product, const ProductShape& bucket);
  bool is_worth_searching(const ProductShape& bucket) const;

  LtLibrary& library_;
  bool is_searching_ = true;
  std::string machine_;
  PlanTable stored_;  // by bucket, what the file holds
  std::map<ProductShape, std::optional<Algorithm>> plans_;
};

}  // namespace vernier::kernels::cuda
