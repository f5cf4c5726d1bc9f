#include "io/staging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/file.h"
#include "base/testing.h"

namespace vernier::io {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const Json kIdentity = {{"recipe", "nvfp4"}, {"seed", 1}};

class StagingTest : public testing::Test {
 protected:
  // Canonical, since staging resolves links in its target.
  fs::path target() const { return fs::canonical(directory_.path()) / "out"; }
  fs::path staging() const { return target().string() + ".vernier-staging"; }

  // A run that is killed after it wrote one file and one record.
  void killed_run(const Json& identity = kIdentity) const {
    StagingDirectory run(target(), identity, /*restart=*/false);
    write_file(run.path() / "shard", "half");
    run.journal().append("layer 0", 1);
  }

  TemporaryDirectory directory_;
};

TEST_F(StagingTest, TheTargetAppearsAtCommit) {
  StagingDirectory run(target(), kIdentity, false);
  EXPECT_FALSE(run.is_resumed());
  EXPECT_EQ(run.path().parent_path(), staging());
  write_file(run.path() / "a", "A");
  fs::create_directory(run.path() / "sub");
  write_file(run.path() / "sub" / "b", "B");
  EXPECT_FALSE(fs::exists(target()));
  run.commit();
  EXPECT_EQ(read_file(target() / "a"), "A");
  EXPECT_EQ(read_file(target() / "sub" / "b"), "B");
  EXPECT_FALSE(fs::exists(target() / "journal"));
  EXPECT_FALSE(fs::exists(staging()));
}

TEST_F(StagingTest, MakesMissingParents) {
  StagingDirectory run(target() / "x" / "y", kIdentity, false);
  run.commit();
  EXPECT_TRUE(fs::is_directory(target() / "x" / "y"));
}

TEST_F(StagingTest, ReplacesAnEmptyDirectoryAndIgnoresATrailingSlash) {
  fs::create_directory(target());
  StagingDirectory run(target().string() + "/", kIdentity, false);
  EXPECT_EQ(run.path().parent_path(), staging());
  write_file(run.path() / "a", "A");
  run.commit();
  EXPECT_EQ(read_file(target() / "a"), "A");
}

TEST_F(StagingTest, FollowsALinkToAnEmptyDirectory) {
  fs::create_directory(target());
  fs::create_directory_symlink(target(), directory_ / "link");
  StagingDirectory run(directory_ / "link", kIdentity, false);
  write_file(run.path() / "a", "A");
  run.commit();
  EXPECT_EQ(read_file(directory_ / "link" / "a"), "A");
}

TEST_F(StagingTest, ContinuesAKilledRun) {
  killed_run();
  StagingDirectory run(target(), kIdentity, false);
  EXPECT_TRUE(run.is_resumed());
  EXPECT_EQ(read_file(run.path() / "shard"), "half");
  ASSERT_NE(run.journal().find("layer 0"), nullptr);
  run.commit();
  EXPECT_EQ(read_file(target() / "shard"), "half");
}

TEST_F(StagingTest, RestartDiscardsAKilledRun) {
  killed_run({{"recipe", "fp8"}});
  StagingDirectory run(target(), kIdentity, /*restart=*/true);
  EXPECT_FALSE(run.is_resumed());
  EXPECT_TRUE(fs::is_empty(run.path()));
  EXPECT_EQ(run.journal().find("layer 0"), nullptr);
}

TEST_F(StagingTest, RefusesStagingOfAnotherRun) {
  killed_run({{"recipe", "fp8"}, {"seed", 1}, {"old", true}});
  const Json identity = {{"recipe", "nvfp4"}, {"seed", 1}, {"new", true}};
  const Error error = error_of([&] { StagingDirectory(target(), identity, false); });
  EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
  EXPECT_EQ(error.message(),
            staging().string() +
                ": was left by a run with other inputs or flags (recipe, old, new); repeat that "
                "command to continue it, or give --restart to discard it");
  // And it is still there to be continued.
  EXPECT_TRUE(StagingDirectory(target(), {{"recipe", "fp8"}, {"seed", 1}, {"old", true}}, false)
                  .is_resumed());
}

TEST_F(StagingTest, IdentitiesNeedNotBeObjects) {
  killed_run("this");
  EXPECT_THAT(error_of([&] { StagingDirectory(target(), "that", false); }).message(),
              HasSubstr("was left by a run with other inputs or flags; repeat"));
}

// The states that a kill leaves between the steps of a start and of a commit.
TEST_F(StagingTest, StartsOverWithoutAnIdentity) {
  fs::create_directories(staging() / "output");
  write_file(staging() / "output" / "stale", "x");
  write_file(staging() / "journal", "0123");
  StagingDirectory run(target(), kIdentity, false);
  EXPECT_FALSE(run.is_resumed());
  EXPECT_TRUE(fs::is_empty(run.path()));
}

TEST_F(StagingTest, StartsOverWhenOnlyTheJournalIsLeft) {
  killed_run();
  fs::rename(staging() / "output", target());  // killed right after the rename
  EXPECT_THAT(error_of([&] { StagingDirectory(target(), kIdentity, false); }).message(),
              HasSubstr("is not empty"));
  fs::remove_all(target());
  StagingDirectory run(target(), kIdentity, false);
  EXPECT_FALSE(run.is_resumed());
  EXPECT_EQ(run.journal().find("layer 0"), nullptr);
}

TEST_F(StagingTest, RefusesATargetInUse) {
  write_file(target(), "x");
  const Error is_file = error_of([&] { StagingDirectory(target(), kIdentity, false); });
  EXPECT_EQ(is_file.kind(), ErrorKind::kInvalidArgument);
  EXPECT_EQ(is_file.message(),
            target().string() + ": exists and is a file, expected a new or empty directory");
  fs::remove(target());
  fs::create_directory(target());
  write_file(target() / "config.json", "{}");
  for (const bool restart : {false, true}) {
    const Error not_empty = error_of([&] { StagingDirectory(target(), kIdentity, restart); });
    EXPECT_EQ(not_empty.kind(), ErrorKind::kInvalidArgument);
    EXPECT_EQ(not_empty.message(),
              target().string() + ": exists and is not empty, expected a new or empty directory");
  }
  EXPECT_FALSE(fs::exists(staging()));
}

TEST_F(StagingTest, RefusesWhatARenameCannotReplace) {
  for (const char* path : {"/proc", "/"}) {
    EXPECT_EQ(error_of([&] { StagingDirectory(path, kIdentity, false); }).message(),
              std::string(path) +
                  ": is a mount point, which cannot be replaced; name a directory inside it");
  }
  EXPECT_EQ(error_of([&] { StagingDirectory("", kIdentity, false); }).message(),
            "the name of the output directory is empty");
}

TEST_F(StagingTest, NamesADirectoryThatCannotBeMade) {
  write_file(directory_ / "file", "x");
  const fs::path below = fs::canonical(directory_ / "file") / "out";
  const Error error = error_of([&] { StagingDirectory(below, kIdentity, false); });
  EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
  EXPECT_THAT(error.message(), StartsWith(below.string()));
  EXPECT_THAT(error.message(), HasSubstr("Not a directory"));
  const Error proc = error_of([&] { StagingDirectory("/proc/vernier", kIdentity, false); });
  EXPECT_EQ(proc.kind(), ErrorKind::kInvalidArgument);
  EXPECT_THAT(proc.message(),
              StartsWith("/proc/vernier.vernier-staging: cannot create the directory: "));
}

TEST_F(StagingTest, OneRunAtATime) {
  StagingDirectory first(target(), kIdentity, false);
  const Error error = error_of([&] { StagingDirectory(target(), kIdentity, /*restart=*/true); });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_THAT(error.message(), HasSubstr("another process is using it"));
  first.commit();
}

TEST_F(StagingTest, CommitNamesATargetThatAppearedMeanwhile) {
  StagingDirectory run(target(), kIdentity, false);
  fs::create_directory(target());
  write_file(target() / "other", "x");
  const Error error = error_of([&] { run.commit(); });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_THAT(error.message(), StartsWith(target().string() + ": cannot rename "));
  EXPECT_TRUE(fs::exists(run.path()));
}

}  // namespace
}  // namespace vernier::io
