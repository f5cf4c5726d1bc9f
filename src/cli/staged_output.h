// Output directories of one job: all are staged, all are resumed or none, all become visible at the
// end.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "base/progress.h"
#include "comm/ranks.h"
#include "io/staging.h"

namespace vernier::cli {

enum class JournalKeepers { kFirstOfStages, kAllRanks };

// The first rank makes, locks and commits them; all make this object, at the same time.
class StagedOutputs {
 public:
  // `identity` is extended by the targets themselves.
  StagedOutputs(const std::vector<std::filesystem::path>& targets, io::Json identity, bool restart,
                const comm::Ranks& ranks, JournalKeepers keepers = JournalKeepers::kFirstOfStages);
  const std::filesystem::path& staging_path(size_t index) const { return paths_[index]; }
  bool is_resumed() const { return is_resumed_; }
  // This rank's journal, kept with the first output; null where it keeps none.
  io::Journal* journal() { return journal_; }
  // Everything is written, on all ranks. When it returns the outputs are there for all.
  void commit();

 private:
  void open(const std::vector<std::filesystem::path>& targets, io::Json identity, bool restart);
  void share_paths();
  void open_journal();

  const comm::Ranks& ranks_;
  std::vector<std::unique_ptr<io::StagingDirectory>> stages_;  // on the first rank
  std::vector<std::filesystem::path> paths_;
  bool is_resumed_ = false;
  std::unique_ptr<io::Journal> own_journal_;  // of ranks but the first
  io::Journal* journal_ = nullptr;
};

// Tells how much an interrupted run left.
void note_if_resumed(StagedOutputs& staged, ProgressSink& progress);

}  // namespace vernier::cli
