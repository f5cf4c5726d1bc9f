#include "export/tensor_files.h"

#include "base/check.h"

namespace vernier::exporting {

TensorFiles::TensorFiles(const std::filesystem::path& directory,
                         const std::vector<TensorFile>& files, bool resume) {
  for (const TensorFile& file : files) {
    for (const io::TensorDecl& decl : file.tensors) {
      const bool is_new = places_.emplace(decl.name, Place{writers_.size(), decl}).second;
      VERNIER_CHECK(is_new);
    }
    writers_.emplace_back(directory / file.name, file.tensors, resume);
  }
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
  writers_[place.file].write(name, tensor.bytes());
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
