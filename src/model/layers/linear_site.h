// A linear of the network as it runs: shown to the hook, its input rounded when its weight says so.
#pragma once

#include "kernels/grouped_linear.h"
#include "model/module.h"
#include "model/site_hook.h"
#include "model/weight_source.h"
#include "tensor/any_matrix.h"

namespace vernier::model {

// Keeps the weight as its source stores it; it is decoded on its way into each product. The module,
// and the source unless it gave the weight away, must outlive it.
class LinearSite {
 public:
  LinearSite(const Module& module, LinearWeight weight);

  int64_t n() const { return module_->n; }
  // y = W round(x), overwritten. x: [tokens, k], y: [tokens, n], distinct. `hook` may be null.
  void forward(ConstAnyMatrixView x, SiteHook* hook, AnyMatrixView y) const;
  // What forward() computes with, for products of many sites at once.
  kernels::GroupWeight weight() const { return {weight_.packed, weight_.input}; }
  const Module& module() const { return *module_; }

 private:
  const Module* module_;
  LinearWeight weight_;
};

}  // namespace vernier::model
