#include "cli/staged_output.h"

#include <fmt/format.h>

#include <algorithm>

namespace vernier::cli {
namespace {

using Stages = std::vector<std::unique_ptr<io::StagingDirectory>>;

Stages open_stages(const std::vector<std::filesystem::path>& targets, const io::Json& identity,
                   bool restart) {
  Stages stages;
  for (const std::filesystem::path& target : targets) {
    stages.push_back(std::make_unique<io::StagingDirectory>(target, identity, restart));
  }
  return stages;
}

}  // namespace

StagedOutputs::StagedOutputs(const std::vector<std::filesystem::path>& targets, io::Json identity,
                             bool restart) {
  for (const std::filesystem::path& target : targets) {
    identity["targets"].push_back(std::filesystem::absolute(target).string());
  }
  stages_ = open_stages(targets, identity, restart);
  const auto resumed = [](const auto& stage) { return stage->is_resumed(); };
  is_resumed_ = std::all_of(stages_.begin(), stages_.end(), resumed);
  // A run that died between creating its staging directories left nothing worth continuing.
  if (!is_resumed_ && std::any_of(stages_.begin(), stages_.end(), resumed)) {
    stages_.clear();
    stages_ = open_stages(targets, identity, true);
  }
}

void StagedOutputs::commit() {
  for (const auto& stage : stages_) stage->commit();
}

void note_if_resumed(StagedOutputs& staged, ProgressSink& progress) {
  if (!staged.is_resumed()) return;
  progress.note(fmt::format("going on from {} finished pieces in {}", staged.journal().size(),
                            staged.staging_path(0).string()));
}

}  // namespace vernier::cli
