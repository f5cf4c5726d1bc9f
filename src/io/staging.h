// Outputs that exist whole or not at all: everything is written to a staging directory beside the
// target, synced, then renamed. A killed run leaves the staging directory; the same command
// continues it with the help of a journal.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "io/json_fwd.h"

namespace vernier::io {

// Append-only records "key -> JSON", each durable (fsync) when append returns. A record that a
// crash cut short, or whose checksum (xxHash64) does not match, ends the journal: it and all after
// it are dropped. One process at a time: the file is locked while open.
//
// A record is one line: the hash in 16 hexadecimal digits, a space, the hashed text ["key",value].
class Journal {
 public:
  // Opens or creates. Records already there are readable through find(). Throws Environment, also
  // when another process has the journal open.
  explicit Journal(const std::filesystem::path& path);
  ~Journal();
  Journal(Journal&&) noexcept;
  Journal& operator=(Journal&&) noexcept;

  // A later record with the same key takes the place of an earlier one.
  void append(std::string_view key, const Json& value);
  // Null when there is no such record. Valid until the next append or clear.
  const Json* find(std::string_view key) const;
  // How many keys there are.
  size_t size() const;
  // Drops every record.
  void clear();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The staging directory of `target`, `<target>.vernier-staging`. It holds `output`, which becomes
// the target, and `journal`.
class StagingDirectory {
 public:
  // `identity` says what is being made (inputs, recipe, flags that change bytes). Staging left
  // behind by a run of the same identity is continued; of another identity, it is an error that
  // says so, and `restart` discards it. Throws InvalidArgument when `target` is a file, a mount
  // point, not empty or where nothing can be made, Environment when another process uses it.
  StagingDirectory(const std::filesystem::path& target, const Json& identity, bool restart);

  // Where the output is written.
  const std::filesystem::path& path() const { return path_; }
  bool is_resumed() const { return is_resumed_; }
  // The key "identity" is taken.
  Journal& journal() { return journal_; }

  // Syncs the output, renames it onto the target, removes the journal. A crash before the rename
  // leaves staging that can be continued, one after it the whole target.
  void commit();

 private:
  void start_over(const Json& identity);

  std::filesystem::path target_;
  std::filesystem::path root_;
  std::filesystem::path path_;
  bool is_resumed_ = false;
  Journal journal_;
};

// xxHash64 of bytes, for identities.
uint64_t hash64(std::string_view bytes);

}  // namespace vernier::io
