// The order of steps makes every kill harmless: staging can be continued once its identity is in
// the journal, and the rename of `output` is the one instant at which the target appears.
#include "io/staging.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "io/descriptor.h"
#include "io/json.h"

namespace vernier::io {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".vernier-staging";
constexpr std::string_view kIdentityKey = "identity";

[[noreturn]] void invalid(const fs::path& path, std::string_view what) {
  throw Error(ErrorKind::kInvalidArgument, fmt::format("{}: {}", path.string(), what));
}

void check_status(const std::error_code& status, const fs::path& path, std::string_view action) {
  if (!status) return;
  throw Error(ErrorKind::kEnvironment,
              fmt::format("{}: cannot {}: {}", path.string(), action, status.message()));
}

// A target where nothing can be made is a bad flag, not a fault of the disk.
void check_place(const std::error_code& status, const fs::path& path, std::string_view action) {
  if (!status) return;
  invalid(path, fmt::format("cannot {}: {}; expected a place that can be written", action,
                            status.message()));
}

// Absolute, links followed and without a trailing slash, so that staging is a true sibling.
fs::path resolve(const fs::path& target) {
  if (target.empty()) {
    throw Error(ErrorKind::kInvalidArgument, "the name of the output directory is empty");
  }
  std::error_code status;
  const fs::path resolved = fs::weakly_canonical(fs::absolute(target, status), status);
  check_place(status, target, "find the output directory");
  return resolved.has_filename() ? resolved : resolved.parent_path();
}

bool is_mount_point(const fs::path& directory) {
  struct stat own, parent;
  return ::stat(directory.c_str(), &own) == 0 && ::stat((directory / "..").c_str(), &parent) == 0 &&
         own.st_dev != parent.st_dev;
}

// Everything that could make the final rename fail is found out before the first byte is written.
fs::path checked_target(const fs::path& target) {
  const fs::path resolved = resolve(target);
  std::error_code status;
  if (!fs::exists(resolved, status)) return resolved;
  if (!fs::is_directory(resolved, status)) {
    invalid(target, "exists and is a file, expected a new or empty directory");
  }
  if (resolved == resolved.root_path() || is_mount_point(resolved)) {
    invalid(target, "is a mount point, which cannot be replaced; name a directory inside it");
  }
  const bool is_empty = fs::is_empty(resolved, status);
  check_status(status, target, "list it");
  if (!is_empty) invalid(target, "exists and is not empty, expected a new or empty directory");
  return resolved;
}

fs::path created(const fs::path& directory) {
  std::error_code status;
  fs::create_directories(directory, status);
  check_place(status, directory, "create the directory");
  sync_directory(directory.parent_path());
  return directory;
}

// What differs, for the message: the keys of objects.
std::vector<std::string> differing_keys(const Json& left, const Json& right) {
  std::vector<std::string> keys;
  if (!left.is_object() || !right.is_object()) return keys;
  const auto add_keys_of = [&](const Json& one, const Json& other, bool also_changed) {
    for (const auto& member : one.items()) {
      const auto found = other.find(member.key());
      const bool is_missing = found == other.end();
      if (is_missing || (also_changed && dump_json(*found) != dump_json(member.value()))) {
        keys.push_back(member.key());
      }
    }
  };
  add_keys_of(left, right, /*also_changed=*/true);
  add_keys_of(right, left, /*also_changed=*/false);
  return keys;
}

void check_identity(const fs::path& root, const Json& found, const Json& expected) {
  // As text: NaN is unlike itself, and a number's C++ type is no difference.
  if (dump_json(found) == dump_json(expected)) return;
  const std::vector<std::string> keys = differing_keys(found, expected);
  invalid(root,
          fmt::format("was left by a run with other inputs or flags{}; repeat that command to "
                      "continue it, or give --restart to discard it",
                      keys.empty() ? "" : fmt::format(" ({})", fmt::join(keys, ", "))));
}

void sync_tree(const fs::path& directory) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_symlink()) continue;
    if (entry.is_directory()) {
      sync_directory(entry.path());
    } else {
      Descriptor(entry.path(), O_RDONLY).sync();
    }
  }
  sync_directory(directory);
}

}  // namespace

StagingDirectory::StagingDirectory(const fs::path& target, const Json& identity, bool restart)
    : target_(checked_target(target)),
      root_(created(target_.string() + std::string(kSuffix))),
      path_(root_ / "output"),
      journal_(root_ / "journal") {
  const Json* found = journal_.find(kIdentityKey);
  std::error_code ignored;
  // Without output there is nothing to continue: a kill after the rename left only the journal.
  if (restart || found == nullptr || !fs::is_directory(path_, ignored)) {
    start_over(identity);
  } else {
    check_identity(root_, *found, identity);
    is_resumed_ = true;
  }
}

void StagingDirectory::start_over(const Json& identity) {
  journal_.clear();
  std::error_code status;
  fs::remove_all(path_, status);
  check_status(status, path_, "remove what an earlier run left");
  created(path_);
  journal_.append(kIdentityKey, identity);
}

void StagingDirectory::commit() {
  std::error_code status;
  try {
    sync_tree(path_);
  } catch (const fs::filesystem_error& error) {
    check_status(error.code(), path_, "list it");
  }
  fs::rename(path_, target_, status);
  check_status(status, target_, fmt::format("rename {} to it", path_.string()));
  sync_directory(target_.parent_path());
  // The target is there; what cannot be removed is only in the way.
  fs::remove_all(root_, status);
}

}  // namespace vernier::io
