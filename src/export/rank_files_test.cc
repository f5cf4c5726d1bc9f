#include "export/rank_files.h"

#include <gmock/gmock.h>

#include "export/sharded_test_support.h"

namespace vernier::exporting {
namespace {

using model::CutKind;
using ::testing::ElementsAre;
using namespace testing;  // NOLINT: test_support

// A slice as text: file without its ending, block, place in the file.
std::string text_of(const Slice& slice) {
  return slice.file.substr(0, slice.file.find('.')) + " " + to_string(slice.shape) + " from " +
         to_string(slice.start) + " at " + to_string(slice.file_start);
}

std::vector<std::string> texts_of(const SlicedTensor& tensor) {
  std::vector<std::string> texts;
  for (const Slice& slice : tensor.slices) texts.push_back(text_of(slice));
  return texts;
}

class RankFiles : public ::testing::Test {
 protected:
  std::vector<std::string> slices(const std::string& name, int64_t tp, int64_t pp,
                                  int64_t ep) const {
    const auto tensors = plan_output(source_.tree(), plan_, decls(), ScalarForm::kAmax);
    for (const SlicedTensor& tensor :
         cut_over_ranks(tensors, source_.tree(), layout_of(tp, pp, ep))) {
      if (tensor.decl.name == name) return texts_of(tensor);
    }
    return {};
  }

  std::vector<io::TensorDecl> decls() const {
    std::vector<io::TensorDecl> all = source_.decls();
    all.push_back({"mtp.norm.weight", DType::kBF16, {64}});
    return all;
  }

