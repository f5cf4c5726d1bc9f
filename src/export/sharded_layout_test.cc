// Sharded checkpoints in files of many ranks: written at one layout, read whole, at another, or as
// a tensor rank's share.
#include <gmock/gmock.h>

#include "comm/thread_ranks.h"
#include "export/inspect.h"
#include "export/sharded_test_support.h"
#include "model/partitioned_weights.h"

namespace vernier::exporting {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using namespace testing;  // NOLINT: test_support

// Both formats, cut by rows and by columns, and also what is outside of the stack.
SiteFormats every_format(const model::Module& module) {
  if (module.kind == model::ModuleKind::kEmbedding) return {"fp8_e4m3", ""};
  const SiteFormats mixed = mixed_formats(module);
  if (mixed.weight != "bf16") return mixed;
  if (module.name == "lm_head") return {"fp8_e4m3", "fp8_e4m3"};
  return module.name.find("mixer.up_proj") == std::string::npos ? all_nvfp4(module) : SiteFormats{};
}

struct Subject {
  std::string network;
  std::vector<int64_t> tps, pps, eps;
};

void PrintTo(const Subject& subject, std::ostream* out) { *out << subject.network; }

class AnyLayout : public ShardedTest, public ::testing::WithParamInterface<Subject> {
 protected:
  AnyLayout() : ShardedTest(golden(GetParam().network + "/checkpoint")) {}
};

TEST_P(AnyLayout, ExportGivesTheBytesOfADirectExport) {
  const auto plan = make_test_plan(source_.tree(), every_format, "fp8_e4m3");
  const auto expected = read_directory(export_directly("direct", plan));
  for (const int64_t tp : GetParam().tps) {
    for (const int64_t pp : GetParam().pps) {
      for (const int64_t ep : GetParam().eps) {
        const comm::Layout layout = layout_of(tp, pp, ep);
        SCOPED_TRACE(layout.describe());
        const fs::path out = write("sharded", plan, layout);
        const fs::path exported = export_to("exported", open_sharded(out));
        EXPECT_EQ(read_directory(exported), expected);
        fs::remove_all(out);
        fs::remove_all(exported);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Networks, AnyLayout,
                         ::testing::Values(Subject{"latent", {1, 2, 4}, {1, 2, 3, 4}, {1, 2, 4, 8}},
                                           Subject{"grouped", {1, 2}, {1, 3}, {1, 4}}));

class ShardedLayout : public ShardedTest {};

TEST_F(ShardedLayout, FilesOfRanks) {
  const auto plan = make_test_plan(source_.tree(), all_nvfp4, "fp8_e4m3");
  const fs::path out = write("sharded", plan, layout_of(2, 2, 2));
  EXPECT_THAT(verify_checkpoint(out), IsEmpty());
  std::vector<std::string> names;
  for (const auto& [name, bytes] : read_directory(out)) {
    if (name.ends_with(".safetensors")) names.push_back(name);
  }
  EXPECT_THAT(names, ::testing::ElementsAre(
                         "dense-pp00-tp00.safetensors", "dense-pp00-tp01.safetensors",
                         "dense-pp01-tp00.safetensors", "dense-pp01-tp01.safetensors",
                         "experts-pp00-ep00.safetensors", "experts-pp00-ep01.safetensors",
                         "experts-pp01-ep00.safetensors", "experts-pp01-ep01.safetensors"));
  const io::Json manifest = io::read_json(out / "vernier.json");
  EXPECT_EQ(manifest["format_version"], 2);
  EXPECT_EQ(manifest["layout"], (io::Json{{"tp", 2}, {"pp", 2}, {"ep", 2}}));
  const io::Json& slices = manifest["tensors"]["backbone.layers.0.mixer.in_proj.weight"]["slices"];
  ASSERT_THAT(slices, SizeIs(10));
  EXPECT_FALSE(slices[0].contains("file_start"));
  EXPECT_EQ(slices[1], (io::Json{{"file", "dense-pp00-tp00.safetensors"},
                                 {"start", {128, 0}},
                                 {"shape", {64, 32}},
                                 {"file_start", {64, 0}}}));
}

// Nothing is cut by stages and expert ranks alone: the first version's readers understand that.
TEST_F(ShardedLayout, VersionIsTheFirstWhereNothingIsCut) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats);
  const fs::path out = write("sharded", plan, layout_of(1, 4, 8));
  EXPECT_EQ(io::read_json(out / "vernier.json")["format_version"], 1);
}

TEST_F(ShardedLayout, ReshardingIsLossless) {
  const auto plan = make_test_plan(source_.tree(), all_nvfp4, "fp8_e4m3");
  fs::path last = write("first", plan, layout_of(2, 2, 1));
  int n_steps = 0;
  for (const comm::Layout& layout : {layout_of(1, 4, 2), layout_of(2, 1, 4), comm::Layout()}) {
    const std::string number = std::to_string(n_steps++);
    last = reshard("resharded-" + number, open_sharded(last), layout);
    EXPECT_EQ(read_directory(last), read_directory(write("direct-" + number, plan, layout)));
  }
}

class BundledModel : public ShardedTest {
 protected:
  BundledModel() : ShardedTest(fs::path(VERNIER_SOURCE_DIR) / "models/tiny") {}
};

TEST_F(BundledModel, ReshardingIsLossless) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats, "fp8_e4m3");
  fs::path last = write("first", plan, layout_of(4, 2, 1));
  for (const comm::Layout& layout : {layout_of(1, 8, 1), layout_of(2, 1, 4)}) {
    const fs::path next = reshard(layout.describe(), open_sharded(last), layout);
    last = next;
  }
  EXPECT_EQ(read_directory(last), read_directory(write("direct", plan, layout_of(2, 1, 4))));
  EXPECT_EQ(read_directory(export_to("exported", open_sharded(last))),
            read_directory(export_directly("directly", plan)));
}

