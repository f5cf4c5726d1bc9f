#include "export/hf_writer.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "export/convert.h"
#include "export/sidecar.h"
#include "export/test_support.h"
#include "formats/bf16.h"
#include "formats/scale_rule.h"

namespace vernier::exporting {
namespace {

using ::testing::HasSubstr;
using namespace testing;  // NOLINT: test_support

class HfWriter : public ::testing::Test {
 protected:
  HfWriterOptions options(const std::string& name) const {
    HfWriterOptions options;
    options.directory = temp_.make(name);
    options.source = source_.directory;
    return options;
  }

  fs::path write(const HfWriterOptions& options, const quant::QuantPlan& plan) const {
    auto sink = make_hf_writer(options, source_.tree(), plan, source_.decls());
    feed(*sink, source_, plan);
    sink->finish();
    return options.directory;
  }

  TempDir temp_;
  Source source_{golden("latent/checkpoint")};
};

TEST_F(HfWriter, ReadsBackWhatWasWritten) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats, "fp8_e4m3");
  const io::Checkpoint written(write(options("out"), plan));
  for (const quant::SitePlan& site : plan.sites) {
    if (!site.is_quantized()) continue;
    const std::string& name = site.module->name;
    formats::EncodeOptions encode;
    const auto packed =
        site.weight_format->encode(source_.checkpoint.tensor(name + ".weight"), encode);
    for (const formats::PlaneSpec& plane : site.weight_format->planes) {
      const TensorView found = written.tensor(name + "." + std::string(plane.suffix));
      const TensorView& expected = packed.plane(plane.role).view();
      EXPECT_TRUE(std::equal(found.bytes().begin(), found.bytes().end(), expected.bytes().begin(),
                             expected.bytes().end()))
          << name << " " << plane.suffix;
    }
    EXPECT_EQ(written.tensor(name + ".input_scale").as<float>()[0],
              formats::scale_from_amax(fake_amax(name), site.input_format->input_divisor,
                                       formats::Arithmetic::kCuda));
  }
  EXPECT_EQ(written.tensor("backbone.layers.2.mixer.k_proj.k_scale").as<float>()[0],
            formats::scale_from_amax(fake_amax("backbone.layers.2.mixer.k_proj"), 448,
                                     formats::Arithmetic::kCuda));
  EXPECT_EQ(written.tensor("backbone.layers.1.mixer.gate.e_score_correction_bias").dtype,
            DType::kF32);
}

TEST_F(HfWriter, ArithmeticChoosesTheDivision) {
  const auto plan = make_test_plan(source_.tree(), all_fp8);
  HfWriterOptions cpu = options("cpu");
  cpu.arithmetic = formats::Arithmetic::kCpu;
  const io::Checkpoint written(write(cpu, plan));
  const std::string name = "backbone.layers.0.mixer.in_proj";
  EXPECT_EQ(written.tensor(name + ".input_scale").as<float>()[0], fake_amax(name) / 448.0f);
}

TEST_F(HfWriter, DescriptionsHaveTheirLayout) {
  const auto plan = make_test_plan(source_.tree(), all_nvfp4, "fp8_e4m3");
  const fs::path out = write(options("out"), plan);
  const std::string quant_config = read_file(out / "hf_quant_config.json");
  EXPECT_EQ(quant_config.substr(0, 22), "{\n    \"producer\": {\n  ");
  EXPECT_EQ(quant_config.back(), '}');
  const std::string config = read_file(out / "config.json");
  // As spelled in the source, which a reader and printer of values would change.
  EXPECT_THAT(config, HasSubstr("\"layer_norm_epsilon\": 1e-05"));
  EXPECT_THAT(config, HasSubstr("            \"__float__\": \"Infinity\"\n"));
  const io::Json parsed = io::parse_json(config, "config.json");
  EXPECT_EQ(parsed.items().begin().key(), "architectures");
  EXPECT_EQ((--parsed.end()).key(), "quantization_config");
}

