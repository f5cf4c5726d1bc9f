// The Nemotron-H family: a stack of Mamba-2, attention, MLP and MoE layers in any order, each with
// one norm and one residual add.
#pragma once

#include <memory>
#include <string_view>

#include "model/model.h"

namespace vernier::model::nemotron_h {

std::unique_ptr<Model> open(const io::Json& config, std::string_view origin,
                            const comm::Ranks* ranks);

}  // namespace vernier::model::nemotron_h
