#include "export/slices.h"

#include <utility>

namespace vernier::exporting {

SlicedTensor whole_in(const std::string& file, io::TensorDecl decl) {
  const Box all = whole_box(decl.shape);
  return {std::move(decl), {{file, all.start, all.shape, all.start}}};
}

std::vector<SlicedTensor> whole_in(const std::vector<TensorFile>& files) {
  std::vector<SlicedTensor> tensors;
  for (const TensorFile& file : files) {
    for (const io::TensorDecl& decl : file.tensors) tensors.push_back(whole_in(file.name, decl));
  }
  return tensors;
}

}  // namespace vernier::exporting