// Apart from the version of transformers, the peer writes the same file.
TEST_F(HfWriter, ConfigTextEqualsThePeersUpToQuantizationConfig) {
  const auto plan = make_test_plan(source_.tree(), all_nvfp4);
  const std::string ours = read_file(write(options("out"), plan) / "config.json");
  std::string theirs = read_file(golden("modelopt/latent/nvfp4/config.json"));
  const std::string version = "\"transformers_version\": \"";
  const auto head = [&](std::string text) {
    const size_t begin = text.find(version) + version.size();
    text.erase(begin, text.find('"', begin) - begin);
    return text.substr(0, text.find("\"quantization_config\""));
  };
  EXPECT_EQ(head(ours), head(theirs));
}

TEST_F(HfWriter, NothingQuantizedHasNoQuantizationFiles) {
  const auto plan = make_test_plan(source_.tree(), [](const auto&) { return SiteFormats{}; });
  const fs::path out = write(options("out"), plan);
  EXPECT_FALSE(fs::exists(out / "hf_quant_config.json"));
  EXPECT_FALSE(io::read_json(out / "config.json").contains("quantization_config"));
  EXPECT_EQ(read_file(out / "model.safetensors"),
            read_file(source_.directory / "model.safetensors"));
}

TEST_F(HfWriter, ShardsAndIndex) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats);
  HfWriterOptions sharded = options("out");
  sharded.max_shard_bytes = 60'000;
  const fs::path out = write(sharded, plan);
  EXPECT_FALSE(fs::exists(out / "model.safetensors"));
  const io::Checkpoint written(out);
  for (const io::SafetensorsFile& file : written.files()) {
    int64_t n_bytes = 0;
    for (const io::TensorEntry& entry : file.header().entries) n_bytes += entry.end - entry.begin;
    EXPECT_LE(n_bytes, sharded.max_shard_bytes) << file.path();
    EXPECT_THAT(file.path().filename().string(),
                ::testing::MatchesRegex("model-0000[1-9]-of-0000[1-9].safetensors"));
  }
  const std::string index = read_file(out / "model.safetensors.index.json");
  EXPECT_EQ(index.substr(0, 18), "{\n  \"metadata\": {\n");
  EXPECT_EQ(index.substr(index.size() - 3), "\n}\n");
  const io::Checkpoint whole(write(options("whole"), plan));
  EXPECT_EQ(written.names(), whole.names());
}

TEST_F(HfWriter, OverridesOfTheConfiguration) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats);
  HfWriterOptions changed = options("out");
  changed.mamba_ssm_cache_dtype = "float16";
  changed.dtype = DType::kF32;
  const fs::path out = write(changed, plan);
  const io::Json config = io::read_json(out / "config.json");
  EXPECT_EQ(config["mamba_ssm_cache_dtype"], "float16");
  EXPECT_EQ(config["dtype"], "float32");
  EXPECT_FALSE(config.contains("torch_dtype"));
  const io::Checkpoint written(out);
  const TensorView norm = written.tensor("backbone.norm_f.weight");
  ASSERT_EQ(norm.dtype, DType::kF32);
  EXPECT_EQ(norm.as<float>()[3],
            formats::bf16_to_float(
                source_.checkpoint.tensor("backbone.norm_f.weight").as<uint16_t>()[3]));
}

TEST_F(HfWriter, DtypeThatNoConfigurationNamesIsRejected) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats);
  HfWriterOptions changed = options("out");
  changed.dtype = DType::kI8;
  EXPECT_EQ(error_of([&] { write(changed, plan); }),
            "--dtype I8: expected bfloat16, float16 or float32");
}

