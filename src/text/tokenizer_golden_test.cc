// Ids and texts against another implementation: the bundled model's tokenizer and the small
// variants of tools/oracle/tokenizer_goldens.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "text/dataset.h"
#include "text/tokenizer.h"

namespace vernier::text {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<TokenId>;

const std::filesystem::path kRoot = VERNIER_SOURCE_DIR;
const std::filesystem::path kGolden = kRoot / "tests/golden";

const Tokenizer& tiny_tokenizer() {
  static const Tokenizer tokenizer(kRoot / "models/tiny/tokenizer.json");
  return tokenizer;
}

TEST(TinyTokenizer, GivesTheGoldenIdsAndTexts) {
  const Json golden = Json::parse(read_file(kGolden / "tiny.json"));
  ASSERT_GT(golden["tokenizer"].size(), 0u);
  for (const Json& golden_case : golden["tokenizer"]) {
    const std::string text = golden_case["text"];
    EXPECT_EQ(tiny_tokenizer().encode(text), golden_case["ids"].get<Ids>()) << text;
    EXPECT_EQ(tiny_tokenizer().decode(golden_case["ids"].get<Ids>()), golden_case["decoded"]);
  }
  for (const Json& generation : golden["generations"]) {
    EXPECT_EQ(tiny_tokenizer().encode(generation["prompt"].get<std::string>()),
              generation["prompt_ids"].get<Ids>());
  }
}

// The int32 tensor `name` of a safetensors file: an 8-byte header length, the header, the data.
Ids read_ids(const std::filesystem::path& path, const std::string& name) {
  const std::string file = read_file(path);
  uint64_t n_header_bytes = 0;
  std::memcpy(&n_header_bytes, file.data(), sizeof(n_header_bytes));
  const Json entry = Json::parse(file.substr(8, n_header_bytes))[name];
  EXPECT_EQ(entry["dtype"], "I32");
  const size_t begin = entry["data_offsets"][0];
  const size_t end = entry["data_offsets"][1];
  Ids ids((end - begin) / sizeof(TokenId));
  std::memcpy(ids.data(), file.data() + 8 + n_header_bytes + begin, end - begin);
  return ids;
}

TEST(TinyTokenizer, WindowsOfTheEvaluationTextBeginWithTheGoldenInput) {
  const Ids expected = read_ids(kGolden / "tiny.safetensors", "input_ids");
  ASSERT_EQ(expected.size(), 700u);
  const auto documents = read_documents(kRoot / "models/tiny/data/evaluation.txt");
  const auto windows = make_windows(tiny_tokenizer(), documents, {});
  Ids stream = windows.at(0);
  stream.insert(stream.end(), windows.at(1).begin(), windows.at(1).end());
  stream.resize(expected.size());
  EXPECT_EQ(stream, expected);
}

class TokenizerVariant : public testing::TestWithParam<std::string> {};

TEST_P(TokenizerVariant, AgreesWithTheOracle) {
  const Json golden = Json::parse(read_file(kGolden / "tokenizer" / (GetParam() + ".json")));
  const Tokenizer tokenizer(golden["tokenizer"].dump(), GetParam());
  ASSERT_GE(golden["cases"].size(), 30u);
  for (const Json& golden_case : golden["cases"]) {
    const std::string text = golden_case["text"];
    const Ids ids = golden_case["ids"];
    EXPECT_EQ(tokenizer.encode(text), ids) << golden_case["text"];
    EXPECT_EQ(tokenizer.encode(text, true), golden_case["with_special"].get<Ids>())
        << golden_case["text"];
    EXPECT_EQ(tokenizer.decode(ids, true), golden_case["decoded"]) << golden_case["text"];
  }
}

std::vector<std::string> variants() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kGolden / "tokenizer")) {
    names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

INSTANTIATE_TEST_SUITE_P(Goldens, TokenizerVariant, testing::ValuesIn(variants()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace vernier::text
