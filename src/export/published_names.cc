#include "export/published_names.h"

#include <fmt/format.h>

#include "base/error.h"

namespace vernier::exporting {
namespace {

// The weight-only FP8 row shares its name with the full one: the published format has no other word
// for it, and servers then ask for an input_scale that is not there (verify_checkpoint reports it).
constexpr PublishedAlgorithm kAlgorithms[] = {
    {"FP8", "fp8_e4m3", "fp8_e4m3", 8, 0},
    {"FP8", "fp8_e4m3", "", 8, 0},
    {"NVFP4", "nvfp4", "nvfp4", 4, 16},
    {"W4A16_NVFP4", "nvfp4", "", 4, 16},
};

struct PublishedKv {
  std::string_view name;
  std::string_view format;
};
constexpr PublishedKv kKvNames[] = {{"FP8", "fp8_e4m3"}, {"NVFP4", "nvfp4"}};

}  // namespace

std::span<const PublishedAlgorithm> published_algorithms() { return kAlgorithms; }

const PublishedAlgorithm& published_algorithm(const formats::Format& weight,
                                              const formats::Format* input) {
  const std::string_view input_name = input == nullptr ? "" : input->name;
  for (const PublishedAlgorithm& row : kAlgorithms) {
    if (row.weight_format == weight.name && row.input_format == input_name) return row;
  }
  throw Error(ErrorKind::kUnsupported,
              fmt::format("weights in {} with inputs in {}: a published checkpoint has no name for "
                          "this pair of formats",
                          weight.name, input == nullptr ? "full precision" : input_name));
}

const PublishedAlgorithm* find_published(std::string_view name) {
  for (const PublishedAlgorithm& row : kAlgorithms) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

std::string_view published_kv_name(const formats::Format& format) {
  for (const PublishedKv& row : kKvNames) {
    if (row.format == format.name) return row.name;
  }
  throw Error(
      ErrorKind::kUnsupported,
      fmt::format("a KV cache in {}: a published checkpoint has no name for it", format.name));
}

const formats::Format* find_published_kv(std::string_view name) {
  for (const PublishedKv& row : kKvNames) {
    if (row.name == name) return formats::find_format(row.format);
  }
  return nullptr;
}

}  // namespace vernier::exporting
