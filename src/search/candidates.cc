#include "search/candidates.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace vernier::search {
namespace {

using quant::Algorithm;
using quant::AlgorithmMethod;
using quant::QuantizerConfig;

constexpr Algorithm kSweep = {.method = AlgorithmMethod::kMse, .fp8_scale_sweep = true};
// A block's largest value at 6 or at 4, whichever has less squared error.
constexpr Algorithm kFourOverSix = {
    .method = AlgorithmMethod::kMse, .start = 1.0f, .stop = 1.5f, .step = 0.5f};

const formats::Format* format(std::string_view name) { return formats::find_format(name); }

const std::vector<Candidate>& table() {
  static const std::vector<Candidate> kTable = [] {
    const formats::Format* fp8 = format("fp8_e4m3");
    const formats::Format* nvfp4 = format("nvfp4");
    const QuantizerConfig dynamic{.format = nvfp4};
    const double nvfp4_bits = nvfp4->bits_per_weight;
    return std::vector<Candidate>{
        {"bf16", "left as it is", formats::bf16_format().bits_per_weight, "", "", "", {}, {}},
        {"fp8", "E4M3 weights and inputs, one scale a tensor", fp8->bits_per_weight, "fp8_e4m3",
         "fp8_e4m3", "max", QuantizerConfig{.format = fp8, .algorithm = Algorithm()},
         QuantizerConfig{.format = fp8}},
        {"nvfp4", "NVFP4 weights and inputs, block scales from the largest value", nvfp4_bits,
         "nvfp4", "nvfp4", "max", QuantizerConfig{.format = nvfp4, .algorithm = Algorithm()},
         dynamic},
        {"nvfp4_sweep", "NVFP4, weights' block scales swept for least squared error", nvfp4_bits,
         "nvfp4_static", "nvfp4", "{method: mse, fp8_scale_sweep: true}",
         QuantizerConfig{.format = nvfp4, .is_static = true, .algorithm = kSweep}, dynamic},
        {"nvfp4_four_over_six", "NVFP4, weight blocks end at 6 or at 4", nvfp4_bits,
         "nvfp4_four_over_six", "nvfp4",
         "{method: mse, start_multiplier: 1.0, stop_multiplier: 1.5, step_size: 0.5}",
         QuantizerConfig{
             .format = nvfp4, .is_static = true, .four_over_six = true, .algorithm = kFourOverSix},
         dynamic},
        {"w4a16_nvfp4",
         "NVFP4 weights with swept scales, inputs left as they are",
         nvfp4_bits,
         "nvfp4_static",
         "",
         "{method: mse, fp8_scale_sweep: true}",
         QuantizerConfig{.format = nvfp4, .is_static = true, .algorithm = kSweep},
         {}},
    };
  }();
  return kTable;
}

std::string known_names() {
  std::string names;
  for (const Candidate& candidate : table()) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", candidate.name);
  }
  return names;
}

quant::Rule rule(std::string pattern, const std::optional<QuantizerConfig>& config) {
  quant::Rule rule;
  rule.pattern = std::move(pattern);
  rule.enable = config.has_value();
  rule.config = config;
  rule.origin = "the search's candidates";
  return rule;
}

}  // namespace

std::span<const Candidate> all_candidates() { return table(); }

const Candidate& find_candidate(std::string_view name) {
  const auto found =
      std::ranges::find_if(table(), [&](const Candidate& row) { return row.name == name; });
  if (found != table().end()) return *found;
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("unknown candidate \"{}\", expected one of {}", name, known_names()));
}

std::vector<const Candidate*> parse_candidates(std::string_view names) {
  std::vector<const Candidate*> candidates;
  while (!names.empty()) {
    const size_t comma = std::min(names.find(','), names.size());
    const Candidate& candidate = find_candidate(names.substr(0, comma));
    if (std::ranges::find(candidates, &candidate) != candidates.end()) {
      throw Error(ErrorKind::kInvalidArgument,
                  fmt::format("the candidate \"{}\" is given twice", candidate.name));
    }
    candidates.push_back(&candidate);
    names.remove_prefix(std::min(comma + 1, names.size()));
  }
  return candidates;
}

quant::Recipe uniform_recipe(const Candidate& candidate) {
  quant::Recipe recipe;
  recipe.name = candidate.name;
  if (!candidate.is_quantized()) return recipe;
  recipe.rules.push_back(rule("*weight_quantizer", candidate.weight));
  if (candidate.input) recipe.rules.push_back(rule("*input_quantizer", candidate.input));
  recipe.rules.push_back(rule("*conv1d*", {}));
  quant::Rule embeddings = rule("*", {});
  embeddings.parent_class = "nn.Embedding";
  recipe.rules.push_back(embeddings);
  return recipe;
}

}  // namespace vernier::search
