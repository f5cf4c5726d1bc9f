// Ranks as numbers of mixed radix: [stage][replica][tensor rank], and a second reading of the same
// stage, [copy][expert rank].
#include "comm/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "base/check.h"
#include "base/error.h"

namespace vernier::comm {
namespace {

std::string n_ranks(int64_t world) {
  return fmt::format("{} rank{}", world, world == 1 ? "" : "s");
}

// Beyond the world nothing fits, and the products below cannot overflow.
void require_within(std::string_view flag, int64_t size, int64_t world) {
  if (size < 1) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{} is {}, expected at least 1", flag, size));
  }
  if (size > world) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{} is {}, expected at most {}, the number of ranks that were "
                            "started",
                            flag, size, world));
  }
}

void require_stages(int64_t world, int64_t tp, int64_t pp) {
  if (world % (tp * pp) == 0) return;
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("{} were started, expected a multiple of {} (--tp {} times --pp {})",
                          n_ranks(world), tp * pp, tp, pp));
}

void require_experts(int64_t world, int64_t pp, int64_t ep) {
  if (world / pp % ep == 0) return;
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("--ep is {}, expected a divisor of {} (the {} over --pp {})", ep,
                          world / pp, n_ranks(world), pp));
}

}  // namespace

Range part_of(int64_t n, Share share, int64_t unit) {
  VERNIER_CHECK(unit > 0 && n >= 0 && n % unit == 0);
  VERNIER_CHECK(share.index >= 0 && share.index < share.count);
  const int64_t n_runs = n / unit;
  const int64_t n_smaller = share.count - n_runs % share.count;
  const auto begin_of = [&](int64_t index) {
    return unit * (n_runs / share.count * index + std::max<int64_t>(0, index - n_smaller));
  };
  return {begin_of(share.index), begin_of(share.index + 1)};
}

Layout::Layout(int64_t world, int64_t tp, int64_t pp, int64_t ep) : tp_(tp), pp_(pp), ep_(ep) {
  VERNIER_CHECK(world >= 1);
  require_within("--tp", tp, world);
  require_within("--pp", pp, world);
  require_within("--ep", ep, world);
  require_stages(world, tp, pp);
  require_experts(world, pp, ep);
  dp_ = world / (tp * pp);
}

Place Layout::place(int64_t rank) const {
  VERNIER_CHECK(rank >= 0 && rank < world());
  const int64_t stage = rank / stage_size();
  const int64_t in_stage = rank % stage_size();
  return {.tensor = {in_stage % tp_, tp_},
          .data = {in_stage / tp_, dp_},
          .pipeline = {stage, pp_},
          .expert = {in_stage % ep_, ep_},
          .expert_copy = in_stage / ep_};
}

std::string Layout::describe() const {
  return fmt::format("{}: tp {}, pp {}, ep {}, dp {}", n_ranks(world()), tp_, pp_, ep_, dp_);
}

}  // namespace vernier::comm
