#include "cli/staged_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "io/json.h"

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
                             bool restart, const comm::Ranks& ranks, JournalKeepers keepers)
    : ranks_(ranks) {
  if (ranks_.world().rank() == 0) open(targets, std::move(identity), restart);
  share_paths();
  if (keepers == JournalKeepers::kAllRanks || ranks_.stage().rank() == 0) open_journal();
}

void StagedOutputs::open(const std::vector<std::filesystem::path>& targets, io::Json identity,
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
  for (const auto& stage : stages_) paths_.push_back(stage->path());
}

void StagedOutputs::share_paths() {
  io::Json known = {{"is_resumed", is_resumed_}, {"paths", io::Json::array()}};
  for (const std::filesystem::path& path : paths_) {
    known["paths"].push_back(std::filesystem::absolute(path).string());
  }
  const io::Json shared =
      io::parse_json(ranks_.world().broadcast(io::dump_json(known), 0), "the staging");
  if (ranks_.world().rank() == 0) return;
  is_resumed_ = shared["is_resumed"].get<bool>();
  for (const io::Json& path : shared["paths"]) paths_.emplace_back(path.get<std::string>());
}

void StagedOutputs::open_journal() {
  const int rank = ranks_.world().rank();
  if (rank == 0) {
    journal_ = &stages_[0]->journal();
    return;
  }
  own_journal_ =
      std::make_unique<io::Journal>(paths_[0].parent_path() / fmt::format("journal-{}", rank));
  if (!is_resumed_) own_journal_->clear();
  journal_ = own_journal_.get();
}

void StagedOutputs::commit() {
  ranks_.world().barrier();
  for (const auto& stage : stages_) stage->commit();
  ranks_.world().barrier();
}

void note_if_resumed(StagedOutputs& staged, ProgressSink& progress) {
  if (!staged.is_resumed() || staged.journal() == nullptr) return;
  progress.note(fmt::format("going on from {} finished pieces in {}", staged.journal()->size(),
                            staged.staging_path(0).string()));
}

}  // namespace vernier::cli
