#include "export/tensor_files.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/check.h"

namespace vernier::exporting {
namespace {

// The smallest tensor that holds the slices where they lie in the file.
Shape enclosing_shape(const std::vector<Slice>& slices) {
  Shape shape(slices.front().shape.size(), 0);
  for (const Slice& slice : slices) {
    for (size_t dim = 0; dim < shape.size(); ++dim) {
      shape[dim] = std::max(shape[dim], slice.file_start[dim] + slice.shape[dim]);
    }
  }
  return shape;
}

}  // namespace

TensorFiles::TensorFiles(const std::filesystem::path& directory,
                         const std::vector<SlicedTensor>& tensors, bool resume) {
  std::map<std::string, size_t> numbers;
  std::vector<TensorFile> files;
  for (const SlicedTensor& tensor : tensors) {
    Place place{tensor.decl, {}};
    for (const Slice& slice : tensor.slices) {
      const auto [number, is_new] = numbers.try_emplace(slice.file, files.size());
      if (is_new) files.push_back({slice.file, {}});
      add(slice, number->second, place.parts);
    }
    for (Part& part : place.parts) {
      part.shape = enclosing_shape(part.slices);
      files[part.file].tensors.push_back({tensor.decl.name, tensor.decl.dtype, part.shape});
    }
    VERNIER_CHECK(places_.emplace(tensor.decl.name, std::move(place)).second);
  }
  for (const TensorFile& file : files) {
    writers_.emplace_back(directory / file.name, file.tensors, resume);
  }
}

void TensorFiles::add(const Slice& slice, size_t file, std::vector<Part>& parts) {
  const auto found = std::ranges::find(parts, file, &Part::file);
  Part& part = found == parts.end() ? parts.emplace_back(Part{file, {}, {}}) : *found;
  part.slices.push_back(slice);
}

const io::TensorDecl* TensorFiles::find(std::string_view name) const {
  const auto found = places_.find(std::string(name));
  return found == places_.end() ? nullptr : &found->second.decl;
}

void TensorFiles::write(std::string_view name, const TensorView& tensor) {
  const auto found = places_.find(std::string(name));
  VERNIER_CHECK(found != places_.end());
  const Place& place = found->second;
  VERNIER_CHECK(tensor.dtype == place.decl.dtype && tensor.shape == place.decl.shape);
  for (const Part& part : place.parts) write_part(part, name, tensor);
}

void TensorFiles::write_part(const Part& part, std::string_view name, const TensorView& tensor) {
  if (part.slices.size() == 1) {
    if (const auto bytes = contiguous_bytes(tensor, part.slices.front().in_whole())) {
      writers_[part.file].write(name, *bytes);
      return;
    }
  }
  Tensor gathered(tensor.dtype, part.shape);
  for (const Slice& slice : part.slices) {
    copy_box(tensor, slice.in_whole(), gathered, slice.file_start);
  }
  writers_[part.file].write(name, gathered.view().bytes());
}

void TensorFiles::write_scalar(std::string_view name, float value) {
  write(name, {DType::kF32, {}, reinterpret_cast<const std::byte*>(&value)});
}

void TensorFiles::sync() {
  for (io::SafetensorsWriter& writer : writers_) writer.sync();
}

void TensorFiles::finish() {
  for (io::SafetensorsWriter& writer : writers_) writer.finish();
}

}  // namespace vernier::exporting
