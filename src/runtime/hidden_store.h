// The hidden states of many windows between two layers: where the layers run, else in host memory,
// else in an unlinked file, as the planner says.
#pragma once

#include <cstdint>
#include <filesystem>

#include "tensor/any_matrix.h"

namespace vernier::runtime {

enum class HiddenPlacement { kMemory, kFile, kDevice };

// [rows, cols] FP32, zero at first. Memory is taken as it is touched; disk space, device memory and
// memory that a device copies from (page-locked) at once.
class HiddenStore {
 public:
  // `directory` is where a file goes, `device` where layers run (null: the host). Throws
  // OutOfMemory or Environment (no room, no permission).
  HiddenStore(int64_t rows, int64_t cols, HiddenPlacement placement,
              const std::filesystem::path& directory, Device* device = nullptr);
  ~HiddenStore();
  HiddenStore(HiddenStore&& other) noexcept;
  HiddenStore& operator=(HiddenStore&&) = delete;

  AnyMatrixView view() const { return view_; }
  // Calls change(rows) with rows [first, first + n_rows) where the layers run: a view of them, or a
  // copy that is fetched before and stored after. Page-locked memory and the device's own are only
  // queued for.
  template <class Change>
  void update(int64_t first, int64_t n_rows, Change&& change) const {
    if (view_.device == device_) return change(view_.row_range(first, n_rows));
    AnyMatrix rows = fetch(first, n_rows);
    change(rows.view());
    store(first, rows);
  }
  // The same for what is only read.
  template <class Read>
  void read(int64_t first, int64_t n_rows, Read&& read) const {
    if (view_.device == device_) return read(view_.row_range(first, n_rows));
    read(fetch(first, n_rows).view());
  }

  // Rows [first, first + rows.rows) become `rows`, which are where the layers run.
  void write(int64_t first, ConstAnyMatrixView rows) const {
    if (view_.device == device_) return copy_matrix(rows, view_.row_range(first, rows.rows));
    store(first, rows);
  }

 private:
  AnyMatrix fetch(int64_t first, int64_t n_rows) const;
  void store(int64_t first, ConstAnyMatrixView rows) const;
  // Page-locked memory, which is moved in the device's order; a file's pages are the host's to
  // touch.
  bool is_pinned() const { return placement_ == HiddenPlacement::kMemory && device_ != nullptr; }

  AnyMatrixView view_;
  HiddenPlacement placement_;
  Device* device_;
};

}  // namespace vernier::runtime
