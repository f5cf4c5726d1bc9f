#include "export/slice_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace vernier::exporting {
namespace {

[[noreturn]] void reject(const std::filesystem::path& place, std::string_view tensor,
                         std::string_view what, ErrorKind kind = ErrorKind::kCorrupt) {
  throw Error(kind, fmt::format("{}: tensor {}: {}", place.string(), tensor, what));
}

bool has_whole_bytes(DType dtype) { return dtype_info(dtype).bits % 8 == 0; }

// Exact up to 2^53 and without overflow beyond: the slices of a tensor, which lie in files, are
// never that many elements.
double volume(const Shape& shape) {
  double elems = 1;
  for (const int64_t length : shape) elems *= static_cast<double>(length);
  return elems;
}

// A tensor whole in a slice that says no more than that, as the first version has it.
bool is_whole(const SlicedTensor& tensor, const Slice& slice) {
  const Box all = whole_box(tensor.decl.shape);
  return slice.in_whole() == all && slice.file_start == all.start;
}

std::vector<PartBlock> whole_block(const Shape& shape) {
  Box all = whole_box(shape);
  std::vector<int64_t> start = all.start;
  return {{std::move(all), std::move(start)}};
}

}  // namespace

SliceStore::SliceStore(const std::filesystem::path& directory,
                       const std::vector<SlicedTensor>& tensors)
    : directory_(directory) {
  for (const SlicedTensor& tensor : tensors) add(tensor);
}

const SliceStore::File& SliceStore::open(const std::string& name) {
  const auto known = files_.find(name);
  if (known != files_.end()) return known->second;
  if (std::filesystem::path(name).filename() != name || name == "." || name == "..") {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: \"{}\" is not the name of a file in it",
                                                 (directory_ / kManifestName).string(), name));
  }
  File file{io::SafetensorsFile(directory_ / name), {}};
  for (const io::TensorEntry& entry : file.mapped.header().entries) {
    file.entries.emplace(entry.name, &entry);
  }
  return files_.emplace(name, std::move(file)).first->second;
}

void SliceStore::add(const SlicedTensor& tensor) {
  Stored stored{tensor.decl, {}};
  for (const Slice& slice : tensor.slices) stored.pieces.push_back(check_slice(tensor, slice));
  check_cover(stored);
  names_.push_back(tensor.decl.name);
  tensors_.emplace(tensor.decl.name, std::move(stored));
}

SliceStore::Piece SliceStore::check_slice(const SlicedTensor& tensor, const Slice& slice) {
  const io::TensorDecl& decl = tensor.decl;
  if (!is_within(slice.in_whole(), decl.shape)) {
    reject(directory_ / kManifestName, decl.name,
           fmt::format("a slice {} from {} on lies beyond its shape {}", to_string(slice.shape),
                       to_string(slice.start), to_string(decl.shape)));
  }
  const File& file = open(slice.file);
  const auto entry = file.entries.find(decl.name);
  if (entry == file.entries.end()) {
    reject(file.mapped.path(), decl.name,
           fmt::format("is not there, but {} says so", kManifestName));
  }
  const TensorView view = file.mapped.view(*entry->second);
  const bool is_alone = is_whole(tensor, slice);
  if (view.dtype != decl.dtype || (is_alone && view.shape != decl.shape)) {
    reject(file.mapped.path(), decl.name,
           fmt::format("found {} {}, {} says {} {}", dtype_info(view.dtype).name,
                       to_string(view.shape), kManifestName, dtype_info(decl.dtype).name,
                       to_string(decl.shape)));
  }
  if (!is_within(slice.in_file(), view.shape)) {
    reject(file.mapped.path(), decl.name,
           fmt::format("found {}, {} says that a slice {} from {} on lies there",
                       to_string(view.shape), kManifestName, to_string(slice.shape),
                       to_string(slice.file_start)));
  }
  if (!is_alone && !has_whole_bytes(decl.dtype)) {
    reject(directory_ / kManifestName, decl.name,
           fmt::format("is cut, expected {} whole in one file", dtype_info(decl.dtype).name),
           ErrorKind::kUnsupported);
  }
  return {slice.in_whole(), slice.file_start, view};
}

