#include "io/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "io/descriptor.h"

namespace vernier::io {
namespace {

uintptr_t page_bytes() { return static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE)); }

void advise(uintptr_t begin, uintptr_t end, int advice) {
  // Only hints: a kernel that refuses one changes speed, not results.
  if (begin < end) (void)::madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{}: is a directory, expected a file", path.string()));
  }
  const Descriptor file(path, O_RDONLY);
  const size_t size = static_cast<size_t>(file.size());
  if (size == 0) return;  // mmap refuses an empty range
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (data == MAP_FAILED) {
    throw Error(ErrorKind::kEnvironment, fmt::format("{}: cannot map {} bytes: {}", path.string(),
                                                     size, std::strerror(errno)));
  }
  bytes_ = {static_cast<const std::byte*>(data), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

void advise_will_need(std::span<const std::byte> bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
  advise(begin / page_bytes() * page_bytes(), begin + bytes.size(), MADV_WILLNEED);
}

void advise_done(std::span<const std::byte> bytes) {
  // Whole pages only: the first and the last may hold a neighbour that is still in use.
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
  const uintptr_t first = (begin + page_bytes() - 1) / page_bytes() * page_bytes();
  advise(first, (begin + bytes.size()) / page_bytes() * page_bytes(), MADV_DONTNEED);
}

}  // namespace vernier::io
