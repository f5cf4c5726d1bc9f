// How a published checkpoint spells our formats: one row per pair of weight and input format.
// Adding a format to the export means adding a row here (docs/howto/add_format.md).
#pragma once

#include <span>
#include <string_view>

#include "formats/format.h"

namespace vernier::exporting {

struct PublishedAlgorithm {
  std::string_view name;           // quant_algo
  std::string_view weight_format;  // registry names
  std::string_view input_format;   // "": the input is not rounded
  int num_bits = 0;                // of an element, as config_groups says it
  int group_size = 0;              // elements per block scale, 0 where there are none
};

// Every row. The first row with a name is what a reader takes the name for.
std::span<const PublishedAlgorithm> published_algorithms();
// The row of a pair of formats. Throws Unsupported naming both when no checkpoint can say it.
const PublishedAlgorithm& published_algorithm(const formats::Format& weight,
                                              const formats::Format* input);
// The first row with this quant_algo, null when there is none.
const PublishedAlgorithm* find_published(std::string_view name);

// kv_cache_quant_algo of a cache format. Throws Unsupported when no checkpoint can say it.
std::string_view published_kv_name(const formats::Format& format);
// The cache format that a kv_cache_quant_algo names, null when there is none.
const formats::Format* find_published_kv(std::string_view name);

}  // namespace vernier::exporting
