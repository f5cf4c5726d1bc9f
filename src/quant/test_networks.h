// Networks for this room's tests: small configurations that have every kind of module.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "io/json.h"
#include "model/model.h"

namespace vernier::quant {

inline io::Json read_config(std::string_view path) {
  return io::read_json(std::string(VERNIER_SOURCE_DIR "/") + std::string(path));
}

inline std::unique_ptr<model::Model> open_config(const io::Json& config) {
  return model::open_model(config, "config.json");
}

// 14 layers: Mamba-2, latent MoE of 32 experts, attention.
inline std::unique_ptr<model::Model> tiny_network() {
  return open_config(read_config("models/tiny/config.json"));
}

// 6 layers of all kinds: Mamba-2, latent MoE of 8 experts, attention, latent MoE, dense MLP,
// Mamba-2.
inline std::unique_ptr<model::Model> mixed_network() {
  return open_config(read_config("tests/golden/latent/checkpoint/config.json"));
}

// The mixed network with keys of its config.json replaced.
inline std::unique_ptr<model::Model> mixed_network_with(const io::Json& changes) {
  io::Json config = read_config("tests/golden/latent/checkpoint/config.json");
  config.update(changes);
  return open_config(config);
}

}  // namespace vernier::quant
