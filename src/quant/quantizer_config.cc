#include "quant/quantizer_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>

#include "quant/nearest.h"

namespace vernier::quant {
namespace {

constexpr std::string_view kStaticNvfp4 = "nvfp4_static";
constexpr std::string_view kFourOverSix = "nvfp4_four_over_six";

constexpr std::string_view kAvailable =
    "available are fp8_e4m3 (num_bits: e4m3, one scale a tensor) and nvfp4 (num_bits: e2m1, "
    "block_sizes: {-1: 16, type: dynamic or static, scale_bits: e4m3})";

// Exponent and mantissa bits of an element or scale; {0, bits} for an integer.
using ElementBits = std::pair<int, int>;
constexpr ElementBits kE4M3 = {4, 3};
constexpr ElementBits kE2M1 = {2, 1};

std::optional<int> digit(char letter) {
  if (letter < '0' || letter > '9') return std::nullopt;
  return letter - '0';
}

// "e4m3" in any case, or a Python tuple's text, "(4, 3)".
std::optional<ElementBits> bits_from_text(std::string_view text) {
  std::string compact;
  for (unsigned char letter : text) {
    if (letter != ' ') compact.push_back(static_cast<char>(std::tolower(letter)));
  }
  const bool is_name = compact.size() == 4 && compact[0] == 'e' && compact[2] == 'm';
  const bool is_tuple =
      compact.size() == 5 && compact[0] == '(' && compact[2] == ',' && compact[4] == ')';
  if (!is_name && !is_tuple) return std::nullopt;
  const auto exponent = digit(compact[1]);
  const auto mantissa = digit(compact[3]);
  if (!exponent || !mantissa) return std::nullopt;
  return ElementBits(*exponent, *mantissa);
}

std::optional<ElementBits> bits_from_pair(const io::Json& list) {
  if (list.size() != 2 || !list[0].is_number_integer() || !list[1].is_number_integer()) {
    return std::nullopt;
  }
  return ElementBits(list[0].get<int>(), list[1].get<int>());
}

ElementBits read_bits(const Node& node) {
  const io::Json& value = node.value();
  std::optional<ElementBits> bits;
  if (node.is_string()) bits = bits_from_text(node.string());
  if (node.is_list()) bits = bits_from_pair(value);
  if (value.is_number_integer()) bits = ElementBits(0, value.get<int>());
  if (!bits) node.fail(fmt::format("found {}, expected bits like e4m3 or [4, 3]", value.dump()));
  return *bits;
}

// "static" or "dynamic".
bool read_is_dynamic(const Node& node) {
  const std::string type = node.string();
  if (type != "static" && type != "dynamic") {
    node.fail(fmt::format("found \"{}\", expected static or dynamic", type));
  }
  return type == "dynamic";
}

struct BlockSizes {
  bool is_16_along_k = false;  // {-1: 16} and no other axis
  bool is_dynamic = false;
  bool has_e4m3_scales = false;
  bool four_over_six = false;
};

BlockSizes read_block_sizes(const Node& node) {
  constexpr std::array<std::string_view, 4> kKnown = {"-1", "type", "scale_bits", "four_over_six"};
  BlockSizes blocks;
  const Fields fields = node.fields();
  for (const auto& [key, member] : fields.all()) {
    if (key == "-1") {
      blocks.is_16_along_k = member.value() == io::Json(16);
    } else if (key == "type") {
      blocks.is_dynamic = read_is_dynamic(member);
    } else if (key == "scale_bits") {
      blocks.has_e4m3_scales = read_bits(member) == kE4M3;
    } else if (key == "four_over_six") {
      blocks.four_over_six = member.boolean();
    } else if (key == "scale_block_sizes" || key.find_first_not_of("-0123456789") == key.npos) {
      if (!member.is_null()) {
        member.fail(ErrorKind::kUnsupported,
                    fmt::format("blocks along axis {} are not available; {}", key, kAvailable));
      }
    } else {
      member.fail("unknown key" + did_you_mean(key, kKnown));
    }
  }
  return blocks;
}

// Attributes that change nothing here: the value that is accepted, and why others are not.
struct NeutralAttribute {
  std::string_view key;
  std::string_view accepted;  // as JSON; empty: any value
  std::string_view reason;
};
constexpr std::array<NeutralAttribute, 11> kNeutral = {{
    {"axis", "null", "one scale per channel is not available"},
    {"calibrator", "\"max\"", "activations are calibrated by their maximum"},
    {"bias", "null", "affine quantization is not available"},
    {"rotate", "false", "rotation is not available"},
    {"fake_quant", "true", "what is evaluated and what is exported are decided by the command"},
    {"unsigned", "false", "the formats are signed"},
    {"narrow_range", "false", "it concerns integer formats"},
    {"pass_through_bwd", "true", "gradients pass through"},
    {"backend", "null", "no other backend is available"},
    {"effective_bits", "", ""},  // the formats know their cost
    {"type", "\"static\"", "a scale per call is not available"},
}};

void check_neutral(const Node& node, const NeutralAttribute& attribute) {
  if (node.is_null() || attribute.accepted.empty()) return;
  if (node.value().dump() == attribute.accepted) return;
  node.fail(ErrorKind::kUnsupported, fmt::format("found {}: {}; expected {}", node.value().dump(),
                                                 attribute.reason, attribute.accepted));
}

float read_constant_amax(const Node& node) {
  const float amax = static_cast<float>(node.number());
  if (!(amax > 0) || !std::isfinite(amax)) {
    node.fail(fmt::format("found {}, expected a positive number", node.value().dump()));
  }
  return amax;
}

const formats::Format& registered(const Node& node, std::string_view name) {
  const formats::Format* format = formats::find_format(name);
  if (!format) {
    node.fail(ErrorKind::kUnsupported, fmt::format("the format {} is not in this build", name));
  }
  return *format;
}

QuantizerConfig from_name(const Node& cfg) {
  const std::string name = cfg.string();
  QuantizerConfig config;
  if (name == kStaticNvfp4 || name == kFourOverSix) {
    config.format = &registered(cfg, "nvfp4");
    config.is_static = true;
    config.four_over_six = name == kFourOverSix;
    return config;
  }
  config.format = formats::find_format(name);
  if (config.format == &formats::bf16_format()) {
    cfg.fail("bf16 is the absence of quantization: write enable: false");
  }
  if (!config.format) {
    std::vector<std::string_view> known;
    for (const formats::Format* format : formats::all_formats()) {
      if (format != &formats::bf16_format()) known.push_back(format->name);
    }
    known.insert(known.end(), {kStaticNvfp4, kFourOverSix});
    cfg.fail(fmt::format("unknown format \"{}\"{}; known are {}", name, did_you_mean(name, known),
                         fmt::join(known, ", ")));
  }
  return config;
}

void set_format(const Fields& fields, QuantizerConfig& config) {
  const Node* num_bits = fields.find("num_bits");
  if (!num_bits) {
    fields.self().fail(ErrorKind::kUnsupported,
                       fmt::format("without num_bits the quantizer is an 8-bit integer one, which "
                                   "is not available; {}",
                                   kAvailable));
  }
  const ElementBits bits = read_bits(*num_bits);
  const Node* block_sizes = fields.find("block_sizes");
  if (!block_sizes || block_sizes->is_null()) {
    if (bits == kE4M3) {
      config.format = &registered(*num_bits, "fp8_e4m3");
      return;
    }
  } else {
    const BlockSizes blocks = read_block_sizes(*block_sizes);
    if (bits == kE2M1 && blocks.is_16_along_k && blocks.has_e4m3_scales) {
      if (blocks.four_over_six && blocks.is_dynamic) {
        block_sizes->fail("four_over_six needs type: static, since its choice is a calibrated one");
      }
      config.format = &registered(*num_bits, "nvfp4");
      config.is_static = !blocks.is_dynamic;
      config.four_over_six = blocks.four_over_six;
      return;
    }
  }
  fields.self().fail(
      ErrorKind::kUnsupported,
      fmt::format("no format has num_bits {}{}; {}", num_bits->value().dump(),
                  block_sizes ? " with block_sizes " + block_sizes->value().dump() : "",
                  kAvailable));
}

std::vector<std::string_view> known_attributes() {
  std::vector<std::string_view> known = {"num_bits", "block_sizes", "use_constant_amax",
                                         "constant_amax"};
  for (const NeutralAttribute& attribute : kNeutral) known.push_back(attribute.key);
  return known;
}

QuantizerConfig from_attributes(const Fields& fields) {
  if (fields.find("enable")) {
    fields.find("enable")->fail("enable stands beside cfg, not inside");
  }
  fields.allow_only(known_attributes());
  for (const NeutralAttribute& attribute : kNeutral) {
    if (const Node* node = fields.find(attribute.key)) check_neutral(*node, attribute);
  }
  QuantizerConfig config;
  set_format(fields, config);
  if (const Node* node = fields.find("use_constant_amax")) {
    config.use_constant_amax = node->boolean();
  }
  if (const Node* node = fields.find("constant_amax"); node && !node->is_null()) {
    config.constant_amax = read_constant_amax(*node);
    if (config.use_constant_amax) node->fail("exclusive with use_constant_amax");
  }
  return config;
}

}  // namespace

QuantizerConfig read_quantizer_config(const Node& cfg) {
  if (cfg.is_string()) return from_name(cfg);
  if (cfg.is_list()) {
    cfg.fail(ErrorKind::kUnsupported, "several quantizers in a row are not available");
  }
  if (!cfg.is_mapping()) {
    cfg.fail(fmt::format("found {}, expected the name of a format or a mapping of attributes",
                         cfg.value().dump()));
  }
  return from_attributes(cfg.fields());
}

}  // namespace vernier::quant
