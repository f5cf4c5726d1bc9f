#include "cli/quantize_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "quant/coverage.h"
#include "report/table.h"
#include "report/units.h"

namespace vernier::cli {
namespace {

using report::Align;

// Rough speeds of two cores, for estimates only: products in FLOP/s, encoding in bytes/s of BF16.
constexpr double kFlopsPerSecond = 80e9;
constexpr double kEncodeBytesPerSecond = 2e9;

int64_t output_bytes(const quant::QuantPlan& plan, const io::Checkpoint& checkpoint) {
  int64_t bytes = 0;
  for (const std::string& name : checkpoint.names()) bytes += checkpoint.tensor(name).size_bytes();
  for (const quant::SitePlan& site : plan.sites) {
    if (!site.is_quantized()) continue;
    const model::Module& module = *site.module;
    bytes += formats::packed_bytes(*site.weight_format, module.n, module.k) -
             checkpoint.tensor(module.tensors.front().name).size_bytes();
  }
  return bytes;
}

// Names of many layers and experts as one short glob: "backbone.layers.3.mixer.experts.17.up_proj"
// and "backbone.layers.{0,2-4}.mixer.experts.*.up_proj" -> "*.mixer.experts.*.up_proj".
std::string family_of(const std::string& module) {
  std::string family;
  for (size_t start = 0; start <= module.size();) {
    const size_t end = std::min(module.find('.', start), module.size());
    const std::string part = module.substr(start, end - start);
    const bool is_index = part.find_first_not_of("0123456789{},-") == std::string::npos;
    family += (start == 0 ? "" : ".") + (is_index ? "*" : part);
    start = end + 1;
  }
  const std::string root = "backbone.layers.*.";
  return family.rfind(root, 0) == 0 ? "*." + family.substr(root.size()) : family;
}

struct Family {
  std::string formats;
  int64_t n_modules = 0, n_weights = 0, n_saturated = 0, n_flushed = 0;
  double signal = 0, noise = 0;
};

std::string snr_text(double signal, double noise) {
  return noise > 0 ? fmt::format("{:.2f}", formats::Distortion{signal, noise, 0, 0}.snr_db())
                   : "exact";
}

std::string formats_of(const calib::ModuleReport& module) {
  return module.input.empty() ? module.weight : module.weight + " / " + module.input;
}

std::string share(int64_t part, int64_t whole) {
  return part == 0 ? "0"
                   : fmt::format("{:.2g} %",
                                 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

std::vector<const calib::ModuleReport*> all_modules(const calib::QuantizeReport& report) {
  std::vector<const calib::ModuleReport*> modules;
  for (const calib::LayerReport& layer : report.layers) {
    for (const calib::ModuleReport& module : layer.modules) modules.push_back(&module);
  }
  return modules;
}

std::string family_table(const std::vector<const calib::ModuleReport*>& modules, int width) {
  std::vector<std::pair<std::string, Family>> families;
  for (const calib::ModuleReport* module : modules) {
    const std::string name = family_of(module->name);
    const std::string formats = formats_of(*module);
    auto found = std::find_if(families.begin(), families.end(), [&](const auto& family) {
      return family.first == name && family.second.formats == formats;
    });
    if (found == families.end()) {
      families.push_back({name, {}});
      found = std::prev(families.end());
      found->second.formats = formats;
    }
    Family& family = found->second;
    ++family.n_modules;
    family.n_weights += module->n_weights;
    family.n_saturated += module->n_saturated;
    family.n_flushed += module->n_flushed;
    family.signal += module->signal;
    family.noise += module->noise;
  }
  std::vector<std::vector<std::string>> rows;
  for (const auto& [name, family] : families) {
    rows.push_back({name, fmt::format("{}", family.n_modules), family.formats,
                    snr_text(family.signal, family.noise),
                    share(family.n_saturated, family.n_weights),
                    share(family.n_flushed, family.n_weights)});
  }
  return report::format_table({{"quantized", Align::kLeft, true},
                               {"modules"},
                               {"weight / input", Align::kLeft},
                               {"SNR dB"},
                               {"satur."},
                               {"flushed"}},
                              rows, width);
}

std::string worst_modules(std::vector<const calib::ModuleReport*> modules) {
  constexpr size_t kShown = 3;
  std::sort(modules.begin(), modules.end(), [](const auto* left, const auto* right) {
    return left->noise * right->signal > right->noise * left->signal;
  });
  std::string text = "lowest SNR:";
  for (size_t index = 0; index < std::min(kShown, modules.size()); ++index) {
    text += fmt::format("\n  {} {} dB", modules[index]->name,
                        snr_text(modules[index]->signal, modules[index]->noise));
  }
  return text + "\n";
}

std::string expert_notes(const calib::QuantizeReport& report) {
  int64_t n_experts = 0, n_unseen = 0, fewest = -1, most = 0;
  for (const calib::LayerReport& layer : report.layers) {
    for (int64_t tokens : layer.expert_tokens) {
      ++n_experts;
      n_unseen += tokens == 0;
      fewest = fewest < 0 ? tokens : std::min(fewest, tokens);
      most = std::max(most, tokens);
    }
  }
  if (n_experts == 0) return "";
  return fmt::format("experts: {} in all, {} to {} calibration tokens each, {} saw none\n",
                     report::format_count(n_experts), report::format_count(fewest),
                     report::format_count(most), n_unseen);
}

std::string scale_notes(const calib::QuantizeReport& report,
                        const std::vector<const calib::ModuleReport*>& modules) {
  std::map<calib::AmaxSource, std::vector<std::string>> by_source;
  std::string text;
  for (const calib::ModuleReport* module : modules) {
    if (!module->input.empty()) by_source[module->amax_source].push_back(module->name);
    if (module->is_all_zero) {
      text += fmt::format("note: {} is zero everywhere, stored with scale 1\n", module->name);
    }
  }
  const auto list = [&](calib::AmaxSource source, const char* what) {
    const std::vector<std::string>& names = by_source[source];
    if (names.empty()) return;
    text += fmt::format("note: {} input scales {}: {}{}\n", names.size(), what, names.front(),
                        names.size() > 1 ? ", ..." : "");
  };
  for (const calib::LayerReport& layer : report.layers) {
    for (const calib::KvReport& kv : layer.kv) {
      const bool is_defaulted =
          kv.k.source == calib::AmaxSource::kDefault || kv.v.source == calib::AmaxSource::kDefault;
      if (is_defaulted) {
        text += fmt::format("note: the KV scales of {} defaulted, nothing was observed\n", kv.name);
      }
    }
  }
  list(calib::AmaxSource::kOtherExperts, "taken from the layer's other experts");
  list(calib::AmaxSource::kDefault, "defaulted, nothing was observed");
  return text;
}

}  // namespace

std::string coverage_tables(const quant::QuantPlan& plan, const model::ModuleTree& tree,
                            int width) {
  std::vector<std::vector<std::string>> rows;
  for (const quant::CoverageRow& row : quant::coverage(plan, tree)) {
    // Where a rule comes from stands in the table of rules.
    rows.push_back({family_of(row.modules), report::format_count(row.count),
                    row.input == "-" ? row.weight : row.weight + " / " + row.input,
                    row.rule.substr(0, row.rule.find(" in "))});
  }
  std::string text = report::format_table({{"module", Align::kLeft, true},
                                           {"count"},
                                           {"weight / input", Align::kLeft},
                                           {"decided by", Align::kLeft, true}},
                                          rows, width);
  std::vector<std::vector<std::string>> rule_rows;
  for (const quant::RuleRow& row : quant::rule_rows(plan)) {
    const std::filesystem::path origin(row.origin);
    rule_rows.push_back({row.pattern, row.action, report::format_count(row.matched),
                         report::format_count(row.decided), origin.stem().string()});
  }
  text += "\n" + report::format_table({{"rule", Align::kLeft, true},
                                       {"does", Align::kLeft},
                                       {"matches"},
                                       {"decides"},
                                       {"from", Align::kLeft, true}},
                                      rule_rows, width);
  for (const model::Module* module : plan.left_unquantized) {
    text += fmt::format("note: {} stays in BF16: its k = {} does not fit the format\n",
                        module->name, module->k);
  }
  return text;
}

// By runtime::HiddenPlacement.
constexpr const char* kPlacementNames[] = {"memory", "a file", "device memory"};

std::string device_summary(const runtime::DevicePlan& device) {
  if (device.total_bytes == 0) return "";
  return fmt::format(
      "      device memory {}: weights {}, hidden states {}, states {}, work {}\n",
      report::format_bytes(device.total_bytes), report::format_bytes(device.weight_bytes),
      report::format_bytes(device.hidden_bytes), report::format_bytes(device.state_bytes),
      report::format_bytes(device.scratch_bytes));
}

std::string plan_summary(const quant::QuantPlan& plan, const runtime::MemoryPlan& memory,
                         const io::Checkpoint& checkpoint, const runtime::Windows& windows) {
  const int64_t output = output_bytes(plan, checkpoint);
  const double seconds = static_cast<double>(memory.forward_flops) / kFlopsPerSecond +
                         static_cast<double>(checkpoint.file_bytes()) / kEncodeBytesPerSecond;
  std::string text =
      fmt::format("plan: {:.2f} bits per weight; reads {}, writes {}\n", plan.bits_per_weight(),
                  report::format_bytes(checkpoint.file_bytes()), report::format_bytes(output));
  if (windows.empty()) {
    text += "      no calibration needed\n";
  } else {
    text += fmt::format("      calibrates on {} sequences, {} tokens, {} sequences at a time\n",
                        windows.size(), report::format_count(runtime::n_tokens(windows)),
                        memory.batch_windows);
    text += fmt::format("      hidden states {} in {}, states {}\n",
                        report::format_bytes(memory.hidden_bytes),
                        kPlacementNames[static_cast<size_t>(memory.placement)],
                        report::format_bytes(memory.state_bytes));
  }
  return text + device_summary(memory.device) +
         fmt::format(
             "      allocates about {}; largest layer {} (mapped); about {} on two "
             "cores\n",
             report::format_bytes(memory.anonymous_bytes),
             report::format_bytes(memory.largest_layer_bytes), report::format_duration(seconds));
}

std::string layout_summary(const runtime::LayoutPlan& plan) {
  const runtime::LayoutSeconds& seconds = plan.seconds;
  return fmt::format(
      "      a rank: device memory {}, loads {}, writes {}\n"
      "      over its wire: tensor sums {}, experts {}, stages {}\n"
      "      on H100s about {}: compute {}, wire {}, weights {}, packing {}\n",
      report::format_bytes(plan.memory.total_bytes), report::format_bytes(plan.loaded_bytes),
      report::format_bytes(plan.written_bytes), report::format_bytes(plan.wire.tensor_sums),
      report::format_bytes(plan.wire.expert_exchange),
      report::format_bytes(plan.wire.stage_to_stage), report::format_duration(seconds.total()),
      report::format_duration(seconds.compute + seconds.fill),
      report::format_duration(seconds.tensor_sums + seconds.expert_exchange +
                              seconds.stage_to_stage),
      report::format_duration(seconds.wait),
      report::format_duration(seconds.encode + seconds.write));
}

std::string time_summary(double seconds, const PhaseTimes& phases, const Device* device) {
  constexpr size_t kLineWidth = 80;
  std::string text = fmt::format("took {}", report::format_duration(seconds));
  std::string line = "     ";
  for (const auto& [phase, part] : phases.phases()) {
    const std::string item = fmt::format(" {} {},", phase, report::format_duration(part));
    if (line.size() + item.size() > kLineWidth) {
      text += "\n" + line;
      line = "     ";
    }
    line += item;
  }
  text += "\n" + line;
  text.pop_back();
  if (device != nullptr) {
    text += fmt::format("\n{}: {} of device memory at the peak", device->name(),
                        report::format_bytes(device->memory().peak_bytes));
  }
  return text;
}

std::string report_tables(const calib::QuantizeReport& report, int width) {
  const std::vector<const calib::ModuleReport*> modules = all_modules(report);
  if (modules.empty()) return "no weight was quantized\n";
  std::string text = family_table(modules, width) + worst_modules(modules) + expert_notes(report) +
                     scale_notes(report, modules);
  if (!report.passed_through.empty()) {
    text += fmt::format("passed through untouched: {} tensors ({}, ...)\n",
                        report.passed_through.size(), report.passed_through.front());
  }
  return text;
}

std::string plan_fingerprint(const quant::QuantPlan& plan) {
  std::string text;
  for (const quant::SitePlan& site : plan.sites) {
    const formats::ScaleRule& rule = site.scale_rule;
    text += fmt::format("{} {} {} {} {} {} {} {} {} {}\n", site.module->name,
                        site.weight_format->name, static_cast<int>(rule.method), rule.is_static,
                        rule.four_over_six, rule.start, rule.stop, rule.step,
                        site.input_format == nullptr ? "-" : site.input_format->name,
                        site.constant_input_amax.value_or(0));
  }
  for (const quant::KvPlan& kv : plan.kv) {
    text += fmt::format("{} {} {}\n", kv.site->name, kv.format == nullptr ? "-" : kv.format->name,
                        kv.is_cast);
  }
  return text;
}

}  // namespace vernier::cli