TEST_F(ShardedLayout, InspectionIsThatOfOneRank) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats, "fp8_e4m3");
  const Inspection one = inspect_checkpoint(write("one", plan));
  const Inspection many = inspect_checkpoint(write("many", plan, layout_of(2, 2, 4)));
  EXPECT_EQ(to_json(one)["modules"], to_json(many)["modules"]);
  EXPECT_EQ(one.n_tensors, many.n_tensors);
}

void expect_same_weights(const model::ModuleTree& tree, const model::WeightSource& found,
                         const model::WeightSource& expected) {
  for (const model::Module& module : tree.modules()) {
    SCOPED_TRACE(module.name);
    const bool is_packed =
        module.kind == model::ModuleKind::kLinear || module.kind == model::ModuleKind::kEmbedding;
    if (is_packed) {
      const model::LinearWeight a = found.linear(module);
      const model::LinearWeight b = expected.linear(module);
      EXPECT_EQ(a.packed.n, b.packed.n);
      EXPECT_EQ(a.packed.k, b.packed.k);
      EXPECT_EQ(a.input.format, b.input.format);
      EXPECT_EQ(a.input.scale, b.input.scale);
      for (const formats::PlaneSpec& plane : b.packed.format->planes) {
        EXPECT_TRUE(are_equal(a.packed.plane(plane.role), b.packed.plane(plane.role)));
      }
    } else {
      for (const model::TensorSpec& spec : module.tensors) {
        EXPECT_TRUE(are_equal(found.tensor(spec), expected.tensor(spec))) << spec.name;
      }
    }
    found.will_need(module);
    found.done_with(module);
  }
}

TEST_F(ShardedLayout, SharesAreThoseCutFromTheWhole) {
  for (auto* assign : {mixed_formats, all_nvfp4}) {
    const auto plan = make_test_plan(source_.tree(), assign, "fp8_e4m3");
    const ShardedCheckpoint one = open_sharded(write("one", plan));
    for (const int64_t written : {1, 2, 4}) {
      const fs::path out = write("tp" + std::to_string(written), plan, layout_of(written, 2, 2));
      const ShardedCheckpoint checkpoint = open_sharded(out);
      for (const int64_t read : {1, 2, 4}) {
        for (int64_t rank = 0; rank < read; ++rank) {
          SCOPED_TRACE(::testing::Message() << written << " to " << read << " rank " << rank);
          expect_same_weights(source_.tree(), *checkpoint.weights->share({rank, read}),
                              model::PartitionedWeights(one.stored.weights, {rank, read}));
        }
      }
    }
  }
}

