// The tensors of a sharded checkpoint, put together from the slices that hold them.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "export/sharded_manifest.h"
#include "io/safetensors.h"

namespace vernier::exporting {

// Safe for concurrent reads. Views live as long as the store.
class SliceStore {
 public:
  // Maps the files and checks every slice against the file that is said to hold it. Throws
  // NotFound, Corrupt, or Unsupported for a tensor cut into several slices, naming file and tensor.
  SliceStore(const std::filesystem::path& directory, const std::vector<SlicedTensor>& tensors);

  bool contains(std::string_view name) const;
  // Throws NotFound naming directory and tensor.
  TensorView tensor(std::string_view name) const;
  const std::filesystem::path& directory() const { return directory_; }
  // Every tensor, in the manifest's order.
  const std::vector<std::string>& names() const { return names_; }
  // Bytes of all files, headers included.
  int64_t file_bytes() const;

 private:
  // A mapped file and its entries by name.
  struct File {
    io::SafetensorsFile mapped;
    std::unordered_map<std::string_view, const io::TensorEntry*> entries;
  };

  const File& open(const std::string& name);
  void add(const SlicedTensor& tensor);

  std::filesystem::path directory_;
  std::map<std::string, File> files_;
  std::unordered_map<std::string, TensorView> views_;
  std::vector<std::string> names_;
};

}  // namespace vernier::exporting
