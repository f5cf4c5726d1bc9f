// Every linear runs as it would in a model that serves: input in the type of activations, rounded
// by its rule, with weights that come from memory. A decoding step reads each weight once and the
// whole network between two reads of one; a product repeated with the same weight would find it in
// the cache and look several times faster. So products take turns through copies of the weight that
// together exceed every cache. Inputs stay the same: the op before has just written them.
#include "search/gemm_times.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <span>

#include "base/error.h"
#include "base/median.h"
#include "formats/bf16.h"
#include "kernels/grouped_linear.h"
#include "kernels/linear.h"

namespace vernier::search {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// --- Data: a product of constants would draw less power and run faster.

// Standard normal values in host memory, repeated every 100,003; F32 or BF16.
Tensor random_tensor(DType dtype, int64_t rows, int64_t cols) {
  constexpr int64_t kPeriod = 100003;
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  Tensor tensor(dtype, {rows, cols});
  const int64_t n_drawn = std::min(rows * cols, kPeriod);
  for (int64_t index = 0; index < n_drawn; ++index) {
    const float value = normal(engine);
    if (dtype == DType::kF32) {
      tensor.as<float>()[static_cast<size_t>(index)] = value;
    } else {
      tensor.as<uint16_t>()[static_cast<size_t>(index)] = formats::float_to_bf16(value);
    }
  }
  const int64_t total = tensor.view().size_bytes();
  const int64_t period = n_bytes(dtype, {n_drawn});
  for (int64_t at = period; at < total; at += period) {
    std::memcpy(tensor.data() + at, tensor.data(),
                static_cast<size_t>(std::min(period, total - at)));
  }
  return tensor;
}

formats::PackedTensor copy_of(const formats::PackedTensor& weight) {
  formats::PackedTensor copy{.format = weight.format, .n = weight.n, .k = weight.k, .planes = {}};
  for (size_t role = 0; role < weight.planes.size(); ++role) {
    const Tensor& plane = weight.planes[role];
    if (plane.view().data != nullptr) copy.planes[role] = to_device(plane.view(), plane.device());
  }
  return copy;
}

// How many copies exceed the caches twice, or `least` where that is more, as far as memory allows.
int64_t copy_count(int64_t weight_bytes, int64_t least, Device* device) {
  constexpr int64_t kDeviceCacheBytes = 50 << 20;
  constexpr int64_t kHostCacheBytes = 32 << 20;
  // Where this many do not fill a cache, the product takes the time of its launch.
  constexpr int64_t kMost = 512;
  constexpr int64_t kMostBytes = int64_t{4} << 30;
  const int64_t cache_bytes = device == nullptr ? kHostCacheBytes : kDeviceCacheBytes;
  const int64_t streamed = std::min(kMost, 2 * cache_bytes / weight_bytes + 1);
  const int64_t room =
      device == nullptr ? kMostBytes : std::min(kMostBytes, device->memory().free_bytes / 2);
  return std::clamp<int64_t>(std::max(streamed, least), 1,
                             std::max<int64_t>(1, room / weight_bytes));
}

// --- Products.

// A row's products in one phase.
struct Step {
  int64_t n_together = 1;  // linears in one call
  int64_t tokens = 0;      // of each
};

Step step_of(const GemmShape& shape, int64_t step_tokens) {
  const Traffic traffic = traffic_of(shape.active_share, step_tokens);
  const double visited = static_cast<double>(shape.n_together) * traffic.visited_share;
  return {std::max<int64_t>(1, std::llround(visited)), traffic.tokens};
}

// Linears of one shape and format, each with weights of its own.
class Linears {
 public:
  Linears(const GemmShape& shape, const Candidate* candidate, int64_t least, Device* device)
      : shape_(shape), device_(device) {
    const bool is_plain = candidate == nullptr || !candidate->weight;
    const formats::Format& format = is_plain ? formats::bf16_format() : *candidate->weight->format;
    const Tensor values = to_device(random_tensor(DType::kBF16, shape.n, shape.k).view(), device);
    copies_.push_back(formats::encode_weight(format, values.view(), {}));
    const int64_t bytes = formats::packed_bytes(format, shape.n, shape.k);
    const int64_t n_copies = copy_count(bytes, least, device);
    while (std::ssize(copies_) < n_copies) copies_.push_back(copy_of(copies_.front()));
    if (candidate == nullptr || !candidate->input) return;
    constexpr float kLargestInput = 6;  // normal values stay below
    rule_ = {candidate->input->format, kLargestInput / candidate->input->format->input_divisor};
  }

