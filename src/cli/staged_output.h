// Output directories of one job: all are staged, all are resumed or none, all become visible at the
// end.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "base/progress.h"
#include "io/staging.h"

namespace vernier::cli {

class StagedOutputs {
 public:
  // `identity` is extended by the targets themselves.
  StagedOutputs(const std::vector<std::filesystem::path>& targets, io::Json identity, bool restart);

  const std::filesystem::path& staging_path(size_t index) const { return stages_[index]->path(); }
  bool is_resumed() const { return is_resumed_; }
  // One journal for the job, kept with the first output.
  io::Journal& journal() { return stages_[0]->journal(); }
  void commit();

 private:
  std::vector<std::unique_ptr<io::StagingDirectory>> stages_;
  bool is_resumed_ = false;
};

// Tells how much an interrupted run left.
void note_if_resumed(StagedOutputs& staged, ProgressSink& progress);

}  // namespace vernier::cli
