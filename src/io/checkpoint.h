// A directory of safetensors files seen as one set of named tensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/safetensors.h"

namespace vernier::io {

// Movable; views live as long as it does. Safe for concurrent reads.
class Checkpoint {
 public:
  // Opens `model.safetensors`, or else every shard that `model.safetensors.index.json` names.
  // Throws NotFound when there is neither, Corrupt when the index and the shards disagree: a shard
  // missing or outside the directory, a tensor missing from its shard, in another shard or in two,
  // or in a shard but not in the index, where it would be dropped without a word.
  explicit Checkpoint(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const { return directory_; }
  // Every tensor name, in ascending byte order.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(std::string_view name) const;
  // Throws NotFound naming the directory and the tensor.
  TensorView tensor(std::string_view name) const;
  // The file that holds the tensor.
  const std::filesystem::path& file_of(std::string_view name) const;
  // Bytes of all safetensors files, headers included.
  int64_t file_bytes() const;
  const std::vector<SafetensorsFile>& files() const { return files_; }

 private:
  struct Place {
    size_t file;
    size_t entry;
  };
  const Place& find(std::string_view name) const;
  void add_file(SafetensorsFile file);

  std::filesystem::path directory_;
  std::vector<SafetensorsFile> files_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, Place> places_;
};

}  // namespace vernier::io
