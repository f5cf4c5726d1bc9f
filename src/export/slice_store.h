// The tensors of a sharded checkpoint, put together from the slices that hold them.
#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "export/sharded_manifest.h"
#include "export/tensor_part.h"
#include "io/safetensors.h"

namespace vernier::exporting {

// A tensor as it was asked for.
struct FoundTensor {
  TensorView view;
  Tensor copy;  // holds the view's bytes where no file has them in one run; else empty

  bool is_mapped() const { return copy.view().data == nullptr; }
};

// Safe for concurrent reads. Views of mapped files live as long as the store.
class SliceStore {
 public:
  // Maps the files and checks every slice against the file that is said to hold it, and that the
  // slices of a tensor cover it once. Throws NotFound, Corrupt or Unsupported, naming file and
  // tensor.
  SliceStore(const std::filesystem::path& directory, const std::vector<SlicedTensor>& tensors);

  bool contains(std::string_view name) const;
  // Type and shape of the whole. Throws NotFound naming directory and tensor.
  const io::TensorDecl& decl(std::string_view name) const;
  // All of a tensor, or what a part holds of it, of which only the bytes are read. Throws NotFound,
  // and Unsupported for a part of a tensor whose elements are no whole bytes.
  FoundTensor whole(std::string_view name) const;
  FoundTensor part(std::string_view name, const TensorPart& part) const;
  // Where in the mapped files the bytes of the same lie.
  std::vector<std::span<const std::byte>> regions_of_whole(std::string_view name) const;
  std::vector<std::span<const std::byte>> regions_of_part(std::string_view name,
                                                          const TensorPart& part) const;

  const std::filesystem::path& directory() const { return directory_; }
  // Every tensor, in the manifest's order.
  const std::vector<std::string>& names() const { return names_; }
  // Bytes of all files, headers included.
  int64_t file_bytes() const;
  // Bytes of all that whole() and part() gave so far.
  int64_t given_bytes() const { return given_bytes_; }

 private:
  // A mapped file and its entries by name.
  struct File {
    io::SafetensorsFile mapped;
    std::unordered_map<std::string_view, const io::TensorEntry*> entries;
  };
  // A slice where it lies: `in_file` of a file's tensor is `in_whole`.
  struct Piece {
    Box in_whole;
    std::vector<int64_t> file_start;
    TensorView file_tensor;

    Box in_file(const Box& common) const { return moved(common, in_whole.start, file_start); }
  };
  struct Stored {
    io::TensorDecl decl;
    std::vector<Piece> pieces;
  };

  const File& open(const std::string& name);
  void add(const SlicedTensor& tensor);
  Piece check_slice(const SlicedTensor& tensor, const Slice& slice);
  void check_cover(const Stored& stored) const;

  const Stored& find(std::string_view name) const;
  FoundTensor read(const Stored& stored, const std::vector<PartBlock>& blocks,
                   const Shape& shape) const;
  static std::vector<std::span<const std::byte>> regions(const Stored& stored,
                                                         const std::vector<PartBlock>& blocks);

  std::filesystem::path directory_;
  std::map<std::string, File> files_;
  std::unordered_map<std::string, Stored> tensors_;
  std::vector<std::string> names_;
  mutable std::atomic<int64_t> given_bytes_ = 0;
};

}  // namespace vernier::exporting
