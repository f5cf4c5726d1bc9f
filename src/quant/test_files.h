// Recipe files for this room's tests, in a directory that goes away with the test.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/error.h"

namespace vernier::quant {

class RecipeFiles : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(testing::TempDir()) /
              (std::string("vernier_") + info->test_suite_name() + "_" + info->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string write(std::string_view name, std::string_view text) const {
    const std::filesystem::path path = folder_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
    return path.string();
  }

  // A recipe of the given rules (each line indented by two) and algorithm.
  std::string write_recipe(std::string_view rules, std::string_view algorithm = "max") const {
    return write("recipe.yaml",
                 "metadata: {recipe_type: ptq}\nquantize:\n  algorithm: " + std::string(algorithm) +
                     "\n  quant_cfg:\n" + std::string(rules));
  }

  std::filesystem::path folder_;
};

// The error that `body` ends with: its kind and message; fails the test when there is none.
struct Caught {
  ErrorKind kind = ErrorKind::kCancelled;
  std::string message;
};
template <class Body>
Caught caught(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return {error.kind(), error.message()};
  }
  ADD_FAILURE() << "no error";
  return {};
}

}  // namespace vernier::quant
