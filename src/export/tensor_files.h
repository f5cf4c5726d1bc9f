// Several safetensors files that are filled as one set of named tensors, in any order; a file may
// hold a tensor's slices.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "export/slices.h"
#include "io/safetensors.h"

namespace vernier::exporting {

class TensorFiles {
 public:
  // Creates the files that the slices name, or with `resume` continues those that are there. Other
  // processes may then have the same files open and write other tensors. REQUIRES: unique names; in
  // a file, slices of a tensor that fill it.
  TensorFiles(const std::filesystem::path& directory, const std::vector<SlicedTensor>& tensors,
              bool resume);

  // Null when no file holds the tensor.
  const io::TensorDecl* find(std::string_view name) const;
  // Writes one tensor in place, to all files that hold a part. REQUIRES: a declared name, `tensor`
  // of the declared dtype and shape.
  void write(std::string_view name, const TensorView& tensor);
  void write_scalar(std::string_view name, float value);

  void sync();
  // Syncs and closes. Throws Corrupt naming a tensor of a new file that was never written; what a
  // resumed file holds only the caller's journal knows.
  void finish();

 private:
  // What one file holds of a tensor, as a tensor of its own.
  struct Part {
    size_t file;
    Shape shape;
    std::vector<Slice> slices;
  };
  struct Place {
    io::TensorDecl decl;
    std::vector<Part> parts;
  };
  static void add(const Slice& slice, size_t file, std::vector<Part>& parts);
  void write_part(const Part& part, std::string_view name, const TensorView& tensor);

  std::vector<io::SafetensorsWriter> writers_;
  std::unordered_map<std::string, Place> places_;
};

}  // namespace vernier::exporting
