#include "runtime/layout_plan_search.h"

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "comm/unconnected.h"

namespace vernier::runtime {
namespace {

std::vector<int64_t> divisors(int64_t n) {
  std::vector<int64_t> all;
  for (int64_t divisor = 1; divisor <= n; ++divisor) {
    if (n % divisor == 0) all.push_back(divisor);
  }
  return all;
}

// All with tp tensor ranks.
std::vector<comm::Layout> layouts_of(int64_t world, int64_t tp) {
  std::vector<comm::Layout> layouts;
  for (const int64_t pp : divisors(world / tp)) {
    for (const int64_t ep : divisors(world / pp)) layouts.emplace_back(world, tp, pp, ep);
  }
  return layouts;
}

bool accepts(const model::Model& model, const comm::Layout& layout) {
  try {
    model.check_layout(layout);
    return true;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kInvalidArgument) throw;
    return false;
  }
}

// Stages keep their weights where they fit, as a job does.
LayoutPlan plan_in_best_order(LayoutPlanner& planner, const comm::Layout& layout) {
  if (layout.pp() > 1) {
    const LayoutPlan plan = planner.plan(layout, StageOrder::kBatchByBatch);
    if (plan.fits) return plan;
  }
  return planner.plan(layout, StageOrder::kLayerByLayer);
}

}  // namespace

std::vector<LayoutPlan> plan_layouts(const io::Json& config, std::string_view origin, int64_t world,
                                     const LayoutJob& job, const MachineRates& rates) {
  const std::unique_ptr<model::Model> whole = model::open_model(config, origin);
  std::vector<LayoutPlan> plans;
  for (const int64_t tp : divisors(world)) {
    // What no layout of so many tensor ranks passes.
    if (!accepts(*whole, comm::Layout(tp, tp, 1, 1))) continue;
    // The last tensor rank's share is the largest.
    const comm::Ranks ranks = comm::unconnected(comm::Layout(tp, tp, 1, 1), tp - 1);
    const std::unique_ptr<model::Model> share = model::open_model(config, origin, &ranks);
    LayoutPlanner planner(*share, job, rates);
    for (const comm::Layout& layout : layouts_of(world, tp)) {
      if (job.size.n_windows > 0 && layout.dp() > job.size.n_windows) continue;
      if (!accepts(*whole, layout)) continue;
      plans.push_back(plan_in_best_order(planner, layout));
    }
  }
  std::ranges::stable_sort(plans, {}, [](const LayoutPlan& plan) { return plan.seconds.total(); });
  return plans;
}

}  // namespace vernier::runtime
