#include "cli/model_path.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "base/error.h"
#include "base/file.h"

namespace vernier::cli {
namespace {

namespace fs = std::filesystem;

fs::path hub_cache() {
  if (const char* cache = std::getenv("HF_HUB_CACHE")) return cache;
  if (const char* home = std::getenv("HF_HOME")) return fs::path(home) / "hub";
  const char* home = std::getenv("HOME");
  return fs::path(home == nullptr ? "." : home) / ".cache/huggingface/hub";
}

// "org/name" is cached as models--org--name/snapshots/<commit>, refs/main naming the commit.
fs::path snapshot_of(const std::string& id) {
  std::string folder = "models--" + id;
  const size_t slash = folder.find('/');
  if (slash != std::string::npos) folder.replace(slash, 1, "--");
  const fs::path repository = hub_cache() / folder;
  const fs::path revision = repository / "refs" / "main";
  if (!fs::exists(revision)) return repository / "snapshots";
  std::string commit = read_file(revision);
  commit.erase(std::find_if(commit.begin(), commit.end(), [](char c) { return c == '\n'; }),
               commit.end());
  return repository / "snapshots" / commit;
}

}  // namespace

fs::path find_model(const std::string& model) {
  std::error_code status;
  if (fs::is_directory(model, status)) return model;
  const bool is_id = std::count(model.begin(), model.end(), '/') == 1 && model.front() != '/' &&
                     model.front() != '.';
  if (!is_id) {
    throw Error(ErrorKind::kNotFound,
                fmt::format("{}: no such directory, expected a checkpoint directory or the id of a "
                            "cached Hugging Face model",
                            model));
  }
  const fs::path snapshot = snapshot_of(model);
  if (fs::exists(snapshot / "config.json", status)) return snapshot;
  throw Error(ErrorKind::kNotFound,
              fmt::format("{}: neither a directory nor in the Hugging Face cache ({} has no "
                          "config.json); download it first, nothing is fetched here",
                          model, snapshot.string()));
}

std::string model_base_name(const std::string& model) {
  const size_t end = model.find_last_not_of('/');
  const std::string trimmed = model.substr(0, end == std::string::npos ? 0 : end + 1);
  return trimmed.substr(trimmed.find_last_of('/') + 1);
}

}  // namespace vernier::cli
