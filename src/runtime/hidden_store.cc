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

void* map(int64_t size_bytes, bool in_file, const std::filesystem::path& directory) {
  const int descriptor = in_file ? open_unnamed(directory, size_bytes) : -1;
  const int flags = in_file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* data = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, flags, descriptor, 0);
  if (in_file) ::close(descriptor);
  if (data != MAP_FAILED) return data;
  throw Error(ErrorKind::kOutOfMemory,
              fmt::format("cannot map {} bytes of hidden states", size_bytes));
}

}  // namespace

HiddenStore::HiddenStore(int64_t rows, int64_t cols, HiddenPlacement placement,
                         const std::filesystem::path& directory, Device* device)
    : placement_(placement), device_(device) {
  const int64_t size_bytes = mapped_bytes(rows, cols);
  void* data = nullptr;
  Device* where = nullptr;
  if (placement == HiddenPlacement::kDevice) {
    where = device;
    data = device->allocate(size_bytes);
  } else if (is_pinned()) {
    data = device->allocate_pinned(size_bytes);
  } else {
    data = map(size_bytes, placement == HiddenPlacement::kFile, directory);
  }
  view_ = AnyMatrixView(data, rows, cols, cols, DType::kF32, where);
  if (where != nullptr || is_pinned()) fill_zero(data, where, size_bytes);
}

HiddenStore::~HiddenStore() {
  if (view_.data == nullptr) return;
  if (placement_ == HiddenPlacement::kDevice) {
    device_->free(view_.as<std::byte>());
  } else if (is_pinned()) {
    device_->free_pinned(view_.data);
  } else {
    ::munmap(view_.data, mapped_bytes(view_.rows, view_.cols));
  }
}

HiddenStore::HiddenStore(HiddenStore&& other) noexcept
    : view_(std::exchange(other.view_, AnyMatrixView())),
      placement_(other.placement_),
      device_(other.device_) {}

AnyMatrix HiddenStore::fetch(int64_t first, int64_t n_rows) const {
  AnyMatrix rows(n_rows, view_.cols, DType::kF32, device_);
  const AnyMatrixView kept = view_.row_range(first, n_rows);
  if (is_pinned()) {
    device_->copy_pinned(rows.view().data, kept.data, rows.size_bytes());
  } else {
    copy_matrix(kept, rows);
  }
  return rows;
}

void HiddenStore::store(int64_t first, ConstAnyMatrixView rows) const {
  const AnyMatrixView kept = view_.row_range(first, rows.rows);
  if (is_pinned()) {
    device_->copy_pinned(kept.data, rows.data, rows.rows * rows.cols * rows.elem_bytes());
  } else {
    copy_matrix(rows, kept);
  }
}

}  // namespace vernier::runtime
