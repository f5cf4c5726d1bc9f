// The architectures there are. To add one: a folder under model/arch/ and a row in registry.cc
// (docs/howto/add_architecture.md).
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "model/model.h"

namespace vernier::model {

struct Architecture {
  std::string_view model_type;  // as config.json spells it
  std::unique_ptr<Model> (*open)(const io::Json& config, std::string_view origin,
                                 const comm::Ranks* ranks);
};

std::span<const Architecture> all_architectures();

}  // namespace vernier::model