TEST_F(ShardedLayout, RanksOpenTheirShare) {
  const auto plan = make_test_plan(source_.tree(), all_nvfp4, "fp8_e4m3");
  const ShardedCheckpoint one = open_sharded(write("one", plan));
  const fs::path out = write("sharded", plan, layout_of(2, 2, 2));
  comm::run_thread_ranks(4, [&](const comm::Communicator& world) {
    const comm::Ranks ranks(world, comm::Layout(4, 2, 2, 2));
    const ShardedCheckpoint checkpoint = open_sharded(out, &ranks);
    EXPECT_EQ(&checkpoint.stored.model->ranks(), &ranks);
    expect_same_weights(checkpoint.stored.model->tree(),
                        *model::share_of_weights(checkpoint.stored.weights, ranks),
                        *model::share_of_weights(one.stored.weights, ranks));
  });
}

TEST_F(ShardedLayout, LayoutThatTheNetworkCannotBeCutByIsRejected) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats);
  const fs::path out = write("sharded", plan);
  comm::run_thread_ranks(3, [&](const comm::Communicator& world) {
    const comm::Ranks ranks(world, comm::Layout(3, 3, 1, 1));
    EXPECT_THAT(error_of([&] { open_sharded(out, &ranks); }), HasSubstr("--tp 3: expected"));
  });
}

// Bytes that the cut modules' weights give, scalars aside.
int64_t given_bytes(const ShardedCheckpoint& checkpoint, const model::WeightSource& weights) {
  int64_t n_scalars = 0;
  const int64_t before = checkpoint.tensors->given_bytes();
  for (const quant::SitePlan& site : checkpoint.plan.sites) {
    if (!site.module->tensors.front().cut.is_cut()) continue;
    const model::LinearWeight weight = weights.linear(*site.module);
    n_scalars += site.input_format != nullptr;
    for (const formats::PlaneSpec& plane : weight.packed.format->planes) {
      // Checked before it is given.
      if (plane.role == formats::PlaneRole::kGlobalScale) n_scalars += 2;
    }
  }
  return checkpoint.tensors->given_bytes() - before - n_scalars * int64_t{sizeof(float)};
}

TEST_F(ShardedLayout, AShareReadsItsPartOfTheBytes) {
  const auto plan = make_test_plan(source_.tree(), all_nvfp4);
  for (const int64_t written : {1, 2, 4}) {
    const fs::path out = write("tp" + std::to_string(written), plan, layout_of(written, 1, 1));
    const ShardedCheckpoint checkpoint = open_sharded(out);
    const int64_t whole = given_bytes(checkpoint, *checkpoint.stored.weights);
    EXPECT_EQ(given_bytes(checkpoint, *checkpoint.weights->share({0, 2})), whole / 2);
    EXPECT_EQ(given_bytes(checkpoint, *checkpoint.weights->share({1, 2})), whole / 2);
  }
}

// Opening checks, and does not read, what lies in the slices.
TEST_F(ShardedLayout, OpeningReadsScalarsAlone) {
  const auto plan = make_test_plan(source_.tree(), all_nvfp4, "fp8_e4m3");
  const ShardedCheckpoint checkpoint = open_sharded(write("sharded", plan, layout_of(2, 1, 1)));
  const int64_t n_scalars = checkpoint.tensors->given_bytes() / int64_t{sizeof(float)};
  EXPECT_LE(n_scalars, std::ssize(checkpoint.tensors->names()));
}

