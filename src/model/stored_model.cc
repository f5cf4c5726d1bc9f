#include "model/stored_model.h"

#include <fmt/format.h>

#include <string>
#include <utility>

#include "base/error.h"
#include "model/checkpoint_weights.h"
#include "model/partitioned_weights.h"

namespace vernier::model {

namespace {

int32_t as_token_id(const io::Json& value, const std::filesystem::path& path) {
  constexpr double kMaxId = INT32_MAX;
  if (!value.is_number_integer() || value.get<double>() < 0 || value.get<double>() > kMaxId) {
    throw Error(ErrorKind::kCorrupt,
                fmt::format("{}: eos_token_id holds {}, expected a token id or a list of them",
                            path.string(), value.dump()));
  }
  return value.get<int32_t>();
}

// eos_token_id is one id, a list of ids, null or absent.
std::vector<int32_t> eos_ids_of(const io::Json& config, const std::filesystem::path& path) {
  const auto found = config.find("eos_token_id");
  if (found == config.end() || found->is_null()) return {};
  if (!found->is_array()) return {as_token_id(*found, path)};
  std::vector<int32_t> ids;
  for (const io::Json& id : *found) ids.push_back(as_token_id(id, path));
  return ids;
}

}  // namespace

std::vector<int32_t> read_eos_token_ids(const std::filesystem::path& directory,
                                        const io::Json& config) {
  if (const auto path = directory / "generation_config.json"; std::filesystem::exists(path)) {
    const std::vector<int32_t> ids = eos_ids_of(io::read_json(path), path);
    if (!ids.empty()) return ids;
  }
  return eos_ids_of(config, directory / "config.json");
}

StoredModel open_checkpoint(const std::filesystem::path& directory, const comm::Ranks* ranks) {
  const std::filesystem::path config_path = directory / "config.json";
  StoredModel stored;
  stored.directory = directory;
  stored.config = io::read_json(config_path);
  stored.model = open_model(stored.config, config_path.string(), ranks);
  stored.eos_token_ids = read_eos_token_ids(directory, stored.config);
  stored.checkpoint = std::make_shared<io::Checkpoint>(directory);
  check_complete(stored.model->tree(), *stored.checkpoint);
  const formats::Format* kv_format = declared_kv_format(directory);
  stored.weights = std::make_shared<CheckpointWeights>(stored.checkpoint, kv_format);
  stored.is_quantized =
      kv_format != nullptr || is_quantized(stored.model->tree(), *stored.checkpoint);
  return stored;
}

std::shared_ptr<const WeightSource> share_of_weights(std::shared_ptr<const WeightSource> weights,
                                                     const comm::Ranks& ranks) {
  const comm::Share share = ranks.place().tensor;
  if (share.count == 1) return weights;
  if (auto own = weights->share(share)) return own;
  return std::make_shared<PartitionedWeights>(std::move(weights), share);
}

}  // namespace vernier::model