  // Seconds of one of the linears in such a step.
  double seconds(const Step& step, double max_seconds) const;

 private:
  using Batch = std::vector<kernels::GroupWeight>;

  // All copies in turn, as many a batch as run together.
  std::vector<Batch> batches(int64_t n_together) const {
    std::vector<Batch> batches;
    size_t next = 0;
    while (next < copies_.size()) {
      Batch& batch = batches.emplace_back();
      while (std::ssize(batch) < n_together) {
        batch.push_back({copies_[next++ % copies_.size()].view(), rule_});
      }
    }
    return batches;
  }

  GemmShape shape_;
  Device* device_;
  std::vector<formats::PackedTensor> copies_;
  kernels::InputRule rule_;
};

// The median of a few measurements, each of as many calls as last a while: a single one is shorter
// than what starts and ends a measurement. A device's queue is not emptied between calls, as it is
// not in a step. What the host takes longer to queue than the device to compute counts with the
// host's time, as in a step that is not recorded beforehand.
double median_seconds(const std::function<void()>& call, double max_seconds, Device* device) {
  constexpr int kMeasurements = 7;
  constexpr double kSecondsEach = 0.02;
  constexpr double kMostCalls = 20000;
  constexpr double kShortest = 1e-9;  // of a clock's step
  const auto timed = [&](int64_t n_calls) {
    if (device != nullptr) device->synchronize();
    const Clock::time_point start = Clock::now();
    for (int64_t index = 0; index < n_calls; ++index) call();
    if (device != nullptr) device->synchronize();
    return seconds_since(start) / static_cast<double>(n_calls);
  };
  const auto calls_in = [&](double seconds, double seconds_each) {
    return static_cast<int64_t>(std::clamp(std::ceil(seconds / seconds_each), 1.0, kMostCalls));
  };
  timed(1);  // the first call of a shape may search a plan
  const Clock::time_point start = Clock::now();
  const double target = std::min(kSecondsEach, max_seconds / kMeasurements);
  // A single call lasts longer than it takes, with the start and end of its measurement.
  const double alone = std::max(timed(1), kShortest);
  const double among_some = std::max(timed(calls_in(target / 10, alone)), kShortest);
  const int64_t n_calls = calls_in(target, among_some);
  std::vector<double> seconds;
  do {
    seconds.push_back(timed(n_calls));
  } while (std::ssize(seconds) < kMeasurements && seconds_since(start) < max_seconds);
  return std::max(median(seconds), kShortest);
}

double Linears::seconds(const Step& step, double max_seconds) const {
  const int64_t n_rows = step.n_together * step.tokens;
  Tensor input = to_device(random_tensor(compute_dtype(device_), n_rows, shape_.k).view(), device_);
  const ConstAnyMatrixView x(input.data(), n_rows, shape_.k, shape_.k, input.dtype(), device_);
  AnyMatrix y = new_activation(n_rows, shape_.n, device_);
  std::vector<int64_t> begin;
  for (int64_t index = 0; index <= step.n_together; ++index) begin.push_back(index * step.tokens);
  const std::vector<Batch> all = batches(step.n_together);
  size_t next = 0;
  const auto call = [&] {
    const Batch& batch = all[next++ % all.size()];
    if (shape_.is_routed) {
      kernels::grouped_linear(x, begin, batch, y);
    } else {
      kernels::linear(x, batch.front().weight, batch.front().rule, y);
    }
  };
  return median_seconds(call, max_seconds, device_) / static_cast<double>(step.n_together);
}

// --- The table.

bool divides(const Candidate* candidate, int64_t k) {
  const auto fits = [&](const auto& config) {
    return !config || k % config->format->k_multiple == 0;
  };
  return candidate == nullptr || (fits(candidate->weight) && fits(candidate->input));
}

struct RowJob {
  GemmShape shape;
  const Candidate* candidate;
};

std::vector<RowJob> row_jobs(const GemmBenchJob& job) {
  const std::vector<const Candidate*> formats = distinct_formats(job.candidates);
  std::vector<RowJob> jobs;
  for (const GemmShape& shape : gemm_shapes(job.model)) {
    for (const Candidate* candidate : formats) {
      if (divides(candidate, shape.k)) jobs.push_back({shape, candidate});
    }
  }
  return jobs;
}

GemmRow measure_row(const GemmBenchJob& job, const RowJob& row) {
  const Step prefill = step_of(row.shape, job.prefill_tokens);
  const Step decode = step_of(row.shape, job.decode_tokens);
  // Experts that run together have weights of their own, lest one finds another's in the cache.
  const int64_t least = std::max(prefill.n_together, decode.n_together);
  const Linears linears(row.shape, row.candidate, least, job.device);
  return {.weight_format = weight_format_name(row.candidate),
          .input_format = input_format_name(row.candidate),
          .n = row.shape.n,
          .k = row.shape.k,
          .is_routed = row.shape.is_routed,
          .prefill_tokens = prefill.tokens,
          .decode_tokens = decode.tokens,
          .prefill_seconds = linears.seconds(prefill, job.max_seconds / 2),
          .decode_seconds = linears.seconds(decode, job.max_seconds / 2)};
}

}  // namespace

