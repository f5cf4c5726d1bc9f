// Bad input: one sentence that names the file, tensor or flag, exit status 2, nothing at the
// target.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>

#include "base/file.h"
#include "io/safetensors.h"
#include "program.h"

namespace vernier::tests {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

struct Case {
  std::string name;
  std::string sentence;  // a part of it
  // Damages the scratch directory, in which "model" is a copy of the latent golden checkpoint.
  std::function<void(const fs::path&)> damage = [](const fs::path&) {};
  Arguments args = {"quantize",    "--hf-model-id", "model", "--export-quant-cfg",
                    "w4a16_nvfp4", "--export-dir",  "out",   "--skip-generate"};
};

const std::string kShard = "model/model.safetensors";
const std::string kUpProj = "backbone.layers.1.mixer.experts.0.up_proj.weight";

std::string header_of(const std::string& file) {
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  return file.substr(sizeof(length), length);
}

// Replaces text in the header, keeping its length by trimming or adding the padding at its end.
void edit_header(const fs::path& path, const std::string& from, const std::string& to) {
  const std::string file = read_file(path);
  std::string header = header_of(file);
  const size_t length = header.size();
  const size_t at = header.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  header.replace(at, from.size(), to);
  header.resize(std::max(length, header.find_last_of('}') + 1), ' ');
  ASSERT_EQ(header.size(), length) << "the replacement does not fit the padding";
  write_file(path, file.substr(0, 8) + header + file.substr(8 + length));
}

void edit_text(const fs::path& path, const std::string& from, const std::string& to) {
  std::string text = read_file(path);
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  write_file(path, text.replace(at, from.size(), to));
}

// Puts a BF16 NaN at an element of a tensor of the one-file checkpoint.
void plant_nan(const fs::path& path, const std::string& tensor, int64_t index) {
  std::string file = read_file(path);
  const std::string header = header_of(file);
  const size_t entry = header.find('"' + tensor + '"');
  ASSERT_NE(entry, std::string::npos);
  const std::string key = "\"data_offsets\":[";
  const size_t offsets = header.find(key, entry) + key.size();
  const size_t begin = std::stoull(header.substr(offsets));
  const uint16_t nan = 0x7FC0;
  std::memcpy(file.data() + 8 + header.size() + begin + 2 * index, &nan, sizeof(nan));
  write_file(path, file);
}

// Rewrites the checkpoint with a dense MLP 24 wide, which 16-value blocks do not divide.
void narrow_mlp(const fs::path& dir) {
  edit_text(dir / "model/config.json", "\"intermediate_size\": 160", "\"intermediate_size\": 24");
  const fs::path path = dir / kShard;
  fs::rename(path, dir / "wide.safetensors");
  const io::SafetensorsFile wide(dir / "wide.safetensors");
  std::vector<io::TensorDecl> tensors;
  for (const io::TensorEntry& entry : wide.header().entries) {
    tensors.push_back({entry.name, entry.dtype, entry.shape});
    for (int64_t& dim : tensors.back().shape) {
      if (dim == 160) dim = 24;
    }
  }
  io::SafetensorsWriter writer(path, tensors);
  for (size_t index = 0; index < tensors.size(); ++index) {
    const TensorView source = wide.view(wide.header().entries[index]);
    writer.write(tensors[index].name, source.bytes().first(tensors[index].size_bytes()));
  }
  writer.finish();
}

const Arguments kCalibrated = {"quantize",        "--hf-model-id", "tiny", "--export-quant-cfg",
                               "nvfp4",           "--export-dir",  "out",  "--skip-generate",
                               "--calib-dataset", "text.txt"};

// "tiny" is a link to the bundled model, for cases that need a tokenizer.
void link_tiny(const fs::path& scratch) { fs::create_symlink(tiny_model(), scratch / "tiny"); }

Arguments with(Arguments args, const std::string& flag, const std::string& value) {
  args.push_back(flag);
  args.push_back(value);
  return args;
}

Arguments replaced(Arguments args, const std::string& from, const std::string& to) {
  std::replace(args.begin(), args.end(), from, to);
  return args;
}

std::vector<Case> cases() {
  const Arguments args = Case{}.args;
  return {
      {"TruncatedShard", "model.safetensors",
       [](const fs::path& dir) {
         const std::string file = read_file(dir / kShard);
         write_file(dir / kShard, file.substr(0, file.size() - 100));
       }},
      {"OverlappingOffsets", "model.safetensors",
       [](const fs::path& dir) { edit_header(dir / kShard, "[32,64]", "[31,64]"); }},
      {"HeaderOfTwoGigabytes", "model.safetensors",
       [](const fs::path& dir) {
         std::string file = read_file(dir / kShard);
         const uint64_t length = uint64_t{2} << 30;
         std::memcpy(file.data(), &length, sizeof(length));
         write_file(dir / kShard, file);
       }},
      {"MissingTensor", kUpProj,
       [](const fs::path& dir) {
         edit_header(dir / kShard, kUpProj, "backbone.layers.1.mixer.experts.0.up_prox.weight");
       }},
      {"WrongShape", kUpProj,
       [](const fs::path& dir) {
         edit_header(dir / kShard, kUpProj + "\":{\"dtype\":\"BF16\",\"shape\":[48,32]",
                     kUpProj + "\":{\"dtype\":\"BF16\",\"shape\":[32,48]");
       }},
      {"UnknownDtype", "BF17",
       [](const fs::path& dir) { edit_header(dir / kShard, "\"BF16\"", "\"BF17\""); }},
      {"NanInWeight", kUpProj + ": the value at index 7 is not finite",
       [](const fs::path& dir) { plant_nan(dir / kShard, kUpProj, 7); }},
      {"UnknownModelType", "model_type",
       [](const fs::path& dir) { edit_text(dir / "model/config.json", "nemotron_h", "llama"); }},
      {"BrokenConfig", "config.json",
       [](const fs::path& dir) { write_file(dir / "model/config.json", "{\"model_type\": "); }},
      {"BrokenTokenizer", "tokenizer.json",
       [](const fs::path& dir) {
         copy_checkpoint(tiny_model(), dir / "tiny");
         write_file(dir / "tiny/tokenizer.json", "{\"model\": {\"type\": \"BPE\"}}");
         write_file(dir / "text.txt", "some text");
       },
       kCalibrated},
      {"EmptyCalibrationFile", "text.txt",
       [](const fs::path& dir) {
         link_tiny(dir);
         write_file(dir / "text.txt", "");
       },
       kCalibrated},
      {"InvalidUtf8", "UTF-8",
       [](const fs::path& dir) {
         link_tiny(dir);
         write_file(dir / "text.txt", "good\xFF bad");
       },
       kCalibrated},
      {"ParquetCalibration", "parquet",
       [](const fs::path& dir) {
         link_tiny(dir);
         write_file(dir / "text.parquet", "PAR1");
       },
       replaced(kCalibrated, "text.txt", "text.parquet")},
      {"MissingCalibrationFile", "nowhere.txt", link_tiny,
       replaced(kCalibrated, "text.txt", "nowhere.txt")},
      {"NonEmptyTarget", "out",
       [](const fs::path& dir) {
         fs::create_directory(dir / "out");
         write_file(dir / "out/mine", "keep");
       }},
      {"RecipeTypo", "quantizer_nam",
       [](const fs::path& dir) {
         write_file(dir / "mine.yaml",
                    "metadata: {recipe_type: ptq, description: mine}\nquantize:\n  algorithm: "
                    "max\n  quant_cfg:\n"
                    "    - {quantizer_nam: '*', enable: false}\n");
       },
       replaced(args, "w4a16_nvfp4", "mine.yaml")},
      {"UnknownRecipe", "w4a16_nvfp5", [](const fs::path&) {},
       replaced(args, "w4a16_nvfp4", "w4a16_nvfp5")},
      {"UnmatchedRule", "experts.99",
       [](const fs::path& dir) {
         write_file(dir / "mine.yaml",
                    "metadata: {recipe_type: ptq, description: mine}\nquantize:\n  algorithm: "
                    "max\n  quant_cfg:\n"
                    "    - {quantizer_name: '*experts.99.*weight_quantizer', cfg: nvfp4}\n");
       },
       replaced(args, "w4a16_nvfp4", "mine.yaml")},
      {"WidthOf24", "backbone.layers.4.mixer.down_proj", narrow_mlp,
       replaced(args, "w4a16_nvfp4", "nvfp4")},
      {"TensorParallel", "--tp", [](const fs::path&) {}, with(args, "--tp", "2")},
      {"PipelineParallel", "--pp", [](const fs::path&) {}, with(args, "--pp", "2")},
      {"ExpertParallel", "--ep", [](const fs::path&) {}, with(args, "--ep", "8")},
      {"UnknownDevice", "--device: 'tpu', expected auto, cpu, cuda or cuda:N",
       [](const fs::path&) {}, with(args, "--device", "tpu")},
      {"BadDeviceNumber", "--device: 'cuda:x', expected auto, cpu, cuda or cuda:N",
       [](const fs::path&) {}, with(args, "--device", "cuda:x")},
      // Without CUDA, and with it on a machine of fewer devices.
      {"AbsentDevice", "CUDA", [](const fs::path&) {}, with(args, "--device", "cuda:99")},
      {"BadComputeDtype", "--compute-dtype: 'float16', expected bfloat16 or float32",
       [](const fs::path&) {}, with(args, "--compute-dtype", "float16")},
      {"BadDeviceMemory", "--max-device-memory", [](const fs::path&) {},
       with(args, "--max-device-memory", "lots")},
      {"UnknownFlag", "--calib-sise", [](const fs::path&) {}, with(args, "--calib-sise", "4")},
      {"SequenceTooLong", "--calib-seq-length", [](const fs::path&) {},
       with(args, "--calib-seq-length", "131073")},
      {"BadShardSize", "--max-shard-size", [](const fs::path&) {},
       with(args, "--max-shard-size", "many")},
      {"BadExportDtype", "--dtype", [](const fs::path&) {}, with(args, "--dtype", "int8")},
      {"BadSsmCacheDtype", "--mamba-ssm-cache-dtype", [](const fs::path&) {},
       with(args, "--mamba-ssm-cache-dtype", "int8")},
      {"BadKvFormat", "fp9", [](const fs::path&) {}, with(args, "--kv-cache-format", "fp9")},
      {"TwoKvFlags", "--export-kv-cache-quant", [](const fs::path&) {},
       with(args, "--export-kv-cache-quant", "--kv-cache-format=fp8")},
      {"MissingModel", "nowhere", [](const fs::path&) {}, replaced(args, "model", "nowhere")},
      {"SameOutputs", "--megatron-save-path", [](const fs::path&) {},
       with(args, "--megatron-save-path", "out")},
      {"GenerateFromNothing", "--model", [](const fs::path&) {}, {"generate"}},
      {"ExportFromNoSharded",
       "vernier.json",
       [](const fs::path&) {},
       {"export", "--megatron-load-path", "model", "--export-dir", "out"}},
      {"EvaluateWithoutText", "--text", [](const fs::path&) {}, {"evaluate", "--model", "model"}},
      {"EvaluateBadTokenIds",
       "ids.json",
       [](const fs::path& dir) { write_file(dir / "ids.json", "[[1, \"two\"]]"); },
       {"evaluate", "--model", "model", "--token-ids", "ids.json"}},
      {"EvaluateIdOutsideVocabulary",
       "384",
       [](const fs::path& dir) { write_file(dir / "ids.json", "[[1, 384]]"); },
       {"evaluate", "--model", "model", "--token-ids", "ids.json"}},
      {"NoCommand", "subcommand", [](const fs::path&) {}, {}},
  };
}

class BadInput : public ::testing::TestWithParam<Case> {};

TEST_P(BadInput, IsOneSentenceAndLeavesNothing) {
  const Case& parameters = GetParam();
  const ScratchDirectory scratch;
  copy_checkpoint(golden_checkpoint("latent"), scratch.path() / "model");
  parameters.damage(scratch.path());
  const bool had_target = fs::exists(scratch.path() / "out");

  const Outcome outcome = run(parameters.args, scratch.path());

  EXPECT_EQ(outcome.status, 2) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr(parameters.sentence));
  const size_t said = outcome.err.find("vernier: ");
  ASSERT_NE(said, std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find("vernier: ", said + 1), std::string::npos) << outcome.err;
  EXPECT_EQ(fs::exists(scratch.path() / "out"), had_target);
  if (had_target) {
    EXPECT_EQ(read_file(scratch.path() / "out/mine"), "keep");
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, BadInput, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST(BadInput, AnUnwritableOutputDirectoryIsRefused) {
  const ScratchDirectory scratch;
  write_file(scratch.path() / "file", "");
  const Outcome outcome =
      run({"quantize", "--hf-model-id", golden_checkpoint("latent").string(), "--export-quant-cfg",
           "w4a16_nvfp4", "--skip-generate", "--export-dir", "file/out"},
          scratch.path());
  EXPECT_EQ(outcome.status, 2) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("file/out"));
}

TEST(BadInput, AQuantizedCheckpointIsNotQuantizedAgain) {
  const ScratchDirectory scratch;
  const Arguments args = {
      "quantize",           "--hf-model-id", golden_checkpoint("latent").string(),
      "--export-quant-cfg", "w4a16_nvfp4",   "--skip-generate",
      "--export-dir",       "first"};
  ASSERT_EQ(run(args, scratch.path()).status, 0);
  const Outcome again = run(
      replaced(replaced(args, "first", "second"), golden_checkpoint("latent").string(), "first"),
      scratch.path());
  EXPECT_EQ(again.status, 2);
  EXPECT_THAT(again.err, HasSubstr("quantized already"));
  EXPECT_FALSE(fs::exists(scratch.path() / "second"));
}

}  // namespace
}  // namespace vernier::tests
