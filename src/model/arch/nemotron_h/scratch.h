// What a layer allocates while tokens run through it, for the memory planner.
#pragma once

#include "model/arch/nemotron_h/config.h"
#include "tensor/device.h"

namespace vernier::model::nemotron_h {

// As Model::scratch_bytes.
int64_t scratch_bytes(const Config& config, int layer, int64_t n_tokens, const Device* device);

}  // namespace vernier::model::nemotron_h
