// The hidden states of many windows between two layers: in memory, or in an unlinked file when the
// planner says that they do not fit.
#pragma once

#include <cstdint>
#include <filesystem>

#include "tensor/matrix.h"

namespace vernier::runtime {

enum class HiddenPlacement { kMemory, kFile };

// [rows, cols] FP32, zero at first. Memory is taken as it is touched, disk space at once.
class HiddenStore {
 public:
  // `directory` is where a file goes. Throws OutOfMemory or Environment (no room, no permission).
  HiddenStore(int64_t rows, int64_t cols, HiddenPlacement placement,
              const std::filesystem::path& directory);
  ~HiddenStore();
  HiddenStore(HiddenStore&& other) noexcept;
  HiddenStore& operator=(HiddenStore&&) = delete;

  MatrixView view() const { return view_; }

 private:
  MatrixView view_;
};

}  // namespace vernier::runtime
