#include "quant/glob.h"

#include <gtest/gtest.h>

#include "io/json.h"

namespace vernier::quant {
namespace {

// tools/oracle/fnmatch_goldens.py: every pattern on every name, as Python's fnmatch decides.
TEST(Glob, AgreesWithPythonsFnmatch) {
  const io::Json golden = io::read_json(VERNIER_SOURCE_DIR "/tests/golden/recipes/fnmatch.json");
  const io::Json& names = golden["names"];
  ASSERT_GE(golden["rows"].size(), 300u);
  for (const io::Json& row : golden["rows"]) {
    const auto pattern = row["pattern"].get<std::string>();
    const Glob glob(pattern);
    std::vector<size_t> accepted;
    for (size_t index = 0; index < names.size(); ++index) {
      if (glob.matches(names[index].get<std::string>())) accepted.push_back(index);
    }
    EXPECT_EQ(accepted, row["accepted"].get<std::vector<size_t>>()) << pattern;
  }
}

TEST(Glob, ManyStarsTakeNoExponentialTime) {
  std::string pattern;
  for (int i = 0; i < 50; ++i) pattern += "*a";
  pattern += "b";
  EXPECT_FALSE(Glob(pattern).matches(std::string(2000, 'a')));
}

}  // namespace
}  // namespace vernier::quant