  // Layers: Mamba, MoE, attention, MoE, MLP, Mamba.
  Source source_{golden("latent/checkpoint")};
  quant::QuantPlan plan_ = make_test_plan(source_.tree(), all_nvfp4, "fp8_e4m3");
};

TEST_F(RankFiles, OneRankHasEverythingWhole) {
  EXPECT_THAT(slices("backbone.layers.0.mixer.in_proj.weight", 1, 1, 1),
              ElementsAre("dense-pp00-tp00 [324, 32] from [0, 0] at [0, 0]"));
  EXPECT_THAT(slices("backbone.layers.1.mixer.experts.7.up_proj.weight", 1, 1, 1),
              ElementsAre("experts-pp00-ep00 [48, 16] from [0, 0] at [0, 0]"));
}

// z, x, B, C and dt are cut each on its own: 128, 128, 32, 32 and 4 rows.
TEST_F(RankFiles, SegmentsLieOneAfterAnother) {
  EXPECT_THAT(slices("backbone.layers.0.mixer.in_proj.weight", 2, 1, 1),
              ElementsAre("dense-pp00-tp00 [64, 32] from [0, 0] at [0, 0]",
                          "dense-pp00-tp00 [64, 32] from [128, 0] at [64, 0]",
                          "dense-pp00-tp00 [16, 32] from [256, 0] at [128, 0]",
                          "dense-pp00-tp00 [16, 32] from [288, 0] at [144, 0]",
                          "dense-pp00-tp00 [2, 32] from [320, 0] at [160, 0]",
                          "dense-pp00-tp01 [64, 32] from [64, 0] at [0, 0]",
                          "dense-pp00-tp01 [64, 32] from [192, 0] at [64, 0]",
                          "dense-pp00-tp01 [16, 32] from [272, 0] at [128, 0]",
                          "dense-pp00-tp01 [16, 32] from [304, 0] at [144, 0]",
                          "dense-pp00-tp01 [2, 32] from [322, 0] at [160, 0]"));
}

// 128 inputs are 64 bytes of codes and 8 block scales.
TEST_F(RankFiles, PlanesAreCutAsTheirWeight) {
  const std::string o_proj = "backbone.layers.2.mixer.o_proj";
  EXPECT_THAT(slices(o_proj + ".weight", 2, 1, 1),
              ElementsAre("dense-pp00-tp00 [64, 32] from [0, 0] at [0, 0]",
                          "dense-pp00-tp01 [64, 32] from [0, 32] at [0, 0]"));
  EXPECT_THAT(slices(o_proj + ".weight_scale", 2, 1, 1),
              ElementsAre("dense-pp00-tp00 [64, 4] from [0, 0] at [0, 0]",
                          "dense-pp00-tp01 [64, 4] from [0, 4] at [0, 0]"));
  EXPECT_THAT(slices(o_proj + ".weight_scale_2", 2, 1, 1),
              ElementsAre("dense-pp00-tp00 [] from [] at []"));
  EXPECT_THAT(slices(o_proj + ".input_amax", 2, 1, 1),
              ElementsAre("dense-pp00-tp00 [] from [] at []"));
}

// Two KV heads on four ranks.
TEST_F(RankFiles, AHeadThatRanksHaveInCommonIsStoredOnce) {
  EXPECT_THAT(slices("backbone.layers.2.mixer.k_proj.weight", 4, 1, 1),
              ElementsAre("dense-pp00-tp00 [32, 32] from [0, 0] at [0, 0]",
                          "dense-pp00-tp02 [32, 32] from [32, 0] at [0, 0]"));
}

TEST_F(RankFiles, StagesHoldTheirLayersAndTheEndsWhatIsOutside) {
  EXPECT_THAT(slices("backbone.embeddings.weight", 2, 2, 1),
              ElementsAre("dense-pp00-tp00 [192, 64] from [0, 0] at [0, 0]",
                          "dense-pp00-tp01 [192, 64] from [192, 0] at [0, 0]"));
  EXPECT_THAT(slices("lm_head.weight", 2, 2, 1),
              ElementsAre("dense-pp01-tp00 [192, 64] from [0, 0] at [0, 0]",
                          "dense-pp01-tp01 [192, 64] from [192, 0] at [0, 0]"));
  EXPECT_THAT(slices("backbone.norm_f.weight", 2, 2, 1),
              ElementsAre("dense-pp01-tp00 [64] from [0] at [0]"));
  EXPECT_THAT(slices("mtp.norm.weight", 2, 2, 1),
              ElementsAre("dense-pp01-tp00 [64] from [0] at [0]"));
  EXPECT_THAT(slices("backbone.layers.0.norm.weight", 1, 6, 1),
              ElementsAre("dense-pp00-tp00 [64] from [0] at [0]"));
  // A cache's maxima stand with their layer.
  EXPECT_THAT(slices("backbone.layers.2.mixer.v_proj.v_amax", 2, 6, 1),
              ElementsAre("dense-pp02-tp00 [] from [] at []"));
}

TEST_F(RankFiles, ExpertRanksHoldNeighbours) {
  const auto file_of = [&](int expert, int64_t ep) {
    return slices("backbone.layers.3.mixer.experts." + std::to_string(expert) +
                      ".up_proj.weight_scale_2",
                  2, 6, ep)
        .at(0);
  };
  EXPECT_EQ(file_of(3, 2), "experts-pp03-ep00 [] from [] at []");
  EXPECT_EQ(file_of(4, 2), "experts-pp03-ep01 [] from [] at []");
  EXPECT_EQ(file_of(7, 8), "experts-pp03-ep07 [] from [] at []");
}

// A unit of 8 inputs, of which a block would be two.
TEST(RankFilesOfATree, WhatWouldDivideABlockStaysWhole) {
  model::Module module{.name = "l.0.o", .layer = 0, .n = 4, .k = 32};
  module.tensors = {
      {"l.0.o.weight", {4, 32}, {.kind = CutKind::kColumns, .segments = {32}, .unit = 8}}};
  const model::ModuleTree tree({model::LayerKind::kMlp}, {module}, {});
  for (const auto& [format, n_slices] : {std::pair("nvfp4", 1), std::pair("fp8_e4m3", 2)}) {
    const auto plan = make_test_plan(tree, [&](const auto&) { return SiteFormats{format, ""}; });
    const auto tensors =
        plan_output(tree, plan, {{"l.0.o.weight", DType::kBF16, {4, 32}}}, ScalarForm::kAmax);
    const auto sliced = cut_over_ranks(tensors, tree, layout_of(2, 1, 1));
    EXPECT_EQ(std::ssize(sliced.front().slices), n_slices) << format;
  }
}

}  // namespace
}  // namespace vernier::exporting
