// A linear of the network as it runs: shown to the hook, its input rounded when its weight says so.
#pragma once

#include "model/module.h"
#include "model/site_hook.h"
#include "model/weight_source.h"
#include "tensor/matrix.h"

namespace vernier::model {

// Keeps the weight as its source stores it; it is decoded on its way into each product. The module,
// and the source unless it gave the weight away, must outlive it.
class LinearSite {
 public:
  LinearSite(const Module& module, LinearWeight weight);

  int64_t n() const { return module_->n; }
  // y = W round(x), overwritten. x: [tokens, k], y: [tokens, n], distinct. `hook` may be null.
  void forward(ConstMatrixView x, SiteHook* hook, MatrixView y) const;

 private:
  const Module* module_;
  LinearWeight weight_;
};

// format.round_input over all rows, in parallel.
void round_rows(const formats::Format& format, float scale, MatrixView x);

}  // namespace vernier::model
