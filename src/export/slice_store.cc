#include "export/slice_store.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace vernier::exporting {
namespace {

[[noreturn]] void reject(const std::filesystem::path& place, std::string_view tensor,
                         std::string_view what, ErrorKind kind = ErrorKind::kCorrupt) {
  throw Error(kind, fmt::format("{}: tensor {}: {}", place.string(), tensor, what));
}

bool is_whole(const SlicedTensor& tensor, const Slice& slice) {
  const auto is_zero = [](int64_t start) { return start == 0; };
  return slice.shape == tensor.shape && slice.start.size() == tensor.shape.size() &&
         std::all_of(slice.start.begin(), slice.start.end(), is_zero);
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
  const std::filesystem::path manifest = directory_ / kManifestName;
  if (tensor.slices.size() != 1 || !is_whole(tensor, tensor.slices[0])) {
    reject(manifest, tensor.name,
           fmt::format("lies in {} slices, this program reads tensors that are whole in one file",
                       tensor.slices.size()),
           ErrorKind::kUnsupported);
  }
  const File& file = open(tensor.slices[0].file);
  const auto entry = file.entries.find(tensor.name);
  if (entry == file.entries.end()) {
    reject(file.mapped.path(), tensor.name,
           fmt::format("is not there, but {} says so", kManifestName));
  }
  const TensorView view = file.mapped.view(*entry->second);
  if (view.dtype != tensor.dtype || view.shape != tensor.shape) {
    reject(file.mapped.path(), tensor.name,
           fmt::format("found {} {}, {} says {} {}", dtype_info(view.dtype).name,
                       to_string(view.shape), kManifestName, dtype_info(tensor.dtype).name,
                       to_string(tensor.shape)));
  }
  views_.emplace(tensor.name, view);
  names_.push_back(tensor.name);
}

bool SliceStore::contains(std::string_view name) const {
  return views_.count(std::string(name)) != 0;
}

TensorView SliceStore::tensor(std::string_view name) const {
  const auto found = views_.find(std::string(name));
  if (found == views_.end()) {
    throw Error(ErrorKind::kNotFound,
                fmt::format("{}: no tensor {}", (directory_ / kManifestName).string(), name));
  }
  return found->second;
}

int64_t SliceStore::file_bytes() const {
  int64_t bytes = 0;
  for (const auto& [name, file] : files_) {
    bytes += static_cast<int64_t>(std::filesystem::file_size(file.mapped.path()));
  }
  return bytes;
}

}  // namespace vernier::exporting
