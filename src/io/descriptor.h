// An open file that is closed when it goes out of scope, and whose errors name it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace vernier::io {

class Descriptor {
 public:
  // `flags` as open(2) takes them. Throws NotFound when there is no such file, Environment when it
  // cannot be opened for another reason.
  Descriptor(std::filesystem::path path, int flags);
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept;
  Descriptor& operator=(Descriptor&& other) noexcept;

  int get() const { return descriptor_; }
  const std::filesystem::path& path() const { return path_; }

  int64_t size() const;
  // The bytes [0, n_bytes), fewer when the file ends before.
  std::string read_prefix(int64_t n_bytes) const;
  // Writes all of `bytes`; `what` names them in the error.
  void write_at(int64_t offset, std::span<const std::byte> bytes, std::string_view what);
  void resize(int64_t size);
  // Returns when content and size are on the device.
  void sync();
  // Returns when the file's name in its directory is on the device: a new file needs both.
  void sync_name();

 private:
  [[noreturn]] void fail(std::string_view action) const;

  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace vernier::io