TEST_F(HfWriter, ScalesThatNoServerCouldUseAreRefused) {
  const auto plan = make_test_plan(source_.tree(), all_fp8, "fp8_e4m3");
  auto sink = make_hf_writer(options("out"), source_.tree(), plan, source_.decls());
  const model::Module& module = *source_.tree().find("backbone.layers.0.mixer.in_proj");
  EXPECT_EQ(error_of([&] { sink->write_input_amax(module, 0); }),
            "backbone.layers.0.mixer.in_proj.input_scale: the scale would be 0 (from a maximum of "
            "0), expected a positive finite number");
  EXPECT_THAT(error_of([&] { sink->write_input_amax(module, std::nanf("")); }),
              HasSubstr("the scale would be nan"));
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_THAT(error_of([&] { sink->write_kv_amax(source_.tree().attentions()[0], 1, infinity); }),
              HasSubstr("backbone.layers.2.mixer.v_proj.v_scale: the scale would be inf"));

  formats::PackedTensor packed = plan.site(module).weight_format->encode(
      source_.checkpoint.tensor(module.tensors[0].name), {});
  packed.plane(formats::PlaneRole::kGlobalScale).as<float>()[0] = 0;
  EXPECT_THAT(error_of([&] { sink->write_weight(module, packed.view()); }),
              HasSubstr("in_proj.weight_scale: the scale would be 0, expected"));
}

TEST_F(HfWriter, FinishNamesWhatWasNeverWritten) {
  const auto plan = make_test_plan(source_.tree(), all_fp8);
  auto sink = make_hf_writer(options("out"), source_.tree(), plan, source_.decls());
  EXPECT_THAT(error_of([&] { sink->finish(); }), HasSubstr("never written"));
}

TEST_F(HfWriter, ConstantInputMaximaNeedNoCalibration) {
  auto plan = make_test_plan(source_.tree(), all_nvfp4);
  for (quant::SitePlan& site : plan.sites) {
    if (site.input_format != nullptr) site.constant_input_amax = 2688.0f;
  }
  HfWriterOptions exact = options("out");
  exact.arithmetic = formats::Arithmetic::kCpu;
  const io::Checkpoint written(write(exact, plan));
  EXPECT_EQ(written.tensor("backbone.layers.0.mixer.in_proj.input_scale").as<float>()[0], 1.0f);
}

// The first half of a run, then a second run that continues its files.
TEST_F(HfWriter, ResumedRunGivesTheSameFiles) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats, "fp8_e4m3");
  const fs::path whole = write(options("whole"), plan);
  HfWriterOptions resumed = options("resumed");
  const model::Module& first = *source_.tree().find("backbone.layers.0.mixer.in_proj");
  const auto packed =
      plan.site(first).weight_format->encode(source_.checkpoint.tensor(first.name + ".weight"), {});
  {
    auto sink = make_hf_writer(resumed, source_.tree(), plan, source_.decls());
    sink->write_weight(first, packed.view());
    sink->write_input_amax(first, fake_amax(first.name));
    sink->sync();
  }
  resumed.resume = true;
  auto sink = make_hf_writer(resumed, source_.tree(), plan, source_.decls());
  // Everything but the first module.
  class Skipping : public quant::QuantizedSink {
   public:
    Skipping(quant::QuantizedSink& next, const model::Module& skip) : next_(next), skip_(skip) {}
    void write_weight(const model::Module& m, const formats::PackedView& p) override {
      if (&m != &skip_) next_.write_weight(m, p);
    }
    void copy_tensor(std::string_view n, const TensorView& t) override { next_.copy_tensor(n, t); }
    void write_input_amax(const model::Module& m, float amax) override {
      if (&m != &skip_) next_.write_input_amax(m, amax);
    }
    void write_kv_amax(const model::AttentionSite& s, float k, float v) override {
      next_.write_kv_amax(s, k, v);
    }
    void sync() override {}
    void finish() override {}

   private:
    quant::QuantizedSink& next_;
    const model::Module& skip_;
  };
  Skipping rest(*sink, first);
  feed(rest, source_, plan);
  sink->finish();
  EXPECT_EQ(read_directory(resumed.directory), read_directory(whole));
}

