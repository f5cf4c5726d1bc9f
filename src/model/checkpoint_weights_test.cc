#include "model/checkpoint_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "io/safetensors.h"
#include "model/stored_model.h"

namespace vernier::model {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kConfig[] = R"({
  "model_type": "nemotron_h", "hybrid_override_pattern": "M*-E", "vocab_size": 32,
  "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
  "mamba_num_heads": 4, "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 8,
  "intermediate_size": 48, "n_routed_experts": 4, "num_experts_per_tok": 2,
  "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 32, "eos_token_id": 2
})";

constexpr char kQProj[] = "backbone.layers.1.mixer.q_proj";
constexpr char kKProj[] = "backbone.layers.1.mixer.k_proj";

// A directory that goes away with the test.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = std::filesystem::temp_directory_path() / "vernier_model_XXXXXX";
    EXPECT_NE(mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A checkpoint of kConfig to be bent out of shape: all zeros but for what is set.
class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() {
    const ModuleTree& tree = model_->tree();
    for (const Module& module : tree.modules()) {
      for (const TensorSpec& spec : module.tensors) {
        tensors_[spec.name] = {spec.name, DType::kBF16, spec.shape};
      }
    }
    write_file(directory_.path() / "config.json", kConfig);
  }

  void set(const std::string& name, DType dtype, Shape shape) {
    tensors_[name] = {name, dtype, std::move(shape)};
  }
  void set_scalar(const std::string& name, float value, Shape shape = {}) {
    set(name, DType::kF32, std::move(shape));
    scalars_[name] = value;
  }
  // q_proj [32, 16] as NVFP4.
  void pack_q_proj() {
    set(std::string(kQProj) + ".weight", DType::kU8, {32, 8});
    set(std::string(kQProj) + ".weight_scale", DType::kF8E4M3, {32, 1});
    set_scalar(std::string(kQProj) + ".weight_scale_2", 0.5f);
  }
  void drop(const std::string& name) { tensors_.erase(name); }

  std::shared_ptr<const io::Checkpoint> write() {
    std::vector<io::TensorDecl> declared;
    for (const auto& [name, tensor] : tensors_) declared.push_back(tensor);
    const auto path = directory_.path() / "model.safetensors";
    io::SafetensorsWriter writer(path, declared);
    for (const io::TensorDecl& tensor : declared) {
      std::vector<std::byte> bytes(static_cast<size_t>(tensor.size_bytes()));
      if (const auto scalar = scalars_.find(tensor.name); scalar != scalars_.end()) {
        std::memcpy(bytes.data(), &scalar->second, sizeof(float));
      }
      writer.write(tensor.name, bytes);
    }
    writer.finish();
    return std::make_shared<const io::Checkpoint>(directory_.path());
  }

  std::string file() const { return (directory_.path() / "model.safetensors").string(); }
  const Module& module(std::string_view name) const { return *model_->tree().find(name); }

  static std::string message_of(const std::function<void()>& body, ErrorKind kind) {
    try {
      body();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.message();
      return error.message();
    }
    ADD_FAILURE() << "nothing was thrown";
    return {};
  }
  std::string incompleteness(ErrorKind kind) {
    const auto checkpoint = write();
    return message_of([&] { check_complete(model_->tree(), *checkpoint); }, kind);
  }
  std::string linear_refusal(ErrorKind kind) {
    const CheckpointWeights weights(write(), nullptr);
    return message_of([&] { weights.linear(module(kQProj)); }, kind);
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Model> model_ = open_model(io::parse_json(kConfig, "config"), "config");
  std::map<std::string, io::TensorDecl> tensors_;
  std::map<std::string, float> scalars_;
};

TEST_F(CheckpointTest, DetectsFormatsFromTheirPlanes) {
  pack_q_proj();
  set(std::string(kKProj) + ".weight", DType::kF8E4M3, {16, 16});
  set_scalar(std::string(kKProj) + ".weight_scale", 0.25f);
  set("lm_head.weight", DType::kF32, {32, 16});
  const auto checkpoint = write();
  check_complete(model_->tree(), *checkpoint);
  EXPECT_TRUE(is_quantized(model_->tree(), *checkpoint));
  const CheckpointWeights weights(checkpoint, nullptr);
  EXPECT_EQ(weights.linear(module(kQProj)).packed.format->name, "nvfp4");
  EXPECT_EQ(weights.linear(module(kKProj)).packed.format->name, "fp8_e4m3");
  EXPECT_EQ(weights.linear(module("lm_head")).packed.format->name, "bf16");
  EXPECT_EQ(weights.linear(module("backbone.embeddings")).packed.format->name, "bf16");
  // Without an input_scale the input is not rounded.
  EXPECT_EQ(weights.linear(module(kQProj)).input.format, nullptr);
}

TEST_F(CheckpointTest, AnInputScaleIsAnInputRule) {
  pack_q_proj();
  set_scalar(std::string(kQProj) + ".input_scale", 0.125f, {1});
  const LinearWeight weight = CheckpointWeights(write(), nullptr).linear(module(kQProj));
  ASSERT_NE(weight.input.format, nullptr);
  EXPECT_EQ(weight.input.format->name, "nvfp4");
  EXPECT_EQ(weight.input.scale, 0.125f);
}

TEST_F(CheckpointTest, RefusesScalesThatAreNotPositive) {
  pack_q_proj();
  for (float scale : {0.0f, -1.0f, std::numeric_limits<float>::infinity(),
                      std::numeric_limits<float>::quiet_NaN()}) {
    set_scalar(std::string(kQProj) + ".weight_scale_2", scale);
    const std::string message = linear_refusal(ErrorKind::kCorrupt);
    EXPECT_THAT(message,
                HasSubstr(file() + ": tensor 'backbone.layers.1.mixer.q_proj.weight_scale_2' is "));
    EXPECT_THAT(message, EndsWith("expected a finite scale above zero"));
  }
  set_scalar(std::string(kQProj) + ".weight_scale_2", 1);
  set_scalar(std::string(kQProj) + ".input_scale", 0);
  EXPECT_EQ(linear_refusal(ErrorKind::kCorrupt),
            file() +
                ": tensor 'backbone.layers.1.mixer.q_proj.input_scale' is 0, expected a finite "
                "scale above zero");
}

TEST_F(CheckpointTest, RefusesAnInputScaleOfAnotherDtypeOrWithoutARule) {
  pack_q_proj();
  set(std::string(kQProj) + ".input_scale", DType::kBF16, {});
  EXPECT_EQ(linear_refusal(ErrorKind::kCorrupt),
            file() +
                ": tensor 'backbone.layers.1.mixer.q_proj.input_scale' has dtype BF16, "
                "expected F32");
  drop(std::string(kQProj) + ".weight_scale");
  drop(std::string(kQProj) + ".weight_scale_2");
  set(std::string(kQProj) + ".weight", DType::kBF16, {32, 16});
  EXPECT_EQ(linear_refusal(ErrorKind::kCorrupt),
            file() +
                ": tensor 'backbone.layers.1.mixer.q_proj.input_scale' belongs to a weight in "
                "bf16, which has no input rule");
}

TEST_F(CheckpointTest, ReadsKvScales) {
  set_scalar(std::string(kKProj) + ".k_scale", 0.75f, {1});
  const auto checkpoint = write();
  check_complete(model_->tree(), *checkpoint);
  const AttentionSite& site = model_->tree().attentions()[0];
  EXPECT_EQ(CheckpointWeights(checkpoint, nullptr).kv_rule(site).format, nullptr);

  const KvRule fp8 = CheckpointWeights(checkpoint, formats::find_format("fp8_e4m3")).kv_rule(site);
  EXPECT_EQ(fp8.format->name, "fp8_e4m3");
  EXPECT_EQ(fp8.k_scale, 0.75f);
  EXPECT_EQ(fp8.v_scale, 1.0f);

  // Files store amax / 448, NVFP4 takes amax / (6 * 448).
  const KvRule nvfp4 = CheckpointWeights(checkpoint, formats::find_format("nvfp4")).kv_rule(site);
  EXPECT_EQ(nvfp4.k_scale, 0.75f / 6);
  EXPECT_EQ(nvfp4.v_scale, 1.0f / 6);
}

TEST_F(CheckpointTest, CompleteOnesPass) {
  const auto checkpoint = write();
  check_complete(model_->tree(), *checkpoint);
  EXPECT_FALSE(is_quantized(model_->tree(), *checkpoint));
  // Hints accept every module.
  const CheckpointWeights weights(checkpoint, nullptr);
  for (const Module& module : model_->tree().modules()) {
    weights.will_need(module);
    weights.done_with(module);
  }
}

TEST_F(CheckpointTest, TensorsThatPassThroughAreNoConcern) {
  set("mtp.layers.0.eh_proj.weight", DType::kBF16, {16, 32});
  check_complete(model_->tree(), *write());
}

TEST_F(CheckpointTest, NamesAMissingTensor) {
  drop("backbone.layers.0.mixer.D");
  EXPECT_THAT(incompleteness(ErrorKind::kNotFound), HasSubstr("backbone.layers.0.mixer.D"));
}

TEST_F(CheckpointTest, NamesAMissingWeight) {
  drop("backbone.layers.3.mixer.experts.3.up_proj.weight");
  EXPECT_THAT(incompleteness(ErrorKind::kNotFound),
              HasSubstr("backbone.layers.3.mixer.experts.3.up_proj.weight"));
}

TEST_F(CheckpointTest, NamesAWrongShape) {
  set("backbone.layers.0.mixer.A_log", DType::kBF16, {8});
  EXPECT_EQ(incompleteness(ErrorKind::kCorrupt),
            file() + ": tensor 'backbone.layers.0.mixer.A_log' has shape [8], expected [4]");
}

TEST_F(CheckpointTest, NamesAWrongShapeOfAPlane) {
  pack_q_proj();
  set(std::string(kQProj) + ".weight_scale", DType::kF8E4M3, {32, 2});
  EXPECT_EQ(incompleteness(ErrorKind::kCorrupt),
            file() +
                ": tensor 'backbone.layers.1.mixer.q_proj.weight_scale' has shape [32, 2], "
                "expected [32, 1]");
}

TEST_F(CheckpointTest, NamesAnUnknownFormat) {
  pack_q_proj();
  drop(std::string(kQProj) + ".weight_scale");
  EXPECT_EQ(incompleteness(ErrorKind::kCorrupt),
            directory_.path().string() +
                ": 'backbone.layers.1.mixer.q_proj' is in no registered format: found weight U8, "
                "weight_scale_2 F32, expected bf16 (weight BF16) or fp8_e4m3 (weight F8_E4M3, "
                "weight_scale F32) or nvfp4 (weight U8, weight_scale F8_E4M3, weight_scale_2 F32)");
}

TEST_F(CheckpointTest, RefusesTensorsThatWouldBeLeftOut) {
  const std::string extra[] = {
      std::string(kQProj) + ".bias", std::string(kQProj) + ".pre_quant_scale",
      std::string(kQProj) + ".weight_scale", "backbone.layers.1.norm.bias"};
  for (const std::string& name : extra) {
    set(name, DType::kBF16, {16});
    EXPECT_EQ(incompleteness(ErrorKind::kUnsupported),
              file() + ": tensor '" + name + "' would change what '" +
                  name.substr(0, name.rfind('.')) + "' computes and is not implemented");
    drop(name);
  }
}

TEST_F(CheckpointTest, RefusesSmallTensorsThatAreNotFloats) {
  set("backbone.layers.2.norm.weight", DType::kI16, {16});
  const CheckpointWeights weights(write(), nullptr);
  EXPECT_EQ(message_of([&] { model_->load_layer(2, weights); }, ErrorKind::kCorrupt),
            "tensor 'backbone.layers.2.norm.weight' has dtype I16, expected BF16, F16 or F32");
}

TEST_F(CheckpointTest, OpensADirectory) {
  write();
  write_file(directory_.path() / "generation_config.json", R"({"eos_token_id": [2, 11]})");
  const StoredModel stored = open_checkpoint(directory_.path());
  EXPECT_EQ(stored.directory, directory_.path());
  EXPECT_EQ(stored.config["vocab_size"], 32);
  EXPECT_EQ(stored.model->hidden_size(), 16);
  EXPECT_FALSE(stored.is_quantized);
  EXPECT_THAT(stored.eos_token_ids, ElementsAre(2, 11));
}

TEST_F(CheckpointTest, OpensADirectoryWithAQuantizedCache) {
  write();
  write_file(directory_.path() / "hf_quant_config.json",
             R"({"quantization": {"quant_algo": null, "kv_cache_quant_algo": "FP8"}})");
  const StoredModel stored = open_checkpoint(directory_.path());
  EXPECT_TRUE(stored.is_quantized);
  const KvRule rule = stored.weights->kv_rule(stored.model->tree().attentions()[0]);
  EXPECT_EQ(rule.format->name, "fp8_e4m3");
}

TEST_F(CheckpointTest, RefusesACacheFormatThatHeadsDoNotFit) {
  io::Json config = io::parse_json(kConfig, "config");
  config["head_dim"] = 8;
  const auto model = open_model(config, "config");
  set(std::string(kQProj) + ".weight", DType::kBF16, {16, 16});
  set(std::string(kKProj) + ".weight", DType::kBF16, {8, 16});
  set("backbone.layers.1.mixer.v_proj.weight", DType::kBF16, {8, 16});
  set("backbone.layers.1.mixer.o_proj.weight", DType::kBF16, {16, 16});
  const CheckpointWeights weights(write(), formats::find_format("nvfp4"));
  EXPECT_EQ(
      message_of([&] { model->load_layer(1, weights); }, ErrorKind::kUnsupported),
      "backbone.layers.1.mixer: keys and values in nvfp4 need a head_dim that is a multiple of "
      "16, found 8");
}

TEST_F(CheckpointTest, MissingConfigIsNamed) {
  std::filesystem::remove(directory_.path() / "config.json");
  EXPECT_THAT(message_of([&] { open_checkpoint(directory_.path()); }, ErrorKind::kNotFound),
              HasSubstr("config.json"));
}

struct KvDeclaration {
  const char* file;
  const char* text;
  const char* format;  // null: none
};

class DeclaredKvFormat : public ::testing::TestWithParam<KvDeclaration> {};

TEST_P(DeclaredKvFormat, IsRead) {
  const TemporaryDirectory directory;
  write_file(directory.path() / "config.json", "{}");
  write_file(directory.path() / GetParam().file, GetParam().text);
  const formats::Format* format = declared_kv_format(directory.path());
  EXPECT_EQ(format,
            GetParam().format == nullptr ? nullptr : formats::find_format(GetParam().format));
}

INSTANTIATE_TEST_SUITE_P(
    All, DeclaredKvFormat,
    ::testing::Values(
        KvDeclaration{"config.json", "{}", nullptr},
        KvDeclaration{"config.json", R"({"quantization_config": {"quant_method": "modelopt"}})",
                      nullptr},
        KvDeclaration{"config.json",
                      R"({"quantization_config": {"kv_cache_scheme":
                          {"dynamic": false, "num_bits": 8, "type": "float"}}})",
                      "fp8_e4m3"},
        KvDeclaration{"config.json", R"({"quantization_config": {"kv_cache_scheme": "NVFP4"}})",
                      "nvfp4"},
        KvDeclaration{"hf_quant_config.json", R"({"quantization": {"kv_cache_quant_algo": "FP8"}})",
                      "fp8_e4m3"},
        KvDeclaration{"hf_quant_config.json", R"({"quantization": {"kv_cache_quant_algo": null}})",
                      nullptr}));

