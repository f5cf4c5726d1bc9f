#include "runtime/hidden_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.h"

namespace vernier::runtime {
namespace {

// At least one byte, since nothing cannot be mapped.
int64_t mapped_bytes(int64_t rows, int64_t cols) {
  return std::max<int64_t>(rows * cols * static_cast<int64_t>(sizeof(float)), 1);
}

// A file without a name: it disappears with the process, however that ends. Its blocks are reserved
// here, because a disk that fills up under a mapping ends the process without a word.
int open_unnamed(const std::filesystem::path& directory, int64_t size_bytes) {
  std::string name = (directory / "hidden-XXXXXX").string();
  const int descriptor = ::mkostemp(name.data(), O_CLOEXEC);
  int cause = errno;
  if (descriptor >= 0) {
    ::unlink(name.c_str());
    cause = ::posix_fallocate(descriptor, 0, size_bytes);
    if (cause == 0) return descriptor;
    ::close(descriptor);
  }
  throw Error(ErrorKind::kEnvironment,
              fmt::format("{}: cannot keep {} bytes of hidden states there: {}", directory.string(),
                          size_bytes, std::strerror(cause)));
}

}  // namespace

HiddenStore::HiddenStore(int64_t rows, int64_t cols, HiddenPlacement placement,
                         const std::filesystem::path& directory) {
  const int64_t size_bytes = mapped_bytes(rows, cols);
  const bool in_file = placement == HiddenPlacement::kFile;
  const int descriptor = in_file ? open_unnamed(directory, size_bytes) : -1;
  const int flags = in_file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* data = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, flags, descriptor, 0);
  if (in_file) ::close(descriptor);
  if (data == MAP_FAILED) {
    throw Error(ErrorKind::kOutOfMemory,
                fmt::format("cannot map {} bytes of hidden states", size_bytes));
  }
  view_ = MatrixView(static_cast<float*>(data), rows, cols);
}

HiddenStore::~HiddenStore() {
  if (view_.data != nullptr) ::munmap(view_.data, mapped_bytes(view_.rows, view_.cols));
}

HiddenStore::HiddenStore(HiddenStore&& other) noexcept
    : view_(std::exchange(other.view_, MatrixView())) {}

}  // namespace vernier::runtime
