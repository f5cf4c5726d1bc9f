// Which files hold a tensor: all of it, or a block of it each.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "export/output_plan.h"
#include "export/tensor_box.h"

namespace vernier::exporting {

// The block of a tensor that begins at `start` in the whole. It lies in a file's tensor of the same
// name, at `file_start`.
struct Slice {
  std::string file;
  std::vector<int64_t> start;
  Shape shape;
  std::vector<int64_t> file_start;

  Box in_whole() const { return {start, shape}; }
  Box in_file() const { return {file_start, shape}; }
};

struct SlicedTensor {
  io::TensorDecl decl;  // of the whole
  std::vector<Slice> slices;
};

// All of a tensor in one file.
SlicedTensor whole_in(const std::string& file, io::TensorDecl decl);
std::vector<SlicedTensor> whole_in(const std::vector<TensorFile>& files);

}  // namespace vernier::exporting
