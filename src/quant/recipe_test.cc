#include "quant/recipe.h"

#include <gmock/gmock.h>

#include "quant/nearest.h"
#include "quant/test_files.h"

namespace vernier::quant {
namespace {

using testing::AllOf;
using testing::HasSubstr;

using RecipeLanguage = RecipeFiles;

TEST(Nearest, ToleratesHalfOfTheLetters) {
  const std::string_view names[] = {"enable", "cfg", "quantizer_name"};
  EXPECT_EQ(nearest("enabled", names), "enable");
  EXPECT_EQ(nearest("quantiser_names", names), "quantizer_name");
  EXPECT_EQ(nearest("mode", names), std::nullopt);
  EXPECT_EQ(did_you_mean("enabel", names), "; did you mean \"enable\"?");
}

TEST_F(RecipeLanguage, ReadsMetadataAlgorithmRulesAndExport) {
  const Recipe recipe = load_recipe(write("my_recipe.yaml", R"(# a comment
metadata:
  recipe_type: ptq
  description: >
    Two lines
    of text.
quantize:
  algorithm: {method: mse, start_multiplier: 0.5, stop_multiplier: 2, step_size: 0.25}
  quant_cfg:
    - quantizer_name: '*'
      enable: false
    - {quantizer_name: '*input_quantizer', cfg: nvfp4}
    - {quantizer_name: '*', parent_class: nn.Embedding, enable: false}
export: {mamba_ssm_cache_dtype: float16}
)"));
  EXPECT_EQ(recipe.name, "my_recipe");
  EXPECT_EQ(recipe.description, "Two lines of text.");
  EXPECT_EQ(recipe.algorithm.method, AlgorithmMethod::kMse);
  EXPECT_FALSE(recipe.algorithm.fp8_scale_sweep);
  EXPECT_EQ(recipe.algorithm.start, 0.5f);
  EXPECT_EQ(recipe.algorithm.stop, 2.0f);
  EXPECT_EQ(recipe.algorithm.step, 0.25f);
  EXPECT_EQ(recipe.mamba_ssm_cache_dtype, "float16");
  ASSERT_EQ(recipe.rules.size(), 3u);
  EXPECT_FALSE(recipe.rules[0].enable);
  EXPECT_FALSE(recipe.rules[0].config);
  EXPECT_TRUE(recipe.rules[1].enable);
  EXPECT_EQ(recipe.rules[1].config->format, formats::find_format("nvfp4"));
  EXPECT_EQ(recipe.rules[1].origin, (folder_ / "my_recipe.yaml").string());
  EXPECT_EQ(recipe.rules[2].parent_class, "nn.Embedding");
}

TEST_F(RecipeLanguage, AlgorithmDefaultsToMaxAndTheSearchToTheFullGrid) {
  const Recipe plain = load_recipe(write("recipe.yaml", R"(
metadata: {recipe_type: ptq}
quantize:
  quant_cfg: [{quantizer_name: '*', enable: false}]
)"));
  EXPECT_EQ(plain.algorithm.method, AlgorithmMethod::kMax);
  const Recipe searched =
      load_recipe(write_recipe("  - {quantizer_name: '*', enable: false}\n", "mse"));
  EXPECT_EQ(searched.algorithm.start, 0.25f);
  EXPECT_EQ(searched.algorithm.stop, 4.0f);
  EXPECT_EQ(searched.algorithm.step, 0.1f);
}

TEST_F(RecipeLanguage, AttributesSayTheSameAsNames) {
  const auto config = [&](const std::string& cfg) {
    const Recipe recipe =
        load_recipe(write_recipe("  - {quantizer_name: '*', cfg: " + cfg + "}\n"));
    return *recipe.rules[0].config;
  };
  struct Case {
    const char* attributes;
    const char* name;
  };
  for (const Case& item : {
           Case{"{num_bits: e4m3}", "fp8_e4m3"},
           Case{"{num_bits: E4M3, axis: null}", "fp8_e4m3"},
           Case{"{num_bits: [4, 3], type: static, calibrator: max}", "fp8_e4m3"},
           Case{"{num_bits: '(4, 3)', block_sizes: null, fake_quant: true}", "fp8_e4m3"},
           Case{"{num_bits: e2m1, block_sizes: {-1: 16, type: dynamic, scale_bits: e4m3}}",
                "nvfp4"},
           Case{"{num_bits: [2, 1], effective_bits: 4.5, block_sizes: {-1: 16, -2: null, type: "
                "dynamic, scale_bits: [4, 3]}}",
                "nvfp4"},
           Case{"{num_bits: e2m1, block_sizes: {-1: 16, scale_bits: e4m3}}", "nvfp4_static"},
           Case{"{num_bits: e2m1, block_sizes: {-1: 16, type: static, scale_bits: e4m3, "
                "four_over_six: true}}",
                "nvfp4_four_over_six"},
       }) {
    const QuantizerConfig from_attributes = config(item.attributes);
    const QuantizerConfig from_name = config(item.name);
    EXPECT_EQ(from_attributes.format, from_name.format) << item.attributes;
    EXPECT_EQ(from_attributes.is_static, from_name.is_static) << item.attributes;
    EXPECT_EQ(from_attributes.four_over_six, from_name.four_over_six) << item.attributes;
  }
  EXPECT_TRUE(config("{num_bits: e4m3, use_constant_amax: true}").use_constant_amax);
  EXPECT_EQ(config("{num_bits: e4m3, constant_amax: 2688}").constant_amax, 2688.0f);
  EXPECT_TRUE(config("nvfp4_static").is_static);
  EXPECT_FALSE(config("nvfp4").is_static);
}

TEST_F(RecipeLanguage, ImportsSpliceListsAndMergeMappings) {
  write("parts/off.yaml", "- {quantizer_name: '*', enable: false}\n- $import: more\n");
  write("parts/one.yaml", "quantizer_name: '*one*'\nenable: false\n");
  write("base.yaml", "num_bits: e4m3\nuse_constant_amax: true\n");
  write("parts/off.yaml", R"(# header document
imports:
  one: one
---
- {quantizer_name: '*', enable: false}
- $import: one
- $import: one
)");
  const Recipe recipe = load_recipe(write("recipe.yaml", R"(
imports:
  off: parts/off
  base: base
metadata: {recipe_type: ptq}
quantize:
  quant_cfg:
    - $import: off
    - quantizer_name: '*input_quantizer'
      cfg:
        $import: base
        use_constant_amax: false
    - quantizer_name: '*[kv]_bmm_quantizer'
      cfg: {$import: base}
)"));
  ASSERT_EQ(recipe.rules.size(), 5u);
  EXPECT_EQ(recipe.rules[0].pattern, "*");
  EXPECT_EQ(recipe.rules[0].origin, (folder_ / "parts/off.yaml").string());
  EXPECT_EQ(recipe.rules[1].pattern, "*one*");
  EXPECT_EQ(recipe.rules[2].origin, (folder_ / "parts/one.yaml").string());
  EXPECT_FALSE(recipe.rules[3].config->use_constant_amax);
  EXPECT_EQ(recipe.rules[3].origin, (folder_ / "recipe.yaml").string());
  EXPECT_TRUE(recipe.rules[4].config->use_constant_amax);
}

TEST_F(RecipeLanguage, ShippedFilesComeBeforeNeighbours) {
  write("units/base_disable_all.yaml", "- {quantizer_name: 'mine', enable: false}\n");
  const Recipe recipe = load_recipe(write("recipe.yaml", R"(
imports: {off: units/base_disable_all}
metadata: {recipe_type: ptq}
quantize: {quant_cfg: [{$import: off}]}
)"));
  EXPECT_EQ(recipe.rules[0].pattern, "*");
  EXPECT_EQ(recipe.rules[0].origin, "recipes/units/base_disable_all.yaml");
}

// The form and paths of Model Optimizer's files.
TEST_F(RecipeLanguage, ReadsAPeersPreset) {
  const Recipe recipe = load_recipe(write("preset.yml", R"(
# modelopt-schema: modelopt.torch.quantization.config.QuantizeConfig
imports:
  base_disable_all: configs/ptq/units/base_disable_all
  default_disabled_quantizers: configs/ptq/units/default_disabled_quantizers
  nvfp4: configs/numerics/nvfp4
  nvfp4_static: configs/numerics/nvfp4_static
  kv: configs/ptq/units/kv_fp8_cast

algorithm:
  method: mse
  fp8_scale_sweep: true
effective_bits: 4.5
quant_cfg:
  - $import: base_disable_all
  - quantizer_name: '*weight_quantizer'
    enable: true
    cfg:
      $import: nvfp4_static
  - quantizer_name: '*input_quantizer'
    cfg: {$import: nvfp4}
  - $import: kv
  - $import: default_disabled_quantizers
)"));
  EXPECT_TRUE(recipe.algorithm.fp8_scale_sweep);
  EXPECT_EQ(recipe.rules.size(), 8u);
  EXPECT_TRUE(recipe.rules[1].config->is_static);
  EXPECT_FALSE(recipe.rules[2].config->is_static);
  EXPECT_TRUE(recipe.rules[3].config->use_constant_amax);
}

TEST_F(RecipeLanguage, SuffixMayBeLeftOut) {
  write("mine.yml", "quant_cfg: [{quantizer_name: '*', enable: false}]\n");
  EXPECT_EQ(load_recipe((folder_ / "mine").string()).name, "mine");
}

TEST_F(RecipeLanguage, EmptyCfgCountsAsNoneWhenDisabling) {
  const Recipe recipe =
      load_recipe(write_recipe("  - {quantizer_name: '*', cfg: {}, enable: false}\n"));
  EXPECT_FALSE(recipe.rules[0].config);
  EXPECT_FALSE(recipe.rules[0].enable);
}

struct BadRule {
  const char* rule;
  ErrorKind kind;
  const char* message;
};
constexpr auto kInvalid = ErrorKind::kInvalidArgument;
constexpr auto kUnsupported = ErrorKind::kUnsupported;

TEST_F(RecipeLanguage, RejectsBadRules) {
  const BadRule cases[] = {
      {"{quantizer_name: '*', enabel: false}", kInvalid,
       "quantize.quant_cfg[0].enabel: unknown key; did you mean \"enable\"?"},
      {"{quantizer_name: '*', colour: red}", kInvalid,
       "unknown key; known are quantizer_name, parent_class, cfg, enable"},
      {"{quantizer_name: '*'}", kInvalid, "quant_cfg[0]: an entry needs cfg, enable or both"},
      {"{enable: false}", kInvalid, "the key \"quantizer_name\" is missing"},
      {"{quantizer_name: 7, enable: false}", kInvalid,
       "quant_cfg[0].quantizer_name: found 7, expected a string"},
      {"{quantizer_name: '*', enable: 1}", kInvalid, "found 1, expected true or false"},
      {"{quantizer_name: '*', cfg: {}}", kInvalid, "an empty cfg enables nothing"},
      {"{quantizer_name: '*', cfg: {}, enable: true}", kInvalid, "an empty cfg enables nothing"},
      {"{quantizer_name: '*', cfg: {enable: true}}", kInvalid,
       "cfg.enable: enable stands beside cfg, not inside"},
      {"{quantizer_name: '*', cfg: nvpf4}", kInvalid,
       "unknown format \"nvpf4\"; did you mean \"nvfp4\"?; known are fp8_e4m3, nvfp4"},
      {"{quantizer_name: '*', cfg: bf16}", kInvalid, "write enable: false"},
      {"{quantizer_name: '*', cfg: 8}", kInvalid, "expected the name of a format or a mapping"},
      {"{quantizer_name: '*', cfg: [nvfp4, fp8_e4m3]}", kUnsupported,
       "several quantizers in a row"},
      {"{quantizer_name: '*', parent_class: nn.Linaer, enable: false}", kInvalid,
       "unknown class \"nn.Linaer\"; did you mean \"nn.Linear\"?"},
      {"{quantizer_name: '*', cfg: {num_bit: e4m3}}", kInvalid,
       "cfg.num_bit: unknown key; did you mean \"num_bits\"?"},
      {"{quantizer_name: '*', cfg: {axis: null}}", kUnsupported, "without num_bits"},
      {"{quantizer_name: '*', cfg: {num_bits: 8}}", kUnsupported,
       "no format has num_bits 8; available are fp8_e4m3"},
      {"{quantizer_name: '*', cfg: {num_bits: e5m2}}", kUnsupported,
       "no format has num_bits \"e5m2\""},
      {"{quantizer_name: '*', cfg: {num_bits: fp8}}", kInvalid,
       "expected bits like e4m3 or [4, 3]"},
      {"{quantizer_name: '*', cfg: {num_bits: e4m3, axis: 0}}", kUnsupported,
       "cfg.axis: found 0: one scale per channel is not available; expected null"},
      {"{quantizer_name: '*', cfg: {num_bits: e4m3, type: dynamic}}", kUnsupported,
       "a scale per call is not available"},
      {"{quantizer_name: '*', cfg: {num_bits: e4m3, calibrator: histogram}}", kUnsupported,
       "activations are calibrated by their maximum"},
      {"{quantizer_name: '*', cfg: {num_bits: e4m3, bias: {-2: null}}}", kUnsupported,
       "affine quantization is not available"},
      {"{quantizer_name: '*', cfg: {num_bits: e4m3, rotate: true}}", kUnsupported,
       "rotation is not available"},
      {"{quantizer_name: '*', cfg: {num_bits: e2m1, block_sizes: {-1: 32, scale_bits: e8m0}}}",
       kUnsupported, "no format has num_bits \"e2m1\" with block_sizes {\"-1\":32"},
      {"{quantizer_name: '*', cfg: {num_bits: e4m3, block_sizes: {-1: 128, -2: 128}}}",
       kUnsupported, "block_sizes.-2: blocks along axis -2 are not available"},
      {"{quantizer_name: '*', cfg: {num_bits: e2m1, block_sizes: {-1: 16, typ: static}}}", kInvalid,
       "block_sizes.typ: unknown key; did you mean \"type\"?"},
      {"{quantizer_name: '*', cfg: {num_bits: e2m1, block_sizes: {-1: 16, type: fixed}}}", kInvalid,
       "found \"fixed\", expected static or dynamic"},
      {"{quantizer_name: '*', cfg: {num_bits: e2m1, block_sizes: {-1: 16, type: dynamic, "
       "scale_bits: e4m3, four_over_six: true}}}",
       kInvalid, "four_over_six needs type: static"},
      {"{quantizer_name: '*', cfg: {num_bits: e4m3, constant_amax: -1}}", kInvalid,
       "found -1, expected a positive number"},
      {"{quantizer_name: '*', cfg: {num_bits: e4m3, constant_amax: 1, use_constant_amax: true}}",
       kInvalid, "exclusive with use_constant_amax"},
      {"{quantizer_name: '*', cfg: {$import: fp8}}", kInvalid,
       "\"fp8\" is not among the file's imports"},
      {"nvfp4", kInvalid, "quant_cfg[0]: found \"nvfp4\", expected a mapping"},
  };
  for (const BadRule& item : cases) {
    const std::string path = write_recipe(std::string("  - ") + item.rule + "\n");
    const Caught error = caught([&] { load_recipe(path); });
    EXPECT_EQ(error.kind, item.kind) << error.message;
    EXPECT_THAT(error.message, AllOf(HasSubstr(path + ": "), HasSubstr(item.message)));
  }
}

TEST_F(RecipeLanguage, AnAlgorithmOfARuleNeedsACfg) {
  const std::string path =
      write_recipe("  - {quantizer_name: '*', enable: false, algorithm: max}\n");
  const Caught error = caught([&] { load_recipe(path); });
  EXPECT_EQ(error.kind, kInvalid);
  EXPECT_THAT(error.message, HasSubstr("an algorithm needs a cfg beside it"));
}

TEST_F(RecipeLanguage, RejectsBadAlgorithms) {
  const BadRule cases[] = {
      {"awq_lite", kUnsupported,
       "quantize.algorithm: the algorithm \"awq_lite\" is not available; available are max and "
       "mse"},
      {"{method: gptq}", kUnsupported, "algorithm.method: the algorithm \"gptq\" is not available"},
      {"null", kUnsupported, "null leaves quantizers without scales; write max"},
      {"[max, mse]", kUnsupported, "several algorithms in a row"},
      {"{fp8_scale_sweep: true}", kInvalid, "the key \"method\" is missing"},
      {"{method: mse, fp8_scale_swep: true}", kInvalid, "did you mean \"fp8_scale_sweep\"?"},
      {"{method: max, step_size: 1}", kInvalid, "step_size: unknown key; known are method"},
      {"{method: mse, step_size: 0}", kInvalid, "found 0, expected a positive number"},
      {"{method: mse, start_multiplier: two}", kInvalid, "found \"two\", expected a number"},
      {"{method: mse, start_multiplier: 3, stop_multiplier: 2}", kInvalid,
       "stop_multiplier 2 is below start_multiplier 3"},
      {"{method: mse, step_size: 1e-9}", kInvalid, "more than 1024 multipliers"},
  };
  for (const BadRule& item : cases) {
    const std::string path = write_recipe("  - {quantizer_name: '*', enable: false}\n", item.rule);
    const Caught error = caught([&] { load_recipe(path); });
    EXPECT_EQ(error.kind, item.kind) << error.message;
    EXPECT_THAT(error.message, AllOf(HasSubstr(path + ": "), HasSubstr(item.message)));
  }
}

TEST_F(RecipeLanguage, RejectsBadFiles) {
  const BadRule cases[] = {
      {"quantize: {quant_cfg: []}", kInvalid, "the key \"metadata\" is missing"},
      {"metadata: {recipe_type: ptq}", kInvalid, "the key \"quantize\" is missing"},
      {"metadata: {recipe_type: ptq}\nquantize: {algorithm: max}", kInvalid,
       "quantize: the key \"quant_cfg\" is missing"},
      {"metadata: {description: x}\nquantize: {quant_cfg: []}", kInvalid,
       "metadata: the key \"recipe_type\" is missing"},
      {"metadata: {recipe_type: auto_quantize}\nauto_quantize: {}", kUnsupported,
       "run vernier search"},
      {"metadata: {recipe_type: speculative_eagle}\neagle: {}", kUnsupported,
       "recipes of type \"speculative_eagle\" are not available, only ptq"},
      {"metadata: {recipe_type: ptq}\nquantise: {quant_cfg: []}", kInvalid,
       "quantise: unknown key; did you mean \"quantize\"?"},
      {"metadata: {recipe_type: ptq, descripton: x}\nquantize: {quant_cfg: []}", kInvalid,
       "metadata.descripton: unknown key; did you mean \"description\"?"},
      {"metadata: {recipe_type: ptq}\nquantize: {quant_config: []}", kInvalid,
       "quantize.quant_config: unknown key; did you mean \"quant_cfg\"?"},
      {"metadata: {recipe_type: ptq}\nquantize: {quant_cfg: {}}", kInvalid,
       "quantize.quant_cfg: found {}, expected a list"},
      {"metadata: {recipe_type: ptq}\nquantize: {quant_cfg: []}\nexport: {mamba_ssm_cache_dtype: "
       "fp16}",
       kInvalid, "found \"fp16\", expected float32, float16, bfloat16"},
      {"metadata: {recipe_type: ptq}\nquantize: {quant_cfg: []}\nexport: {mamba_cache_dtype: x}",
       kInvalid, "did you mean \"mamba_ssm_cache_dtype\"?"},
      {"- a\n- b", kInvalid, "expected a mapping"},
      {"", kInvalid, "found null, expected a mapping"},
      {"a: [", kInvalid, "malformed YAML"},
      {"imports: [a]\nquant_cfg: []", kInvalid, "imports: expected a mapping of aliases to paths"},
      {"imports: {a: 1}\nquant_cfg: []", kInvalid, "imports: \"a\": expected a path"},
      {"imports: {}\nalgorithm: max\n---\nquant_cfg: []", kInvalid,
       "the first of two YAML documents may hold only imports"},
      {"a: 1\n---\nb: 1\n---\nc: 1", kInvalid, "3 YAML documents"},
      {"imports: {units: nowhere/units}\nquant_cfg: [{$import: units}]", ErrorKind::kNotFound,
       "the import \"nowhere/units\" is not among the shipped recipes and in no file beside"},
      {"imports: {units: units/w4_nvfp4}\nquant_cfg: [{$import: unit}]", kInvalid,
       "quant_cfg[0].$import: \"unit\" is not among the file's imports; did you mean \"units\"?"},
      {"imports: {self: recipe}\nquant_cfg: [{$import: self}]", kInvalid, "a cycle"},
  };
  for (const BadRule& item : cases) {
    const std::string path = write("recipe.yaml", item.rule);
    const Caught error = caught([&] { load_recipe(path); });
    EXPECT_EQ(error.kind, item.kind) << error.message;
    EXPECT_THAT(error.message, AllOf(HasSubstr(path), HasSubstr(item.message)));
  }
}

TEST_F(RecipeLanguage, CyclesOverSeveralFilesEnd) {
  write("a/b.yaml", "imports: {c: ../c}\n---\n- $import: c\n");
  write("c.yaml", "imports: {b: a/b}\n---\n- $import: b\n");
  const std::string path = write("recipe.yaml", "imports: {b: a/b}\nquant_cfg: [{$import: b}]\n");
  EXPECT_THAT(caught([&] { load_recipe(path); }).message, HasSubstr("leads back here: a cycle"));
}

// An error in an imported file names that file and the place in it.
TEST_F(RecipeLanguage, ErrorsNameTheImportedFile) {
  const std::string part = write("part.yaml", "- {quantizer_name: '*', enable: maybe}\n");
  const std::string path =
      write("recipe.yaml", "imports: {part: part}\nquant_cfg: [{$import: part}]\n");
  EXPECT_EQ(caught([&] { load_recipe(path); }).message,
            part + ": [0].enable: found \"maybe\", expected true or false");
}

TEST_F(RecipeLanguage, LinesOfASecondDocumentAreTheFiles) {
  const std::string path = write("recipe.yaml", "imports: {}\n---\nquant_cfg: []\nquant_cfg: []\n");
  EXPECT_THAT(caught([&] { load_recipe(path); }).message, HasSubstr(path + ":4: "));
}

TEST(Recipe, UnknownNameListsTheShippedOnes) {
  const Caught error = caught([] { load_recipe("mamba_moe_nvfp4_agressive"); });
  EXPECT_EQ(error.kind, ErrorKind::kNotFound);
  EXPECT_THAT(
      error.message,
      AllOf(HasSubstr("\"mamba_moe_nvfp4_agressive\" is neither a shipped recipe nor a file"),
            HasSubstr("did you mean \"mamba_moe_nvfp4_aggressive\"?"),
            HasSubstr("shipped are fp8, mamba_moe_fp8_aggressive")));
}

TEST(Recipe, KvPresetsAppend) {
  Recipe recipe = load_recipe("fp8");
  const size_t n_rules = recipe.rules.size();
  append_kv_preset(recipe, "fp8_cast");
  ASSERT_EQ(recipe.rules.size(), n_rules + 1);
  EXPECT_EQ(recipe.rules.back().pattern, "*[kv]_bmm_quantizer");
  EXPECT_EQ(recipe.rules.back().origin, "recipes/kv/fp8_cast.yaml");
  EXPECT_TRUE(recipe.rules.back().config->use_constant_amax);
  EXPECT_EQ(caught([&] { append_kv_preset(recipe, "int8"); }).message,
            "unknown KV-cache format \"int8\", expected one of fp8, fp8_cast, none, nvfp4");
}

}  // namespace
}  // namespace vernier::quant
