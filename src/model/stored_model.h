// A checkpoint directory opened for use: its configuration, its network and its weights.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "io/checkpoint.h"
#include "io/json.h"
#include "model/model.h"
#include "model/weight_source.h"

namespace vernier::model {

struct StoredModel {
  std::filesystem::path directory;
  io::Json config;  // config.json
  std::unique_ptr<Model> model;
  std::shared_ptr<const io::Checkpoint> checkpoint;
  std::shared_ptr<const WeightSource> weights;  // whole
  bool is_quantized = false;  // some weight is packed, or the KV cache is declared quantized
  std::vector<int32_t> eos_token_ids;  // any of them ends a text
};

// Opens a Hugging Face checkpoint directory and checks that all the network needs is there. `ranks`
// as open_model takes them; the weights are whole, share_of_weights() cuts them. Throws NotFound,
// Corrupt or Unsupported, and InvalidArgument as open_model does.
StoredModel open_checkpoint(const std::filesystem::path& directory,
                            const comm::Ranks* ranks = nullptr);

// What this rank computes with, of whole weights in host memory.
std::shared_ptr<const WeightSource> share_of_weights(std::shared_ptr<const WeightSource> weights,
                                                     const comm::Ranks& ranks);

// The ids that end a text: generation_config.json's eos_token_id, else config.json's; empty when
// neither names any. A base checkpoint's config.json may know fewer than generation needs.
std::vector<int32_t> read_eos_token_ids(const std::filesystem::path& directory,
                                        const io::Json& config);

}  // namespace vernier::model