void SliceStore::check_cover(const Stored& stored) const {
  double covered = 0;
  for (size_t index = 0; index < stored.pieces.size(); ++index) {
    const Box& box = stored.pieces[index].in_whole;
    covered += volume(box.shape);
    for (size_t other = 0; other < index; ++other) {
      if (!intersection(box, stored.pieces[other].in_whole)) continue;
      reject(directory_ / kManifestName, stored.decl.name,
             fmt::format("its slices {} and {} overlap", other, index));
    }
  }
  if (covered == volume(stored.decl.shape)) return;
  reject(directory_ / kManifestName, stored.decl.name,
         fmt::format("its {} slices leave a gap, expected to cover {}", stored.pieces.size(),
                     to_string(stored.decl.shape)));
}

bool SliceStore::contains(std::string_view name) const {
  return tensors_.count(std::string(name)) != 0;
}

const SliceStore::Stored& SliceStore::find(std::string_view name) const {
  const auto found = tensors_.find(std::string(name));
  if (found == tensors_.end()) {
    throw Error(ErrorKind::kNotFound,
                fmt::format("{}: no tensor {}", (directory_ / kManifestName).string(), name));
  }
  return found->second;
}

const io::TensorDecl& SliceStore::decl(std::string_view name) const { return find(name).decl; }

FoundTensor SliceStore::whole(std::string_view name) const {
  const Stored& stored = find(name);
  return read(stored, whole_block(stored.decl.shape), stored.decl.shape);
}

FoundTensor SliceStore::part(std::string_view name, const TensorPart& part) const {
  const Stored& stored = find(name);
  const io::TensorDecl& decl = stored.decl;
  if (!has_whole_bytes(decl.dtype)) {
    reject(directory_ / kManifestName, name,
           fmt::format("holds {}, which cannot be cut", dtype_info(decl.dtype).name),
           ErrorKind::kUnsupported);
  }
  return read(stored, blocks_of(part, decl.shape), shape_of(part, decl.shape));
}

FoundTensor SliceStore::read(const Stored& stored, const std::vector<PartBlock>& blocks,
                             const Shape& shape) const {
  given_bytes_ += n_bytes(stored.decl.dtype, shape);
  for (const Piece& piece : stored.pieces) {
    if (blocks.size() != 1 ||
        intersection(blocks[0].in_whole, piece.in_whole) != blocks[0].in_whole)
      continue;
    const auto run = contiguous_bytes(piece.file_tensor, piece.in_file(blocks[0].in_whole));
    if (run) return {{stored.decl.dtype, shape, run->data()}, Tensor()};
  }
  Tensor copy(stored.decl.dtype, shape);
  for (const PartBlock& block : blocks) {
    for (const Piece& piece : stored.pieces) {
      const auto common = intersection(block.in_whole, piece.in_whole);
      if (!common) continue;
      copy_box(piece.file_tensor, piece.in_file(*common), copy,
               moved(*common, block.in_whole.start, block.in_part).start);
    }
  }
  const TensorView view = copy.view();
  return {view, std::move(copy)};
}

std::vector<std::span<const std::byte>> SliceStore::regions_of_whole(std::string_view name) const {
  const Stored& stored = find(name);
  return regions(stored, whole_block(stored.decl.shape));
}

std::vector<std::span<const std::byte>> SliceStore::regions_of_part(std::string_view name,
                                                                    const TensorPart& part) const {
  const Stored& stored = find(name);
  return regions(stored, blocks_of(part, stored.decl.shape));
}

std::vector<std::span<const std::byte>> SliceStore::regions(const Stored& stored,
                                                            const std::vector<PartBlock>& blocks) {
  std::vector<std::span<const std::byte>> found;
  for (const PartBlock& block : blocks) {
    for (const Piece& piece : stored.pieces) {
      const auto common = intersection(block.in_whole, piece.in_whole);
      if (common) found.push_back(spanned_bytes(piece.file_tensor, piece.in_file(*common)));
    }
  }
  return found;
}

int64_t SliceStore::file_bytes() const {
  int64_t bytes = 0;
  for (const auto& [name, file] : files_) {
    bytes += static_cast<int64_t>(std::filesystem::file_size(file.mapped.path()));
  }
  return bytes;
}

}  // namespace vernier::exporting
