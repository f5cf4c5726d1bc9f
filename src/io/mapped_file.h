// A file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace vernier::io {

// Safe for concurrent reads. REQUIRES: a file that does not shrink while it is mapped.
class MappedFile {
 public:
  // An empty file is an empty span. Throws NotFound, InvalidArgument for a directory, Environment.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

// Tells the kernel that a part of a mapping is needed soon (read ahead, returns at once), or no
// longer (its pages may be dropped). Hints only; never fail.
void advise_will_need(std::span<const std::byte> bytes);
void advise_done(std::span<const std::byte> bytes);

}  // namespace vernier::io