TEST(DeclaredKvFormat, RefusesOtherAlgorithms) {
  const TemporaryDirectory directory;
  write_file(directory.path() / "hf_quant_config.json",
             R"({"quantization": {"kv_cache_quant_algo": "INT8"}})");
  try {
    declared_kv_format(directory.path());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_THAT(error.message(), EndsWith("hf_quant_config.json: the KV cache's quantization is "
                                          "\"INT8\", expected FP8, NVFP4 or null"));
  }
}

TEST(EosTokenIds, ComeFromTheGenerationConfigFirst) {
  const TemporaryDirectory directory;
  const auto ids = [&](const char* config) {
    return read_eos_token_ids(directory.path(), io::parse_json(config, "config.json"));
  };
  EXPECT_THAT(ids(R"({"eos_token_id": 2})"), ElementsAre(2));
  EXPECT_THAT(ids(R"({"eos_token_id": [2, 11]})"), ElementsAre(2, 11));
  EXPECT_THAT(ids("{}"), IsEmpty());
  EXPECT_THAT(ids(R"({"eos_token_id": null})"), IsEmpty());
  EXPECT_THROW(ids(R"({"eos_token_id": "</s>"})"), Error);
  EXPECT_THROW(ids(R"({"eos_token_id": [-1]})"), Error);
  write_file(directory.path() / "generation_config.json", R"({"eos_token_id": 7})");
  EXPECT_THAT(ids(R"({"eos_token_id": 2})"), ElementsAre(7));
  write_file(directory.path() / "generation_config.json", "{}");
  EXPECT_THAT(ids(R"({"eos_token_id": 2})"), ElementsAre(2));
}

}  // namespace
}  // namespace vernier::model