TEST_F(HfWriter, SidecarFilesAreCopiedByteForByte) {
  const fs::path model = temp_.make("model");
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::copy_file(source_.directory / name, model / name);
  }
  const std::vector<std::string> copied = {"tokenizer.json",         "tokenizer_config.json",
                                           "generation_config.json", "chat_template.jinja",
                                           "modeling_nemotron_h.py", "README.md"};
  const std::vector<std::string> left = {"pytorch_model.bin", "recipe.yaml", "quant_config.json",
                                         "model.gguf",
                                         "model.safetensors.index.json.x.safetensors"};
  for (const std::string& name : copied) write_file(model / name, "bytes of " + name + "\n\r");
  for (const std::string& name : left) write_file(model / name, "no");
  fs::create_directories(model / "folder");
  fs::create_symlink(model / "README.md", model / "LICENSE");
  HfWriterOptions with_sidecars = options("out");
  with_sidecars.source = model;
  const auto plan = make_test_plan(source_.tree(), all_fp8);
  const fs::path out = write(with_sidecars, plan);
  for (const std::string& name : copied) {
    EXPECT_EQ(read_file(out / name), "bytes of " + name + "\n\r");
  }
  EXPECT_EQ(read_file(out / "LICENSE"), "bytes of README.md\n\r");
  for (const std::string& name : left) EXPECT_FALSE(fs::exists(out / name)) << name;
  EXPECT_FALSE(fs::exists(out / "folder"));
}

TEST_F(HfWriter, MtpTensorsAreCopiedAndExcluded) {
  const fs::path model = temp_.make("model");
  fs::copy_file(source_.directory / "config.json", model / "config.json");
  fs::copy_file(source_.directory / "model.safetensors", model / "model.safetensors");
  edit_tensors(model, [](LooseTensors& tensors) {
    tensors["mtp.layers.0.norm.weight"] = {DType::kBF16, {2}, "abcd"};
  });
  const Source with_mtp(model);
  const auto plan = make_test_plan(with_mtp.tree(), all_fp8);
  HfWriterOptions out = options("out");
  out.source = model;
  out.dtype = DType::kF32;
  auto sink = make_hf_writer(out, with_mtp.tree(), plan, with_mtp.decls());
  feed(*sink, with_mtp, plan);
  sink->finish();
  const io::Checkpoint written(out.directory);
  EXPECT_EQ(written.tensor("mtp.layers.0.norm.weight").dtype, DType::kBF16);
  EXPECT_THAT(read_file(out.directory / "hf_quant_config.json"),
              HasSubstr("            \"mtp*\",\n            \"mtp.layers.0*\"\n"));
}

TEST_F(HfWriter, SourceWithoutAConfigurationIsRejected) {
  HfWriterOptions empty = options("out");
  empty.source = temp_.make("empty");
  const auto plan = make_test_plan(source_.tree(), all_fp8);
  EXPECT_THAT(error_of([&] { make_hf_writer(empty, source_.tree(), plan, source_.decls()); }),
              HasSubstr("config.json: no such file"));
  write_file(empty.source / "config.json", "[1]");
  EXPECT_THAT(error_of([&] { make_hf_writer(empty, source_.tree(), plan, source_.decls()); }),
              HasSubstr("config.json: expected a JSON object"));
}

TEST(ConvertFloats, RoundsToNearestAndKeepsNonFinite) {
  Tensor wide(DType::kF32, {4});
  const float values[] = {1.00390625f, -0.1f, std::numeric_limits<float>::infinity(), 65504.0f};
  std::copy(std::begin(values), std::end(values), wide.as<float>().begin());
  const Tensor bf16 = convert_floats(wide.view(), DType::kBF16, "t");
  EXPECT_EQ(bf16.as<uint16_t>()[0], 0x3F80);  // the tie 1 + 2^-8 goes to even
  EXPECT_EQ(bf16.as<uint16_t>()[2], 0x7F80);
  const Tensor fp16 = convert_floats(wide.view(), DType::kF16, "t");
  EXPECT_EQ(fp16.as<uint16_t>()[3], 0x7BFF);
}

TEST(ConvertFloats, ValueBeyondTheTargetIsRejected) {
  Tensor wide(DType::kF32, {2});
  wide.as<float>()[0] = 1;
  wide.as<float>()[1] = 70000;
  EXPECT_EQ(error_of([&] { convert_floats(wide.view(), DType::kF16, "a.weight"); }),
            "a.weight: the value 70000 at element 1 does not fit F16");
}

}  // namespace
}  // namespace vernier::exporting
