#include "export/rank_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "export/tensor_part.h"
#include "model/stage.h"

namespace vernier::exporting {
namespace {

using model::Module;

class RankFiles {
 public:
  RankFiles(const model::ModuleTree& tree, const comm::Layout& layout)
      : tree_(tree), layout_(layout), stages_(tree.layers().size()) {
    for (int64_t stage = 0; stage < layout.pp(); ++stage) {
      const comm::Range layers = model::stage_layers(tree, {stage, layout.pp()});
      std::fill(stages_.begin() + layers.begin, stages_.begin() + layers.end, stage);
    }
  }

  SlicedTensor place(const OutputTensor& tensor) const {
    const int64_t stage = stage_of(tensor.owner);
    if (tensor.owner != nullptr && tensor.owner->expert >= 0) {
      return whole_in(
          fmt::format("experts-pp{:02}-ep{:02}.safetensors", stage, expert_rank_of(*tensor.owner)),
          tensor.decl);
    }
    const bool has_whole_bytes = dtype_info(tensor.decl.dtype).bits % 8 == 0;
    if (!tensor.cut.is_cut() || !has_whole_bytes) return whole_in(dense(stage, 0), tensor.decl);
    return cut(tensor, stage);
  }

 private:
  static std::string dense(int64_t stage, int64_t rank) {
    return fmt::format("dense-pp{:02}-tp{:02}.safetensors", stage, rank);
  }

  // Outside of the stack, the token table comes before it, all else after.
  int64_t stage_of(const Module* owner) const {
    if (owner != nullptr && owner->layer >= 0) return stages_[static_cast<size_t>(owner->layer)];
    const bool is_first = owner != nullptr && owner->kind == model::ModuleKind::kEmbedding;
    return is_first ? 0 : layout_.pp() - 1;
  }

  int64_t expert_rank_of(const Module& module) const {
    const int64_t n_experts = tree_.n_experts(module.layer);
    int64_t rank = 0;
    while (comm::part_of(n_experts, {rank, layout_.ep()}).end <= module.expert) ++rank;
    return rank;
  }

  SlicedTensor cut(const OutputTensor& tensor, int64_t stage) const {
    SlicedTensor sliced{tensor.decl, {}};
    for (int64_t rank = 0; rank < layout_.tp(); ++rank) {
      const TensorPart part = stored_part(tensor.cut, tensor.decl.shape, {rank, layout_.tp()});
      for (PartBlock& block : blocks_of(part, tensor.decl.shape)) {
        sliced.slices.push_back({dense(stage, rank), std::move(block.in_whole.start),
                                 std::move(block.in_whole.shape), std::move(block.in_part)});
      }
    }
    return sliced;
  }

  const model::ModuleTree& tree_;
  const comm::Layout& layout_;
  std::vector<int64_t> stages_;  // by layer
};

}  // namespace

std::vector<SlicedTensor> cut_over_ranks(const std::vector<OutputTensor>& tensors,
                                         const model::ModuleTree& tree,
                                         const comm::Layout& layout) {
  const RankFiles files(tree, layout);
  std::vector<SlicedTensor> sliced;
  sliced.reserve(tensors.size());
  for (const OutputTensor& tensor : tensors) sliced.push_back(files.place(tensor));
  return sliced;
}

}  // namespace vernier::exporting
