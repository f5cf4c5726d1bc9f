// Which rank holds what. The world of ranks is cut into pipeline stages; the ranks of a stage hold
// the same layers, cut by tensor parallelism, once for every data-parallel replica; its routed
// experts spread over all of its ranks, whatever their other role.
#pragma once

#include <cstdint>
#include <string>

namespace vernier::comm {

// Part `index` of `count` equal ones.
struct Share {
  int64_t index = 0;
  int64_t count = 1;

  bool operator==(const Share&) const = default;
};

struct Range {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
  bool holds(int64_t index) const { return index >= begin && index < end; }
  bool operator==(const Range&) const = default;
};

// The share of n things that stay together in runs of `unit`: runs as equal in number as can be,
// in order; later shares are never smaller. REQUIRES: unit divides n.
Range part_of(int64_t n, Share share, int64_t unit = 1);

// A rank's part of everything. Tensor ranks are neighbours, then data-parallel replicas, then
// stages: rank = (stage * dp + replica) * tp + tensor rank. Within a stage, expert rank e of copy c
// of the experts is rank c * ep + e.
struct Place {
  Share tensor;    // of a layer's heads and columns
  Share data;      // of the samples
  Share pipeline;  // of the layers
  Share expert;    // of a layer's routed experts
  int64_t expert_copy = 0;
};

class Layout {
 public:
  // One rank.
  Layout() = default;
  // Data parallelism takes what remains: dp = world / (tp * pp). Throws InvalidArgument naming the
  // flags when a size is not positive, tp * pp does not divide the world or ep does not divide
  // tp * dp.
  Layout(int64_t world, int64_t tp, int64_t pp, int64_t ep);

  int64_t world() const { return tp_ * pp_ * dp_; }
  int64_t tp() const { return tp_; }
  int64_t pp() const { return pp_; }
  int64_t ep() const { return ep_; }
  int64_t dp() const { return dp_; }
  // Ranks that hold the same layers.
  int64_t stage_size() const { return tp_ * dp_; }

  // REQUIRES: 0 <= rank < world().
  Place place(int64_t rank) const;

  // "16 ranks: tp 8, pp 2, ep 8, dp 1".
  std::string describe() const;

 private:
  int64_t tp_ = 1, pp_ = 1, ep_ = 1, dp_ = 1;
};

}  // namespace vernier::comm
