#include "io/descriptor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/file.h"

namespace vernier::io {

Descriptor::Descriptor(std::filesystem::path path, int flags)
    : path_(std::move(path)), descriptor_(::open(path_.c_str(), flags | O_CLOEXEC, 0666)) {
  if (descriptor_ >= 0) return;
  if (errno == ENOENT && (flags & O_CREAT) == 0) {
    throw Error(ErrorKind::kNotFound, fmt::format("{}: no such file", path_.string()));
  }
  fail("open");
}

Descriptor::~Descriptor() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Descriptor::Descriptor(Descriptor&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

int64_t Descriptor::size() const {
  struct stat status;
  if (::fstat(descriptor_, &status) != 0) fail("stat");
  return status.st_size;
}

std::string Descriptor::read_prefix(int64_t n_bytes) const {
  std::string bytes(static_cast<size_t>(n_bytes), '\0');
  size_t n_read = 0;
  while (n_read < bytes.size()) {
    const ssize_t step = ::pread(descriptor_, bytes.data() + n_read, bytes.size() - n_read,
                                 static_cast<off_t>(n_read));
    if (step < 0 && errno == EINTR) continue;
    if (step < 0) fail("read");
    if (step == 0) break;
    n_read += static_cast<size_t>(step);
  }
  bytes.resize(n_read);
  return bytes;
}

void Descriptor::write_at(int64_t offset, std::span<const std::byte> bytes, std::string_view what) {
  while (!bytes.empty()) {
    // One call writes at most about 2 GiB, and less when the disk fills up.
    const ssize_t step = ::pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (step < 0 && errno == EINTR) continue;
    if (step < 0) fail(fmt::format("write {}", what));
    bytes = bytes.subspan(static_cast<size_t>(step));
    offset += step;
  }
}

void Descriptor::resize(int64_t size) {
  if (::ftruncate(descriptor_, size) != 0) fail(fmt::format("make it {} bytes long", size));
}

void Descriptor::sync() {
  if (::fsync(descriptor_) != 0) fail("sync");
}

void Descriptor::sync_name() {
  sync_directory(path_.has_parent_path() ? path_.parent_path() : ".");
}

void Descriptor::fail(std::string_view action) const {
  throw Error(ErrorKind::kEnvironment,
              fmt::format("{}: cannot {}: {}", path_.string(), action, std::strerror(errno)));
}

}  // namespace vernier::io
