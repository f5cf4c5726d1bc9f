// Generating from prompts and showing the text as it comes: shared by `generate` and `quantize`.
#pragma once

#include <string>
#include <vector>

#include "cli/console.h"
#include "model/stored_model.h"
#include "runtime/sampler.h"

namespace vernier::cli {

struct GenerationFlags {
  std::string prompts = "Hello!|Born in California, Soyer trained as a";
  int64_t max_tokens = 32;
  runtime::SamplingOptions sampling;
};

// Prompts are separated by "|", as in the recipe's scripts.
std::vector<std::string> split_prompts(const std::string& prompts);

// Streams each prompt and its continuation to the console.
// On `device`, or the host where it is null.
void generate_all(const model::StoredModel& stored, Device* device, const GenerationFlags& flags,
                  Console& console);

// Whether this rank's weights fit into the memory of the device, or of the host where it is null.
bool stays_resident(const model::StoredModel& stored, const Device* device);

}  // namespace vernier::cli
