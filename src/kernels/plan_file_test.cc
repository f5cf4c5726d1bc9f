#include "kernels/plan_file.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <optional>
#include <string>

#include "base/file.h"
#include "base/testing.h"

namespace vernier::kernels {
namespace {

const char kMachine[] = "Some GPU (80GB), cublasLt 130100";
const PlanTable kPlans = {{"bf16 bf16 f32 128 64 32", "00ff"}, {"F8_E4M3 bf16 1 2 3", "1234"}};

TEST(PlanFile, ReadsBackWhatWasSaved) {
  const TemporaryDirectory directory;
  const auto path = directory / "not" / "yet" / "there.jsonl";
  save_plans(path, kMachine, kPlans);
  EXPECT_EQ(load_plans(path, kMachine), kPlans);
  EXPECT_EQ(read_file(path),
            "{\"machine\": \"Some GPU  80GB   cublasLt 130100\"}\n"
            "{\"product\": \"F8_E4M3 bf16 1 2 3\", \"algorithm\": \"1234\"}\n"
            "{\"product\": \"bf16 bf16 f32 128 64 32\", \"algorithm\": \"00ff\"}\n");
}

TEST(PlanFile, SavingAddsAndReplaces) {
  const TemporaryDirectory directory;
  save_plans(directory / "plans", kMachine, kPlans);
  save_plans(directory / "plans", kMachine, {{"F8_E4M3 bf16 1 2 3", "5678"}, {"other", "9"}});
  EXPECT_EQ(
      load_plans(directory / "plans", kMachine),
      (PlanTable{
          {"bf16 bf16 f32 128 64 32", "00ff"}, {"F8_E4M3 bf16 1 2 3", "5678"}, {"other", "9"}}));
}

TEST(PlanFile, AnotherMachinesFileCountsAsEmpty) {
  const TemporaryDirectory directory;
  save_plans(directory / "plans", kMachine, kPlans);
  EXPECT_TRUE(load_plans(directory / "plans", "Other GPU, cublasLt 130100").empty());
}

TEST(PlanFile, DamagedLinesAreSkipped) {
  const TemporaryDirectory directory;
  save_plans(directory / "plans", kMachine, kPlans);
  const std::string whole = read_file(directory / "plans");
  write_file(directory / "plans", whole + "{\"product\": \"x\", \"algorithm\": 12}\nnoise\n\n" +
                                      "{\"product\": \"cut\", \"algorithm\": \"12");
  EXPECT_EQ(load_plans(directory / "plans", kMachine), kPlans);
  for (size_t length = 0; length < whole.size(); ++length) {
    write_file(directory / "plans", whole.substr(0, length));
    EXPECT_LT(load_plans(directory / "plans", kMachine).size(), kPlans.size());
  }
}

TEST(PlanFile, WhatCannotBeReadOrWrittenIsNoError) {
  const TemporaryDirectory directory;
  EXPECT_TRUE(load_plans(directory / "missing", kMachine).empty());
  EXPECT_TRUE(load_plans({}, kMachine).empty());
  write_file(directory / "file", "");
  save_plans(directory / "file" / "below", kMachine, kPlans);
  save_plans({}, kMachine, kPlans);
}

// Sets a variable of the environment, or unsets it, until the end of the scope.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    set(value);
  }
  ~ScopedVariable() { set(before_ ? before_->c_str() : nullptr); }

 private:
  void set(const char* value) { EXPECT_EQ(value ? setenv(name_, value, 1) : unsetenv(name_), 0); }

  const char* name_;
  std::optional<std::string> before_;
};

TEST(PlanFile, LiesInTheUsersCache) {
  const ScopedVariable home("HOME", "/home/somebody");
  {
    const ScopedVariable cache("XDG_CACHE_HOME", "/cache");
    EXPECT_EQ(plan_path(kMachine),
              "/cache/vernier/products-Some-GPU--80GB---cublasLt-130100.jsonl");
  }
  const ScopedVariable no_cache("XDG_CACHE_HOME", nullptr);
  EXPECT_EQ(plan_directory(), "/home/somebody/.cache/vernier");
  const ScopedVariable no_home("HOME", nullptr);
  EXPECT_TRUE(plan_path(kMachine).empty());
}

}  // namespace
}  // namespace vernier::kernels