// A layer's weights belong to who holds them; what every token needs is put together once.
TEST_F(ShardedLayout, WhoKeepsWhatIsPutTogether) {
  const auto plan = make_test_plan(source_.tree(), all_nvfp4);
  const fs::path out = write("sharded", plan, layout_of(2, 1, 1));
  const ShardedCheckpoint checkpoint = open_sharded(out);
  const model::WeightSource& weights = *checkpoint.stored.weights;
  const model::Module& in_proj = *source_.tree().find("backbone.layers.0.mixer.in_proj");
  EXPECT_EQ(weights.linear(in_proj).owner.use_count(), 1);
  const model::Module& table = checkpoint.stored.model->embedding();
  const model::LinearWeight first = weights.linear(table);
  EXPECT_EQ(weights.linear(table).owner, first.owner);
  weights.done_with(table);
  EXPECT_EQ(first.owner.use_count(), 1);
  const model::TensorSpec& taps = source_.tree().find("backbone.layers.0.mixer.conv1d")->tensors[0];
  EXPECT_EQ(weights.tensor(taps).data, weights.tensor(taps).data);
  // In files of one rank nothing is copied.
  const ShardedCheckpoint one = open_sharded(write("one", plan));
  EXPECT_EQ(one.stored.weights->linear(in_proj).owner, nullptr);
}

// As several processes do: one creates the files, all fill them, one finishes.
template <class MakeSink>
void copy_in_parts(const ShardedCheckpoint& checkpoint, const MakeSink& make_sink) {
  constexpr int64_t kParts = 3;
  make_sink(/*resume=*/false);
  std::vector<std::unique_ptr<quant::QuantizedSink>> sinks;
  for (int64_t part = 0; part < kParts; ++part) sinks.push_back(make_sink(/*resume=*/true));
  for (int64_t part = 0; part < kParts; ++part) {
    checkpoint.copy_to(*sinks[static_cast<size_t>(part)], {part, kParts});
    sinks[static_cast<size_t>(part)]->sync();
  }
  sinks.front()->finish();
}

TEST_F(ShardedLayout, PartsTogetherAreTheWholeExport) {
  const auto plan = make_test_plan(source_.tree(), mixed_formats, "fp8_e4m3");
  const ShardedCheckpoint checkpoint = open_sharded(write("sharded", plan, layout_of(2, 1, 2)));
  HfWriterOptions options = export_options("exported", checkpoint.stored.directory);
  copy_in_parts(checkpoint, [&](bool resume) {
    options.resume = resume;
    return make_hf_writer(options, checkpoint.stored.model->tree(), checkpoint.plan,
                          checkpoint.source_tensors());
  });
  EXPECT_EQ(read_directory(options.directory), read_directory(export_directly("direct", plan)));
}

TEST_F(ShardedLayout, PartsTogetherAreTheWholeShardedCheckpoint) {
  auto plan = make_test_plan(source_.tree(), all_nvfp4, "fp8_e4m3");
  plan.sites[1].constant_input_amax = 3.0f;
  const ShardedCheckpoint checkpoint = open_sharded(write("sharded", plan, layout_of(2, 1, 2)));
  ShardedWriterOptions options = writer_options("parts", layout_of(2, 3, 4));
  copy_in_parts(checkpoint, [&](bool resume) {
    options.resume = resume;
    return make_sharded_writer(options, checkpoint.stored.model->tree(), checkpoint.plan,
                               checkpoint.source_tensors());
  });
  EXPECT_EQ(read_directory(options.directory),
            read_directory(write("direct", plan, options.layout)));
}

struct BadSlices {
  std::string title;
  std::function<void(io::Json&)> edit;
  std::string message;
};