std::vector<GemmShape> gemm_shapes(const model::Model& model) {
  const std::vector<ModuleGroup> groups = make_groups(model.tree());
  const double share = routed_share(model, groups);
  std::vector<GemmShape> shapes;
  for (const ModuleGroup& group : groups) {
    const double active_share = group.is_routed ? share : 1;
    for (const LinearShape& linear : shapes_of(group, active_share)) {
      const auto same = std::ranges::find_if(shapes, [&](const GemmShape& shape) {
        return shape.n == linear.n && shape.k == linear.k && shape.is_routed == group.is_routed;
      });
      if (same != shapes.end()) {
        same->count += linear.count;
      } else {
        shapes.push_back({linear.n, linear.k, group.is_routed, linear.count,
                          group.is_routed ? linear.count : 1, active_share});
      }
    }
  }
  return shapes;
}

std::vector<const Candidate*> distinct_formats(const std::vector<const Candidate*>& candidates) {
  std::vector<const Candidate*> distinct = {nullptr};
  for (const Candidate* candidate : candidates) {
    const bool is_known = std::ranges::any_of(distinct, [&](const Candidate* other) {
      return weight_format_name(other) == weight_format_name(candidate) &&
             input_format_name(other) == input_format_name(candidate);
    });
    if (!is_known) distinct.push_back(candidate);
  }
  return distinct;
}

GemmTable measure_gemm_table(const GemmBenchJob& job) {
  GemmTable table{.device = job.device_name,
                  .prefill_tokens = job.prefill_tokens,
                  .decode_tokens = job.decode_tokens,
                  .rows = {}};
  const std::vector<RowJob> rows = row_jobs(job);
  for (const RowJob& row : rows) {
    const std::string what = fmt::format("{} x {} in {}", row.shape.n, row.shape.k,
                                         row.candidate ? row.candidate->name : "bf16");
    if (job.progress != nullptr) {
      job.progress->update({.label = "measuring linears, " + what,
                            .done = std::ssize(table.rows),
                            .total = std::ssize(rows),
                            .rate_unit = "products"});
    }
    table.rows.push_back(
        with_context("measuring a linear of " + what, [&] { return measure_row(job, row); }));
  }
  return table;
}

}  // namespace vernier::search
