// Shares that no golden network has: of blocks that a cut would divide, of elements below a byte.
#include "export/sharded_weights.h"

#include <gmock/gmock.h>

#include <numeric>

#include "export/test_support.h"

namespace vernier::exporting {
namespace {

using ::testing::HasSubstr;
using namespace testing;  // NOLINT: test_support

// A linear of 2 outputs in NVFP4, whose 32 inputs are cut in units of 8.
class NarrowHeads : public ::testing::Test {
 protected:
  NarrowHeads() {
    module_.tensors = {
        {"o.weight", {2, 32}, {.kind = model::CutKind::kColumns, .segments = {32}, .unit = 8}}};
    Tensor weight(DType::kBF16, {2, 32});
    std::iota(weight.as<uint16_t>().begin(), weight.as<uint16_t>().end(), 0x3F00);
    packed_ = format_.encode(weight.view(), {});

    std::vector<TensorFile> files = {{"one.safetensors", {}}};
    for (const formats::PlaneSpec& plane : format_.planes) {
      const TensorView view = packed_.plane(plane.role).view();
      files[0].tensors.push_back({plane_name(module_, plane), view.dtype, view.shape});
    }
    io::SafetensorsWriter writer(directory() / files[0].name, files[0].tensors);
    for (const formats::PlaneSpec& plane : format_.planes) {
      writer.write(plane_name(module_, plane), packed_.plane(plane.role).view().bytes());
    }
    writer.finish();
    manifest_.sites = {{"o", &format_, {}, nullptr, {}, "", ""}};
    manifest_.tensors = whole_in(files);
  }

  fs::path directory() const { return temp_.make("checkpoint"); }
  std::shared_ptr<const model::WeightSource> share(comm::Share share) const {
    return ShardedWeights(std::make_shared<SliceStore>(directory(), manifest_.tensors), manifest_)
        .share(share);
  }

  const formats::Format& format_ = *formats::find_format("nvfp4");
  TempDir temp_;
  model::Module module_{.name = "o", .layer = 0, .n = 2, .k = 32};
  formats::PackedTensor packed_;
  Manifest manifest_;
};

TEST_F(NarrowHeads, SharesOfWholeBlocksAreCutFromTheWhole) {
  const formats::PackedTensor expected =
      cut_packed(packed_.view(), module_.tensors.front().cut, {1, 2}, "o");
  const model::LinearWeight found = share({1, 2})->linear(module_);
  EXPECT_EQ(found.packed.k, 16);
  for (const formats::PlaneSpec& plane : format_.planes) {
    const auto a = found.packed.plane(plane.role).bytes();
    const auto b = expected.plane(plane.role).view().bytes();
    EXPECT_TRUE(std::ranges::equal(a, b)) << plane.suffix;
  }
}

TEST_F(NarrowHeads, SharesThatDivideABlockAreRejected) {
  EXPECT_THAT(error_of([&] {
                share({0, 4})->linear(module_);
              }),
              HasSubstr("inputs 0 to 8 of o would be one rank's, expected whole blocks of 16"));
}

class FourBitTensor : public ::testing::Test {
 protected:
  // The 16 elements in one file, said to lie in these slices.
  SliceStore store(const std::vector<Slice>& slices) const {
    const fs::path directory = temp_.make("checkpoint");
    io::SafetensorsWriter writer(directory / "one.safetensors", {decl_});
    writer.write("t", std::vector<std::byte>(8));
    writer.finish();
    return SliceStore(directory, {{decl_, slices}});
  }

  TempDir temp_;
  io::TensorDecl decl_{"t", DType::kF4, {2, 8}};
};

TEST_F(FourBitTensor, IsReadWhole) {
  const SliceStore whole = store(whole_in("one.safetensors", decl_).slices);
  EXPECT_EQ(whole.whole("t").view.size_bytes(), 8);
  EXPECT_EQ(
      error_of([&] {
        whole.part("t", {1, {{0, 4}}});
      }),
      (whole.directory() / "vernier.json").string() + ": tensor t: holds F4, which cannot be cut");
}

TEST_F(FourBitTensor, IsNotReadFromSlices) {
  EXPECT_THAT(error_of([&] {
                store({{"one.safetensors", {0, 0}, {1, 8}, {0, 0}},
                       {"one.safetensors", {1, 0}, {1, 8}, {1, 0}}});
              }),
              HasSubstr("tensor t: is cut, expected F4 whole in one file"));
}

}  // namespace
}  // namespace vernier::exporting
