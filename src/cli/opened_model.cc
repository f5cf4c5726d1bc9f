#include "cli/opened_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "cli/model_path.h"
#include "export/sharded_checkpoint.h"
#include "io/json.h"
#include "io/staging.h"
#include "model/stage.h"

namespace vernier::cli {
namespace {

class WithoutKvFormat : public model::WeightSource {
 public:
  explicit WithoutKvFormat(std::shared_ptr<const model::WeightSource> weights)
      : weights_(std::move(weights)) {}

  model::LinearWeight linear(const model::Module& module) const override {
    return weights_->linear(module);
  }
  TensorView tensor(const model::TensorSpec& spec) const override { return weights_->tensor(spec); }
  model::KvRule kv_rule(const model::AttentionSite&) const override { return {}; }
  void will_need(const model::Module& module) const override { weights_->will_need(module); }
  void done_with(const model::Module& module) const override { weights_->done_with(module); }

 private:
  std::shared_ptr<const model::WeightSource> weights_;
};

// Weights of the linear modules by format.
std::map<const formats::Format*, int64_t> weights_by_format(const model::StoredModel& stored) {
  std::map<const formats::Format*, int64_t> weights;
  for (const model::Module& module : stored.model->tree().modules()) {
    if (module.kind != model::ModuleKind::kLinear) continue;
    weights[stored.weights->linear(module).packed.format] += module.n * module.k;
  }
  return weights;
}

}  // namespace

model::StoredModel open_any_checkpoint(const std::filesystem::path& directory,
                                       const comm::Ranks* ranks) {
  if (exporting::is_sharded_checkpoint(directory)) {
    return exporting::open_sharded(directory, ranks).stored;
  }
  return model::open_checkpoint(directory, ranks);
}

model::StoredModel open_unquantized(const std::string& model, const comm::Ranks* ranks) {
  model::StoredModel source = open_any_checkpoint(find_model(model), ranks);
  if (!source.is_quantized) return source;
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("--hf-model-id: {} is quantized already, expected an unquantized "
                          "checkpoint",
                          source.directory.string()));
}

io::Json files_identity(const io::Checkpoint& checkpoint) {
  io::Json files = io::Json::array();
  for (const io::SafetensorsFile& file : checkpoint.files()) {
    files.push_back({file.path().filename().string(), file.file_bytes()});
  }
  return files;
}

uint64_t text_identity(const runtime::Windows& windows) {
  std::string text;
  for (const auto& window : windows) {
    text.append(reinterpret_cast<const char*>(window.data()), window.size() * sizeof(window[0]));
  }
  return io::hash64(text);
}

int64_t safetensors_bytes(const std::filesystem::path& directory) {
  int64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors") {
      bytes += static_cast<int64_t>(entry.file_size());
    }
  }
  return bytes;
}

int64_t bytes_of_share(const model::StoredModel& stored) {
  const comm::Place& place = stored.model->ranks().place();
  int64_t bytes = 0;
  for (const model::Module& module : stored.model->tree().modules()) {
    if (!module.has_matrix() || !model::is_here(*stored.model, module)) continue;
    const auto [n, k] = share_of(module, place.tensor);
    bytes += formats::packed_bytes(*stored.weights->linear(module).packed.format, n, k);
  }
  return bytes;
}

double bits_per_weight(const model::StoredModel& stored) {
  double bits = 0;
  double weights = 0;
  for (const auto& [format, count] : weights_by_format(stored)) {
    bits += format->bits_per_weight * static_cast<double>(count);
    weights += static_cast<double>(count);
  }
  return bits / weights;
}

std::string format_summary(const model::StoredModel& stored) {
  std::vector<std::pair<int64_t, const formats::Format*>> shares;
  int64_t total = 0;
  for (const auto& [format, count] : weights_by_format(stored)) {
    shares.emplace_back(count, format);
    total += count;
  }
  if (shares.size() == 1) return std::string(shares[0].second->name);
  std::sort(shares.begin(), shares.end(),
            [](const auto& left, const auto& right) { return left.first > right.first; });
  std::string summary;
  for (const auto& [count, format] : shares) {
    const double percent = 100.0 * static_cast<double>(count) / static_cast<double>(total);
    summary += fmt::format("{}{} {:.0f} %", summary.empty() ? "" : ", ", format->name, percent);
  }
  return summary;
}

bool decodes_weights(const model::StoredModel& stored) {
  return std::ranges::any_of(stored.model->tree().modules(), [&](const model::Module& module) {
    if (module.kind != model::ModuleKind::kLinear) return false;
    const formats::PackedView weight = stored.weights->linear(module).packed;
    return weight.plane(formats::PlaneRole::kCodes).dtype != DType::kBF16;
  });
}

std::shared_ptr<const model::WeightSource> without_kv_format(
    std::shared_ptr<const model::WeightSource> weights) {
  return std::make_shared<WithoutKvFormat>(std::move(weights));
}

runtime::Windows read_token_ids(const std::filesystem::path& path) {
  const io::Json json = io::read_json(path);
  const auto fail = [&](const std::string& found) {
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: {}, expected a list of non-empty lists of token ids",
                             path.string(), found));
  };
  if (!json.is_array() || json.empty()) throw fail("the file is not a list of rows");
  runtime::Windows windows;
  for (size_t row = 0; row < json.size(); ++row) {
    if (!json[row].is_array() || json[row].empty()) {
      throw fail(fmt::format("row {} is not a list of ids", row));
    }
    std::vector<text::TokenId> ids;
    for (const io::Json& id : json[row]) {
      if (!id.is_number_integer()) throw fail(fmt::format("row {} holds {}", row, id.dump()));
      ids.push_back(id.get<text::TokenId>());
    }
    windows.push_back(std::move(ids));
  }
  return windows;
}

}  // namespace vernier::cli
