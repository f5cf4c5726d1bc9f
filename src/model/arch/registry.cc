#include "model/arch/registry.h"

#include "model/arch/nemotron_h/nemotron_h.h"

namespace vernier::model {

namespace {

constexpr Architecture kArchitectures[] = {
    {"nemotron_h", nemotron_h::open},
};

}  // namespace

std::span<const Architecture> all_architectures() { return kArchitectures; }

}  // namespace vernier::model
