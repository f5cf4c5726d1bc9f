#include "export/output_plan.h"

#include <gmock/gmock.h>

#include "export/test_support.h"

namespace vernier::exporting {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace testing;  // NOLINT: test_support

// One attention layer and one MoE layer of two experts, small enough to list every tensor.
model::ModuleTree small_tree() {
  using model::Module;
  using model::ModuleKind;
  const auto linear = [](std::string name, int layer, int expert, std::string group) {
    Module module{.name = name, .layer = layer, .expert = expert, .n = 4, .k = 32};
    module.fusion_group = std::move(group);
    module.tensors = {{name + ".weight", {4, 32}}};
    return module;
  };
  std::vector<Module> modules;
  for (const std::string p : {"q", "k", "v"})
    modules.push_back(linear("l.0." + p, 0, -1, "l.0.qkv"));
  modules.push_back(linear("l.0.o", 0, -1, ""));
  Module gate{.name = "l.1.gate", .kind = ModuleKind::kRouter, .layer = 1};
  gate.tensors = {{"l.1.gate.weight", {2, 32}}, {"l.1.gate.bias", {2}}};
  modules.push_back(gate);
  for (int expert : {0, 1}) {
    modules.push_back(linear("l.1.experts." + std::to_string(expert) + ".up", 1, expert, ""));
  }
  return model::ModuleTree({model::LayerKind::kAttention, model::LayerKind::kMoe},
                           std::move(modules), {{"l.0", 0, "l.0.k", "l.0.v"}});
}

std::vector<io::TensorDecl> declare_all(const model::ModuleTree& tree) {
  std::vector<io::TensorDecl> decls;
  for (const model::Module& module : tree.modules()) {
    for (const model::TensorSpec& spec : module.tensors) {
      const bool is_bias = spec.shape.size() == 1;
      decls.push_back({spec.name, is_bias ? DType::kF32 : DType::kBF16, spec.shape});
    }
  }
  decls.push_back({"mtp.layers.0.norm.weight", DType::kF32, {8}});
  return decls;
}

SiteFormats small_formats(const model::Module& module) {
  if (module.expert >= 0) return {"nvfp4", "nvfp4"};
  return module.name == "l.0.o" ? SiteFormats{"fp8_e4m3", "fp8_e4m3"} : SiteFormats{};
}

std::vector<std::string> names(const std::vector<OutputTensor>& tensors) {
  std::vector<std::string> found;
  for (const OutputTensor& tensor : tensors) found.push_back(tensor.decl.name);
  return found;
}

TEST(PlanOutput, StateDictOrder) {
  const auto tree = small_tree();
  const auto plan = make_test_plan(tree, small_formats, "fp8_e4m3");
  EXPECT_THAT(
      names(plan_output(tree, plan, declare_all(tree), ScalarForm::kScale)),
      ElementsAre("l.0.q.weight", "l.0.k.weight", "l.0.v.weight", "l.0.o.weight",
                  "l.0.o.weight_scale", "l.0.o.input_scale", "l.0.k.k_scale", "l.0.v.v_scale",
                  "l.1.gate.weight", "l.1.gate.bias", "l.1.experts.0.up.weight",
                  "l.1.experts.0.up.weight_scale", "l.1.experts.0.up.input_scale",
                  "l.1.experts.0.up.weight_scale_2", "l.1.experts.1.up.weight",
                  "l.1.experts.1.up.weight_scale", "l.1.experts.1.up.input_scale",
                  "l.1.experts.1.up.weight_scale_2", "mtp.layers.0.norm.weight"));
}

TEST(PlanOutput, DtypesAndShapes) {
  const auto tree = small_tree();
  const auto plan = make_test_plan(tree, small_formats);
  for (const OutputTensor& tensor :
       plan_output(tree, plan, declare_all(tree), ScalarForm::kScale)) {
    if (tensor.decl.name == "l.1.experts.0.up.weight") {
      EXPECT_EQ(tensor.decl.dtype, DType::kU8);
      EXPECT_EQ(tensor.decl.shape, (Shape{4, 16}));
    }
    if (tensor.decl.name == "l.1.experts.0.up.weight_scale") {
      EXPECT_EQ(tensor.decl.dtype, DType::kF8E4M3);
      EXPECT_EQ(tensor.decl.shape, (Shape{4, 2}));
    }
    if (tensor.decl.name == "l.0.o.input_scale") {
      EXPECT_EQ(tensor.decl.dtype, DType::kF32);
      EXPECT_TRUE(tensor.decl.shape.empty());
    }
  }
}

TEST(PlanOutput, CastCachesAndWeightOnlySitesHaveNoScalars) {
  const auto tree = small_tree();
  const auto plan = make_test_plan(
      tree,
      [](const model::Module&) {
        return SiteFormats{"nvfp4", ""};
      },
      "fp8_e4m3", true);
  for (const std::string& name :
       names(plan_output(tree, plan, declare_all(tree), ScalarForm::kScale))) {
    EXPECT_EQ(name.find("input_scale"), name.npos);
    EXPECT_EQ(name.find("k_scale"), name.npos);
  }
}

TEST(PlanOutput, DtypeLeavesCorrectionBiasAndLooseTensors) {
  const auto tree = small_tree();
  const auto plan = make_test_plan(tree, small_formats);
  std::map<std::string, DType> dtypes;
  for (const OutputTensor& tensor :
       plan_output(tree, plan, declare_all(tree), ScalarForm::kScale, DType::kF16)) {
    dtypes[tensor.decl.name] = tensor.decl.dtype;
  }
  EXPECT_EQ(dtypes["l.0.q.weight"], DType::kF16);
  EXPECT_EQ(dtypes["l.1.gate.weight"], DType::kF16);
  EXPECT_EQ(dtypes["l.1.gate.bias"], DType::kF32);
  EXPECT_EQ(dtypes["mtp.layers.0.norm.weight"], DType::kF32);
}

TEST(PlanOutput, QuantizedModuleWithoutItsWeightIsRejected) {
  const auto tree = small_tree();
  const auto plan = make_test_plan(tree, small_formats);
  EXPECT_THAT(error_of([&] { plan_output(tree, plan, {}, ScalarForm::kScale); }),
              HasSubstr("l.0.o.weight: the source checkpoint has no tensor of this name"));
}

TEST(PlanOutput, ACachesMaximaBelongToTheirProjections) {
  const auto tree = small_tree();
  const auto plan = make_test_plan(tree, small_formats, "fp8_e4m3");
  std::map<std::string, const model::Module*> owners;
  for (const OutputTensor& tensor : plan_output(tree, plan, declare_all(tree), ScalarForm::kAmax)) {
    owners[tensor.decl.name] = tensor.owner;
  }
  EXPECT_EQ(owners["l.0.k.k_amax"], tree.find("l.0.k"));
  EXPECT_EQ(owners["l.0.v.v_amax"], tree.find("l.0.v"));
}

struct PlaneCutCase {
  std::string format;
  int64_t unit;                    // of inputs, of which there are 64
  std::vector<int64_t> n_columns;  // by plane; 0: whole
  std::vector<int64_t> units;
};

TEST(PlaneCut, ColumnsAreThoseOfTheSameInputs) {
  const PlaneCutCase cases[] = {
      {"bf16", 1, {64}, {1}},
      {"fp8_e4m3", 8, {64, 0}, {8, 0}},
      {"nvfp4", 32, {32, 4, 0}, {16, 2, 0}},
      {"nvfp4", 8, {0, 0, 0}, {0, 0, 0}},
  };
  for (const PlaneCutCase& expected : cases) {
    SCOPED_TRACE(expected.format);
    model::Module module{.name = "o", .n = 4, .k = 64};
    module.tensors = {
        {"o.weight",
         {4, 64},
         {.kind = model::CutKind::kColumns, .segments = {64}, .unit = expected.unit}}};
    const formats::Format& format = *formats::find_format(expected.format);
    ASSERT_EQ(format.planes.size(), expected.units.size());
    for (size_t plane = 0; plane < format.planes.size(); ++plane) {
      const model::Cut cut = plane_cut(module, format, format.planes[plane]);
      ASSERT_EQ(cut.is_cut(), expected.n_columns[plane] > 0);
      if (!cut.is_cut()) continue;
      EXPECT_THAT(cut.segments, ElementsAre(expected.n_columns[plane]));
      EXPECT_EQ(cut.unit, expected.units[plane]);
    }
  }
}

TEST(PlaneCut, RowsAreThoseOfTheWeight) {
  model::Module module{.name = "q", .n = 4, .k = 64};
  module.tensors = {{"q.weight", {4, 64}, {.kind = model::CutKind::kRows, .segments = {3, 1}}}};
  const formats::Format& format = *formats::find_format("nvfp4");
  EXPECT_THAT(plane_cut(module, format, format.planes[1]).segments, ElementsAre(3, 1));
  EXPECT_FALSE(plane_cut(module, format, format.planes[2]).is_cut());
}

OutputTensor bytes(const std::string& name, int64_t n) {
  return {{name, DType::kU8, {n}}, nullptr, true};
}

TEST(SplitIntoShards, FillsInOrder) {
  const auto files = split_into_shards(
      {bytes("a", 4), bytes("b", 4), bytes("c", 3), bytes("d", 2), bytes("e", 10)}, 10);
  ASSERT_EQ(files.size(), 3u);
  EXPECT_EQ(files[0].name, "model-00001-of-00003.safetensors");
  EXPECT_EQ(files[0].tensors.size(), 2u);  // a + b = 8, c would make 11
  EXPECT_EQ(files[1].tensors.size(), 2u);  // c + d = 5, e would make 15
  EXPECT_EQ(files[2].tensors[0].name, "e");
}

TEST(SplitIntoShards, TensorBeyondTheLimitIsAloneAndDoesNotCloseTheShard) {
  const auto files = split_into_shards({bytes("a", 4), bytes("big", 11), bytes("b", 4)}, 10);
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files[0].tensors[0].name, "big");
  ASSERT_EQ(files[1].tensors.size(), 2u);
  EXPECT_EQ(files[1].tensors[1].name, "b");
}

