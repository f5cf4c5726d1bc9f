#include "calib/quantize_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "base/error.h"
#include "calib/rank_duties.h"
#include "calib/rank_statistics.h"
#include "calib/shared_journal.h"
#include "io/json.h"
#include "model/stage.h"
#include "runtime/head.h"

namespace vernier::calib {
namespace {

constexpr int kOutsideStack = -1;

bool is_floating(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

std::string journal_key(int layer) {
  return layer == kOutsideStack ? "outside" : fmt::format("layer {}", layer);
}

// Those of a stage's layers, and of what lies outside of the stack.
std::vector<std::string> journal_keys(comm::Range layers) {
  std::vector<std::string> keys = {journal_key(kOutsideStack)};
  for (int64_t layer = layers.begin; layer < layers.end; ++layer) {
    keys.push_back(journal_key(static_cast<int>(layer)));
  }
  return keys;
}

// Of one layer, from the ranks that packed parts of it; modules in the network's order.
LayerReport merge_reports(const std::vector<std::string>& parts,
                          const std::vector<const model::Module*>& modules) {
  LayerReport merged = layer_report_from_json(io::parse_json(parts.front(), "a report"));
  std::map<std::string, ModuleReport> by_name;
  for (const std::string& part : parts) {
    for (ModuleReport& report : layer_report_from_json(io::parse_json(part, "a report")).modules) {
      by_name.emplace(report.name, std::move(report));
    }
  }
  merged.modules.clear();
  for (const model::Module* module : modules) {
    const auto found = by_name.find(module->name);
    if (found != by_name.end()) merged.modules.push_back(std::move(found->second));
  }
  return merged;
}

class Quantization : public runtime::LayerVisitor {
 public:
  explicit Quantization(const QuantizeJob& job)
      : job_(job),
        ranks_(job.model.ranks()),
        layers_(model::layers_here(job.model)),
        observer_(job.plan, job.all_experts_ratio),
        journal_(job.journal, ranks_.stage(), journal_keys(layers_)) {}

  QuantizeReport run() {
    if (needs_forward_pass()) {
      calibrate();
    } else {
      quantize_all_layers();
    }
    if (ranks_.is_last_stage()) finish_layer(kOutsideStack);
    pass_through();
    finish_sinks();
    if (ranks_.world().size() > 1) gather_report();
    return std::move(report_);
  }

  void on_layer_done(int layer) override { finish_layer(layer); }

 private:
  int n_layers() const { return static_cast<int>(job_.model.tree().layers().size()); }
  // Of this rank's stage.
  int first_layer() const { return static_cast<int>(layers_.begin); }
  int end_layer() const { return static_cast<int>(layers_.end); }
  std::vector<const model::Module*> modules_of(int layer) const {
    return job_.model.tree().modules_of(layer);
  }
  // Where a module's whole weight is encoded.
  const model::WeightSource& encoding_weights(const model::Module& module) const {
    const bool is_whole = !module.tensors.front().cut.is_cut();
    return is_whole || job_.whole_weights == nullptr ? job_.weights : *job_.whole_weights;
  }

  // What an earlier run did with a layer; null when it did not finish it.
  const io::Json* recorded(int layer) const { return journal_.find(journal_key(layer)); }

  // Without calibration a device has nothing to do but to encode: the next layer is on its way.
  void quantize_all_layers() {
    for (int layer = first_layer(); layer < end_layer(); ++layer) {
      if (job_.weights.device() != nullptr) will_quantize(layer + 1);
      finish_layer(layer);
    }
  }

  void will_quantize(int layer) const {
    if (layer == end_layer() || recorded(layer) != nullptr) return;
    for (const model::Module* module : modules_to_pack(job_.model.tree(), layer, ranks_)) {
      if (is_quantized(*module)) encoding_weights(*module).will_need(*module);
    }
  }

  bool is_quantized(const model::Module& module) const {
    return module.has_matrix() && job_.plan.site(module).is_quantized();
  }

  bool head_needs_amax() const { return job_.plan.site(job_.model.head()).needs_input_amax(); }

  // Hidden states are not kept between runs: a resumed calibration computes them again, unless
  // nothing that is left to do on any rank depends on them.
  bool needs_forward_pass() const {
    if (!job_.plan.needs_calibration()) return false;
    int64_t n_missing = 0;
    for (int layer = first_layer(); layer < end_layer(); ++layer) {
      n_missing += recorded(layer) == nullptr;
    }
    if (ranks_.is_last_stage() && head_needs_amax()) {
      n_missing += recorded(kOutsideStack) == nullptr;
    }
    ranks_.world().sum(std::span(&n_missing, 1));
    return n_missing > 0;
  }

  void calibrate() {
    runtime::StreamOptions options = job_.stream;
    options.hook = &observer_;
    options.visitor = this;
    options.progress = job_.progress;
    options.phases = job_.phases;
    options.label = "calibrating";
    const runtime::HiddenStore hidden =
        runtime::stream_layers(job_.model, job_.weights, job_.windows, options);
    if (!head_needs_amax() || !ranks_.is_last_stage()) return;
    runtime::visit_head_inputs(job_.model, job_.weights, hidden, [&](ConstAnyMatrixView normed) {
      observer_.on_input(job_.model.head(), normed);
    });
  }

  // Quantizes and writes one layer's modules and makes them durable; a layer that an earlier run
  // finished is only read back from the journal.
  void finish_layer(int layer) {
    if (const io::Json* record = recorded(layer)) {
      report_.layers.push_back(layer_report_from_json(*record));
      return;
    }
    LayerReport report = write_layer(layer);
    {
      const PhaseTimer timer(job_.phases, "sync");
      for (quant::QuantizedSink* sink : job_.sinks) sink->sync();
      journal_.append(journal_key(layer), to_json(report));
    }
    report_.layers.push_back(std::move(report));
    show_progress(layer);
  }

  LayerReport write_layer(int layer) {
    const LayerStatistics statistics =
        statistics_of_ranks(observer_.layer(layer), job_.model.tree(), layer, ranks_.stage());
    const bool share_experts = job_.all_experts_ratio <= 0;
    const auto input_amax = resolve_input_amax(job_.plan, layer, statistics, share_experts);

    LayerReport report{layer, {}, {}, statistics.expert_tokens};
    const std::vector<const model::Module*> modules = modules_of(layer);
    for (const model::Module* module : modules_to_pack(job_.model.tree(), layer, ranks_)) {
      if (is_quantized(*module)) {
        report.modules.push_back(quantize(job_.plan.site(*module), input_amax));
      } else {
        for (const model::TensorSpec& spec : module->tensors) copy(spec.name);
      }
      encoding_weights(*module).done_with(*module);
    }
    for (const model::Module* module : modules) job_.weights.done_with(*module);
    if (ranks_.stage().rank() == 0) {
      for (const quant::KvPlan& kv : job_.plan.kv) {
        if (kv.site->layer != layer || kv.format == nullptr || kv.is_cast) continue;
        report.kv.push_back(write_kv(*kv.site, statistics));
      }
    }
    if (ranks_.stage().size() == 1) return report;
    const std::vector<std::string> parts = ranks_.stage().gather(io::dump_json(to_json(report)), 0);
    return parts.empty() ? report : merge_reports(parts, modules);
  }

  ModuleReport quantize(const quant::SitePlan& site,
                        const std::map<const model::Module*, InputAmax>& input_amax) {
    const model::Module& module = *site.module;
    const std::string& name = module.tensors.front().name;
    const SourceWeight source = source_weight(module);
    const auto [packed, distortion, amax] = encode(site, name, source.tensor);
    write_weight(module, packed);
    for (size_t index = 1; index < module.tensors.size(); ++index) {
      copy(module.tensors[index].name);
    }
    ModuleReport report{.name = module.name,
                        .weight = std::string(site.weight_format->name),
                        .signal = distortion.signal,
                        .noise = distortion.noise,
                        .n_weights = module.n * module.k,
                        .n_saturated = distortion.n_saturated,
                        .n_flushed = distortion.n_flushed,
                        .is_all_zero = amax == 0};
    if (site.input_format == nullptr) return report;
    const InputAmax& input = input_amax.at(&module);
    for (quant::QuantizedSink* sink : job_.sinks) sink->write_input_amax(module, input.amax);
    report.input = site.input_format->name;
    report.input_amax = input.amax;
    report.amax_source = input.source;
    return report;
  }

  struct Encoded {
    formats::PackedTensor packed;
    formats::Distortion distortion;
    float amax;
  };
  Encoded encode(const quant::SitePlan& site, const std::string& name, const TensorView& weight) {
    const PhaseTimer timer(job_.phases, "encode");
    const float amax = std::max(finite_amax(name, weight), fused_amax(site));
    formats::PackedTensor packed = formats::encode_weight(*site.weight_format, weight,
                                                          {site.scale_rule, job_.arithmetic, amax});
    const formats::Distortion distortion = formats::measure_distortion(weight, packed.view());
    return {std::move(packed), distortion, amax};
  }

  // A module's weight as the source stores it: on the device that encodes it, or in a mapped file.
  struct SourceWeight {
    TensorView tensor;
    model::LinearWeight owner;
  };
  // Devices encode BF16; other types are rounded to it on the host.
  SourceWeight source_weight(const model::Module& module) const {
    const TensorView tensor = job_.checkpoint.tensor(module.tensors.front().name);
    const model::WeightSource& weights = encoding_weights(module);
    if (weights.device() == nullptr || tensor.dtype != DType::kBF16) return {tensor, {}};
    const model::LinearWeight there = weights.linear(module);
    return {there.packed.plane(formats::PlaneRole::kCodes), there};
  }

  void write_weight(const model::Module& module, const formats::PackedTensor& packed) {
    if (packed.view().device() == nullptr) return write_weight(module, packed.view());
    write_weight(module, download(packed.view()).view());
  }
  formats::PackedTensor download(const formats::PackedView& packed) {
    const PhaseTimer timer(job_.phases, "download");
    return formats::to_host(packed);
  }
  void write_weight(const model::Module& module, const formats::PackedView& packed) {
    const PhaseTimer timer(job_.phases, "write");
    for (quant::QuantizedSink* sink : job_.sinks) sink->write_weight(module, packed);
  }

  KvReport write_kv(const model::AttentionSite& site, const LayerStatistics& statistics) {
    const auto found = statistics.kv_amax.find(&site);
    const KvAmax seen = found == statistics.kv_amax.end() ? KvAmax() : found->second;
    const KvReport report{site.name, resolve_kv_amax(seen.k), resolve_kv_amax(seen.v)};
    for (quant::QuantizedSink* sink : job_.sinks) {
      sink->write_kv_amax(site, report.k.amax, report.v.amax);
    }
    return report;
  }

  // The largest |w| among the linears that a serving kernel fuses with this one; 0 for none.
  float fused_amax(const quant::SitePlan& site) {
    const std::string& group = site.module->fusion_group;
    if (group.empty() || !shares_scales_when_fused(*site.weight_format)) return 0;
    const auto known = fused_amax_.find(group);
    if (known != fused_amax_.end()) return known->second;
    float amax = 0;
    for (const model::Module* member : modules_of(site.module->layer)) {
      if (member->fusion_group != group) continue;
      const std::string& name = member->tensors.front().name;
      amax = std::max(amax, finite_amax(name, source_weight(*member).tensor));
    }
    return fused_amax_[group] = amax;
  }

  // Throws naming the first value that is not finite.
  float finite_amax(const std::string& name, const TensorView& tensor) const {
    const formats::AmaxScan scan = formats::scan_amax(tensor);
    if (!scan.first_non_finite) return scan.amax;
    throw Error(ErrorKind::kCorrupt,
                fmt::format("{}: tensor {}: the value at index {} is not finite, expected every "
                            "weight to be finite",
                            job_.checkpoint.file_of(name).string(), name, *scan.first_non_finite));
  }

  // A tensor of the network that stays as it is.
  void copy(const std::string& name) {
    const PhaseTimer timer(job_.phases, "copy");
    const TensorView tensor = job_.checkpoint.tensor(name);
    if (is_floating(tensor.dtype)) finite_amax(name, tensor);
    for (quant::QuantizedSink* sink : job_.sinks) sink->copy_tensor(name, tensor);
  }

  // Tensors that no module owns (multi-token prediction layers above all) are copied unseen, by all
  // ranks in turn.
  void pass_through() {
    const PhaseTimer timer(job_.phases, "copy");
    const comm::Communicator& world = ranks_.world();
    int64_t turn = 0;
    for (const std::string& name : job_.checkpoint.names()) {
      if (job_.model.tree().owner_of(name) != nullptr) continue;
      report_.passed_through.push_back(name);
      if (turn++ % world.size() != world.rank()) continue;
      for (quant::QuantizedSink* sink : job_.sinks) {
        sink->copy_tensor(name, job_.checkpoint.tensor(name));
      }
    }
  }

  // What others wrote is complete when they have come here.
  void finish_sinks() {
    const comm::Communicator& world = ranks_.world();
    if (world.size() > 1) {
      for (quant::QuantizedSink* sink : job_.sinks) sink->sync();
      world.barrier();
    }
    if (world.rank() > 0) return;
    for (quant::QuantizedSink* sink : job_.sinks) sink->finish();
  }

  // The layers of all stages, on the first rank, in the network's order.
  void gather_report() {
    io::Json own = io::Json::array();
    if (ranks_.stage().rank() == 0) {
      for (const LayerReport& layer : report_.layers) own.push_back(to_json(layer));
    }
    const std::vector<std::string> parts = ranks_.world().gather(io::dump_json(own), 0);
    report_.layers.clear();
    for (const std::string& part : parts) {
      for (const io::Json& layer : io::parse_json(part, "a report")) {
        report_.layers.push_back(layer_report_from_json(layer));
      }
    }
  }

  // Calibration shows its own.
  void show_progress(int layer) {
    if (job_.progress == nullptr || job_.plan.needs_calibration()) return;
    const int n_done = layer == kOutsideStack ? n_layers() + 1 : layer + 1;
    job_.progress->update({"quantizing", n_done, n_layers() + 1, "layers"});
  }

  const QuantizeJob& job_;
  const comm::Ranks& ranks_;
  comm::Range layers_;
  AmaxObserver observer_;
  SharedJournal journal_;
  std::map<std::string, float> fused_amax_;
  QuantizeReport report_;
};

}  // namespace

QuantizeReport quantize_model(const QuantizeJob& job) { return Quantization(job).run(); }

}  // namespace vernier::calib
