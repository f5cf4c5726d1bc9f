// Several safetensors files that are filled as one set of named tensors, in any order.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "export/output_plan.h"
#include "io/safetensors.h"

namespace vernier::exporting {

class TensorFiles {
 public:
  // Creates the files, or with `resume` continues those that are there.
  TensorFiles(const std::filesystem::path& directory, const std::vector<TensorFile>& files,
              bool resume);

  // Null when no file holds the tensor.
  const io::TensorDecl* find(std::string_view name) const;
  // Writes one tensor in place. REQUIRES: a declared name, `tensor` of the declared dtype and
  // shape.
  void write(std::string_view name, const TensorView& tensor);
  void write_scalar(std::string_view name, float value);

  void sync();
  // Syncs and closes. Throws Corrupt naming a tensor of a new file that was never written; what a
  // resumed file holds only the caller's journal knows.
  void finish();

 private:
  struct Place {
    size_t file;
    io::TensorDecl decl;
  };

  std::vector<io::SafetensorsWriter> writers_;
  std::unordered_map<std::string, Place> places_;
};

}  // namespace vernier::exporting