TEST(SplitIntoShards, OneShardHasThePlainName) {
  EXPECT_EQ(split_into_shards({bytes("a", 4)}, 10)[0].name, "model.safetensors");
}

TEST(ShardIndex, CountsAsThePeerDoes) {
  const auto tree = small_tree();
  const auto plan = make_test_plan(tree, small_formats);
  const auto tensors = plan_output(tree, plan, declare_all(tree), ScalarForm::kScale);
  const auto index = shard_index(tensors, split_into_shards(tensors, 200));
  // q, k, v: 128 elements each; o: 128 FP8 codes; the gate's 64; two experts of 64 bytes of codes.
  EXPECT_EQ(index["metadata"]["total_parameters"], 3 * 128 + 128 + 64 + 2 * 64);
  int64_t n_bytes = 0;
  for (const auto& tensor : tensors) n_bytes += tensor.decl.size_bytes();
  EXPECT_EQ(index["metadata"]["total_size"], n_bytes);
  EXPECT_EQ(index["weight_map"].size(), tensors.size());
  EXPECT_EQ(index["weight_map"].items().begin().key(), "l.0.k.weight");
}

// The bundled model's index was written by transformers.
TEST(ShardIndex, ParametersOfTheBundledModel) {
  const Source source(fs::path(VERNIER_SOURCE_DIR) / "models" / "tiny");
  const auto plan = make_test_plan(source.tree(), [](const auto&) { return SiteFormats{}; });
  const auto tensors = plan_output(source.tree(), plan, source.decls(), ScalarForm::kScale);
  const auto index = shard_index(tensors, split_into_shards(tensors, 14'000'000));
  const auto theirs = io::read_json(source.directory / "model.safetensors.index.json");
  EXPECT_EQ(index["metadata"], theirs["metadata"]);
}

}  // namespace
}  // namespace vernier::exporting
