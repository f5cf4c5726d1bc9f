#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/error.h"

namespace vernier {
namespace {

class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags)
      : descriptor_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (descriptor_ < 0) {
      throw Error(ErrorKind::kEnvironment,
                  fmt::format("{}: cannot be opened: {}", path.string(), std::strerror(errno)));
    }
  }
  ~Descriptor() { ::close(descriptor_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  operator int() const { return descriptor_; }

 private:
  int descriptor_;
};

[[noreturn]] void throw_write_error(const std::filesystem::path& path) {
  throw Error(ErrorKind::kEnvironment,
              fmt::format("{}: cannot be written: {}", path.string(), std::strerror(errno)));
}

// The length of the well-formed sequence at `text[0]`, 0 when there is none (Unicode, table 3-7).
size_t utf8_sequence_length(std::string_view text) {
  const auto byte = [&](size_t index) -> unsigned {
    return index < text.size() ? static_cast<unsigned char>(text[index]) : 0;
  };
  const auto continues = [&](size_t index, unsigned low = 0x80, unsigned high = 0xBF) {
    return byte(index) >= low && byte(index) <= high;
  };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return continues(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    const unsigned low = lead == 0xE0 ? 0xA0 : 0x80;
    const unsigned high = lead == 0xED ? 0x9F : 0xBF;
    return continues(1, low, high) && continues(2) ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    const unsigned low = lead == 0xF0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xF4 ? 0x8F : 0xBF;
    return continues(1, low, high) && continues(2) && continues(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

std::string read_file(const std::filesystem::path& path) {
  std::error_code status;
  if (!std::filesystem::exists(path, status)) {
    throw Error(ErrorKind::kNotFound, fmt::format("{}: no such file", path.string()));
  }
  if (std::filesystem::is_directory(path, status)) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{}: is a directory, expected a file", path.string()));
  }
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  if (file.peek() != std::ifstream::traits_type::eof()) bytes << file.rdbuf();
  if (!file.is_open() || file.bad() || bytes.fail()) {
    throw Error(ErrorKind::kEnvironment,
                fmt::format("{}: cannot be read: {}", path.string(), std::strerror(errno)));
  }
  return std::move(bytes).str();
}

void write_file(const std::filesystem::path& path, std::string_view bytes) {
  Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC);
  while (!bytes.empty()) {
    const ssize_t n_written = ::write(file, bytes.data(), bytes.size());
    if (n_written < 0 && errno == EINTR) continue;
    if (n_written < 0) throw_write_error(path);
    bytes.remove_prefix(static_cast<size_t>(n_written));
  }
  if (::fsync(file) != 0) throw_write_error(path);
}

void sync_directory(const std::filesystem::path& path) {
  Descriptor directory(path, O_RDONLY | O_DIRECTORY);
  if (::fsync(directory) != 0) throw_write_error(path);
}

bool is_valid_utf8(std::string_view text, size_t* bad_offset) {
  size_t offset = 0;
  while (offset < text.size()) {
    const size_t length = utf8_sequence_length(text.substr(offset));
    if (length == 0) {
      if (bad_offset != nullptr) *bad_offset = offset;
      return false;
    }
    offset += length;
  }
  return true;
}

}  // namespace vernier
