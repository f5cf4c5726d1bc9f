// A linear of the network as it runs: shown to the hook, its input rounded when its weight says so.
#pragma once

#include <optional>

#include "kernels/grouped_linear.h"
#include "model/gradient_hook.h"
#include "model/module.h"
#include "model/site_hook.h"
#include "model/weight_source.h"
#include "tensor/any_matrix.h"

namespace vernier::model {

// What a linear reads: an activation, or what the rule of this linear has made of one already
// (kernels::InputCodes).
struct LinearInput {
  ConstAnyMatrixView x;
  kernels::InputRule coded_by = {};  // no format: an activation
};

// Room for the input [rows, cols] of linears, which is then written by the rule and in the type
// that they name; without such codes an activation.
struct LinearInputRoom {
  LinearInputRoom(int64_t rows, int64_t cols, Device* device,
                  const std::optional<kernels::InputCodes>& codes)
      : rule(codes ? codes->rule : kernels::InputRule{}),
        values(rows, cols, codes ? codes->dtype : compute_dtype(device), device) {}

  LinearInput input() const { return {values, rule}; }

  kernels::InputRule rule;
  AnyMatrix values;
};

// Keeps the weight as its source stores it; it is decoded on its way into each product. The module,
// and the source unless it gave the weight away, must outlive it.
class LinearSite {
 public:
  LinearSite(const Module& module, LinearWeight weight);

  // Of this rank's share of the weight, which is [n, k].
  int64_t n() const { return weight_.packed.n; }
  int64_t k() const { return weight_.packed.k; }
  // Whether its input is rounded by a rule, so that it may be mapped on the way.
  bool rounds_input() const { return weight_.input.format != nullptr; }
  // What the op before it may write instead of an activation, if there are n_tokens tokens.
  std::optional<kernels::InputCodes> input_codes(int64_t n_tokens) const;

  // y = W round(map(x)), overwritten. x: [tokens, k], y: [tokens, n], distinct. `hook` may be null
  // and sees x. REQUIRES: rounds_input(), where there is a map.
  void forward(ConstAnyMatrixView x, SiteHook* hook, AnyMatrixView y,
               formats::InputMap map = formats::InputMap::kNone) const;
  // The same for an input that may be coded already. REQUIRES: no hook where it is.
  void forward(const LinearInput& input, SiteHook* hook, AnyMatrixView y) const;
  // show(), then g_x = g_y W, overwritten: the rounding of x counts as the identity. y is what
  // forward() made of x, or empty; so may x be, without a hook.
  void backward(ConstAnyMatrixView x, ConstAnyMatrixView y, Gradients g_y, GradientHook* hook,
                Gradients g_x) const;
  // Shows a backward pass to the hook, which may be null.
  void show(ConstAnyMatrixView x, ConstAnyMatrixView y, Gradients g_y, GradientHook* hook,
            int64_t first_row = 0) const;
  // What forward() computes with, for products of many sites at once.
  kernels::GroupWeight weight() const { return {weight_.packed, weight_.input}; }
  const Module& module() const { return *module_; }

 private:
  const Module* module_;
  LinearWeight weight_;
};

}  // namespace vernier::model