TEST_F(ShardedLayout, SlicesThatAreRejected) {
  const auto plan = make_test_plan(source_.tree(), all_fp8);
  const fs::path out = write("sharded", plan, layout_of(2, 1, 1));
  const std::string good = read_file(out / "vernier.json");
  const std::string name = "backbone.layers.2.mixer.o_proj.weight";  // [64, 128], cut by columns
  const BadSlices cases[] = {
      {"overlap",
       [](io::Json& s) {
         s[1]["start"] = {0, 63};
       },
       "its slices 0 and 1 overlap"},
      {"gap",
       [](io::Json& s) {
         s[1]["shape"] = {63, 64};
       },
       "its 2 slices leave a gap, expected to cover [64, 128]"},
      {"one missing", [](io::Json& s) { s.erase(0); }, "its 1 slices leave a gap"},
      {"none", [](io::Json& s) { s.clear(); }, "its 0 slices leave a gap"},
      {"beyond the whole",
       [](io::Json& s) {
         s[1]["start"] = {0, 65};
       },
       "a slice [64, 64] from [0, 65] on lies beyond its shape [64, 128]"},
      {"beyond, by overflow",
       [](io::Json& s) {
         s[1]["start"] = {0, INT64_MAX};
       },
       "lies beyond its shape"},
      {"dimensions", [](io::Json& s) { s[1]["start"] = {0}; }, "lies beyond its shape"},
      {"beyond the file's tensor",
       [](io::Json& s) {
         s[1]["file_start"] = {0, 1};
       },
       "found [64, 64], vernier.json says that a slice [64, 64] from [0, 1] on lies there"},
      {"dimensions in the file", [](io::Json& s) { s[1]["file_start"] = {0}; },
       "says that a slice [64, 64] from [0] on lies there"},
      {"whole, but only a part is there",
       [](io::Json& s) {
         s.erase(1);
         s[0]["shape"] = {64, 128};
       },
       "found F8_E4M3 [64, 64], vernier.json says F8_E4M3 [64, 128]"},
      {"no such file", [](io::Json& s) { s[1]["file"] = "dense-pp00-tp02.safetensors"; },
       "dense-pp00-tp02.safetensors"},
      {"count",
       [](io::Json& s) {
         s[1]["file_start"] = {0, -1};
       },
       "expected a count"},
  };
  for (const BadSlices& bad : cases) {
    SCOPED_TRACE(bad.title);
    io::Json json = io::parse_json(good, "vernier.json");
    bad.edit(json["tensors"][name]["slices"]);
    write_file(out / "vernier.json", io::dump_json(json));
    const std::string message = error_of([&] { open_sharded(out); });
    EXPECT_THAT(message, HasSubstr(bad.message));
    EXPECT_THAT(verify_checkpoint(out), SizeIs(1));
  }
}

// A second writer may cut otherwise: any blocks that cover a tensor are read.
TEST_F(ShardedLayout, BlocksOfAnyPlaceAreRead) {
  const auto plan = make_test_plan(source_.tree(), all_fp8);
  const fs::path out = write("sharded", plan);
  const auto expected = read_directory(export_to("expected", open_sharded(out)));
  edit_json(out / "vernier.json", [](io::Json& json) {
    const io::Json file = "dense-pp00-tp00.safetensors";
    const auto slice = [&](const io::Json& start, const io::Json& shape) {
      return io::Json{{"file", file}, {"start", start}, {"shape", shape}, {"file_start", start}};
    };
    json["tensors"]["backbone.layers.2.mixer.o_proj.weight"]["slices"] = {
        slice({0, 0}, {40, 128}), slice({40, 0}, {24, 100}), slice({40, 100}, {24, 28})};
  });
  const ShardedCheckpoint checkpoint = open_sharded(out);
  EXPECT_EQ(read_directory(export_to("exported", checkpoint)), expected);
  const model::Module& o_proj = *source_.tree().find("backbone.layers.2.mixer.o_proj");
  const formats::PackedTensor cut = cut_packed(checkpoint.stored.weights->linear(o_proj).packed,
                                               o_proj.tensors.front().cut, {1, 2}, o_proj.name);
  const model::LinearWeight share = checkpoint.weights->share({1, 2})->linear(o_proj);
  EXPECT_TRUE(are_equal(share.packed.plane(formats::PlaneRole::kCodes),
                        cut.plane(formats::PlaneRole::kCodes).view()));
}

}  // namespace
}  // namespace vernier::exporting
