#include "io/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/testing.h"

namespace vernier::io {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::StartsWith;

// A shard whose tensors are single bytes, each the first letter of its name.
void write_shard(const fs::path& path, const std::vector<std::string>& names) {
  std::vector<TensorDecl> tensors;
  for (const std::string& name : names) tensors.push_back({name, DType::kU8, {1}});
  SafetensorsWriter writer(path, tensors);
  for (const std::string& name : names) writer.write(name, std::as_bytes(std::span(name).first(1)));
  writer.finish();
}

// Two shards: "one" holds a and c, "two" holds b; the index is `weight_map`.
class ShardedCheckpointTest : public testing::Test {
 protected:
  ShardedCheckpointTest() {
    write_shard(directory_ / "one.safetensors", {"c", "a"});
    write_shard(directory_ / "two.safetensors", {"b"});
    write_index(R"("a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors")");
  }

  void write_index(const std::string& weight_map) {
    write_file(index(), R"({"metadata": {"total_size": 99}, "weight_map": {)" + weight_map + "}}");
  }
  fs::path index() const { return directory_ / "model.safetensors.index.json"; }
  std::string rejection() const {
    const Error error = error_of([&] { Checkpoint(directory_.path()); });
    EXPECT_EQ(error.kind(), ErrorKind::kCorrupt);
    return error.message();
  }

  TemporaryDirectory directory_;
};

TEST(CheckpointTest, OpensASingleFile) {
  const TemporaryDirectory directory;
  write_shard(directory / "model.safetensors", {"b", "a"});
  const Checkpoint checkpoint(directory.path());
  EXPECT_EQ(checkpoint.directory(), directory.path());
  EXPECT_THAT(checkpoint.names(), ElementsAre("a", "b"));
  EXPECT_EQ(checkpoint.tensor("b").as<char>()[0], 'b');
  EXPECT_EQ(checkpoint.file_bytes(),
            static_cast<int64_t>(fs::file_size(directory / "model.safetensors")));
}

TEST(CheckpointTest, NamesADirectoryWithoutWeights) {
  const TemporaryDirectory directory;
  const Error error = error_of([&] { Checkpoint(directory.path()); });
  EXPECT_EQ(error.kind(), ErrorKind::kNotFound);
  EXPECT_EQ(error.message(),
            directory.path().string() +
                ": holds neither model.safetensors nor model.safetensors.index.json");
  EXPECT_EQ(error_of([] { Checkpoint("/nowhere"); }).kind(), ErrorKind::kNotFound);
}

TEST(CheckpointTest, OpensTheShippedModel) {
  const fs::path directory = fs::path(VERNIER_SOURCE_DIR) / "models/tiny";
  const Checkpoint checkpoint(directory);
  EXPECT_EQ(checkpoint.files().size(), 2u);
  int64_t n_data_bytes = 0;
  for (const std::string& name : checkpoint.names()) {
    n_data_bytes += checkpoint.tensor(name).size_bytes();
  }
  EXPECT_EQ(n_data_bytes, 26'413'600);  // total_size in its index
  EXPECT_EQ(checkpoint.tensor("backbone.embeddings.weight").dtype, DType::kBF16);
}

TEST_F(ShardedCheckpointTest, SeesOneSetOfTensors) {
  const Checkpoint checkpoint(directory_.path());
  EXPECT_THAT(checkpoint.names(), ElementsAre("a", "b", "c"));
  for (const std::string& name : checkpoint.names()) {
    EXPECT_EQ(checkpoint.tensor(name).as<char>()[0], name[0]);
  }
  EXPECT_EQ(checkpoint.file_of("c"), directory_ / "one.safetensors");
  EXPECT_EQ(checkpoint.file_of("b"), directory_ / "two.safetensors");
  EXPECT_EQ(checkpoint.file_bytes(),
            static_cast<int64_t>(fs::file_size(directory_ / "one.safetensors") +
                                 fs::file_size(directory_ / "two.safetensors")));
}

TEST_F(ShardedCheckpointTest, NamesAnAbsentTensor) {
  const Checkpoint checkpoint(directory_.path());
  EXPECT_TRUE(checkpoint.contains("a"));
  EXPECT_FALSE(checkpoint.contains("lm_head.weight"));
  const Error error = error_of([&] { checkpoint.tensor("lm_head.weight"); });
  EXPECT_EQ(error.kind(), ErrorKind::kNotFound);
  EXPECT_EQ(error.message(), directory_.path().string() + ": has no tensor \"lm_head.weight\"");
}

TEST_F(ShardedCheckpointTest, IsMovable) {
  Checkpoint checkpoint(directory_.path());
  const Checkpoint moved = std::move(checkpoint);
  EXPECT_EQ(moved.tensor("b").as<char>()[0], 'b');
}

TEST_F(ShardedCheckpointTest, RejectsAMissingShard) {
  fs::remove(directory_ / "two.safetensors");
  EXPECT_EQ(rejection(),
            index().string() + ": names the shard two.safetensors, which is not there");
}

TEST_F(ShardedCheckpointTest, RejectsATensorThatItsShardLacks) {
  write_shard(directory_ / "one.safetensors", {"a"});
  EXPECT_EQ(rejection(),
            index().string() + ": places tensor \"c\" in one.safetensors, which does not hold it");
}

TEST_F(ShardedCheckpointTest, RejectsATensorThatTheIndexLacks) {
  write_shard(directory_ / "two.safetensors", {"b", "x"});
  EXPECT_EQ(rejection(),
            (directory_ / "two.safetensors").string() +
                ": holds tensor \"x\", which model.safetensors.index.json does not list");
}

TEST_F(ShardedCheckpointTest, RejectsATensorInTwoShards) {
  write_shard(directory_ / "two.safetensors", {"a", "b"});
  EXPECT_EQ(
      rejection(),
      (directory_ / "two.safetensors").string() +
          ": holds tensor \"a\", which model.safetensors.index.json places in one.safetensors");
}

TEST_F(ShardedCheckpointTest, RejectsShardNamesThatLeaveTheDirectory) {
  const std::string names[] = {
      "", ".", "..", "../one.safetensors", "sub/one.safetensors", "/etc/passwd", "a\\u0000b"};
  for (const std::string& name : names) {
    write_index("\"a\": \"" + name + "\"");
    EXPECT_EQ(rejection(), index().string() + ": places tensor \"a\" in \"" + name +
                               "\", expected the name of a file beside the index");
  }
  write_index(R"("a": 1)");
  EXPECT_EQ(rejection(), index().string() +
                             ": places tensor \"a\" in 1, expected the name of a file "
                             "beside the index");
}

TEST_F(ShardedCheckpointTest, RejectsAnIndexWithoutWeightMap) {
  for (const char* text : {"{}", "[]", "3", R"({"weight_map": []})"}) {
    write_file(index(), text);
    EXPECT_EQ(rejection(), index().string() + ": has no weight_map object");
  }
  write_file(index(), "{\"weight_map\": {\"a\"");
  EXPECT_THAT(rejection(), StartsWith(index().string() + ":1:20: malformed JSON: "));
  write_index(R"("a": "one.safetensors", "a": "one.safetensors")");
  EXPECT_EQ(rejection(),
            index().string() + ": malformed JSON: key \"a\" appears twice in one object");
}

}  // namespace
}  // namespace vernier::io
