#include "text/dataset.h"

#include <gmock/gmock.h>
#include <lzma.h>
#include <unistd.h>
#include <zstd.h>

#include <fstream>
#include <limits>

#include "base/file.h"
#include "text/tokenizer_test_util.h"

namespace vernier::text {
namespace {

using testing::ElementsAre;
using testing::SizeIs;
using Ids = std::vector<TokenId>;

// A folder that goes away with the test.
class Dataset : public testing::Test {
 protected:
  Dataset() { std::filesystem::create_directories(folder_); }
  ~Dataset() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return folder_ / name;
  }
  std::vector<std::string> read(const std::string& name, const std::string& bytes) const {
    return read_documents(write(name, bytes));
  }
  // The message without the folder.
  std::string error(const std::string& name, const std::string& bytes) const {
    const std::string message = error_of([&] { read(name, bytes); });
    const std::string prefix = folder_.string() + "/";
    return message.substr(message.find(prefix) == 0 ? prefix.size() : 0);
  }

  const std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("vernier_text_test_" + std::to_string(getpid()));
};

std::string zstd(const std::string& text) {
  std::string bytes(ZSTD_compressBound(text.size()), '\0');
  bytes.resize(ZSTD_compress(bytes.data(), bytes.size(), text.data(), text.size(), 3));
  return bytes;
}

std::string xz(const std::string& text) {
  std::string bytes(lzma_stream_buffer_bound(text.size()), '\0');
  size_t n_bytes = 0;
  const lzma_ret status = lzma_easy_buffer_encode(
      6, LZMA_CHECK_CRC64, nullptr, reinterpret_cast<const uint8_t*>(text.data()), text.size(),
      reinterpret_cast<uint8_t*>(bytes.data()), &n_bytes, bytes.size());
  EXPECT_EQ(status, LZMA_OK);
  bytes.resize(n_bytes);
  return bytes;
}

TEST_F(Dataset, ATextFileIsOneDocumentAsItStands) {
  EXPECT_THAT(read("a.txt", " one\r\n\ntwo \n"), ElementsAre(" one\r\n\ntwo \n"));
}

TEST_F(Dataset, JsonLinesAreOneDocumentEach) {
  EXPECT_THAT(read("a.jsonl",
                   "{\"text\":\"one\",\"id\":1}\r\n\n{\"input\":\"q\",\"output\":\"a\"}\n"
                   "{\"input\":\"alone\"}\n{\"messages\":[{\"role\":\"user\",\"content\":"
                   "\"hi\"}],\"tools\":[]}"),
              ElementsAre("one", "q\na", "alone",
                          "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"));
  EXPECT_THAT(read("a.json", "{\"text\":\"one\"}"), ElementsAre("one"));
}

TEST_F(Dataset, CompressedFilesAreTheSameAsPlainOnes) {
  std::string text;
  for (int line = 0; line < 30000; ++line) text += "line " + std::to_string(line * line) + "\n";
  EXPECT_THAT(read("a.txt.zst", zstd(text)), ElementsAre(text));
  EXPECT_THAT(read("a.txt.xz", xz(text)), ElementsAre(text));
  EXPECT_THAT(read("two.txt.zst", zstd("one ") + zstd("two")), ElementsAre("one two"));
  EXPECT_THAT(read("two.txt.xz", xz("one ") + xz("two")), ElementsAre("one two"));
  EXPECT_THAT(read("a.jsonl.zst", zstd("{\"text\":\"x\"}\n{\"text\":\"y\"}")),
              ElementsAre("x", "y"));
}

TEST_F(Dataset, RefusesDamagedCompression) {
  const std::string text(100000, 'x');
  EXPECT_EQ(error("a.txt.zst", zstd(text).substr(0, 15)),
            "a.txt.zst: cannot be decompressed: the file is truncated");
  EXPECT_EQ(error("a.txt.zst", "plain text"),
            "a.txt.zst: cannot be decompressed: Unknown frame descriptor");
  EXPECT_EQ(error("a.txt.xz", xz(text).substr(0, 50)),
            "a.txt.xz: cannot be decompressed: the file is truncated");
  EXPECT_EQ(error("a.txt.xz", "plain text, long enough"),
            "a.txt.xz: cannot be decompressed: the file is not in xz format");
}

TEST_F(Dataset, RefusesUnknownKindsOfFile) {
  const std::string accepted =
      ": is not known as a file of texts; accepted are .txt, .jsonl and .json (one object a line), "
      "each also compressed as .zst or .xz";
  EXPECT_EQ(error("a.csv", "x"), "a.csv" + accepted);
  EXPECT_EQ(error("a.zst", "x"), "a.zst" + accepted);
  EXPECT_EQ(error("a.txt.gz", "x"), "a.txt.gz" + accepted);
  EXPECT_THAT(
      error("a.parquet", "PAR1"),
      testing::AllOf(testing::StartsWith("a.parquet: Parquet files are not read; convert it "
                                         "to JSON lines, for example with duckdb"),
                     testing::HasSubstr("a.parquet' TO 'data.jsonl' (FORMAT json)")));
  EXPECT_EQ(error_of([] { read_documents("/no/such.txt"); }), "/no/such.txt: no such file");
}

TEST_F(Dataset, RefusesEmptyFilesAndInvalidUtf8) {
  EXPECT_EQ(error("a.txt", ""), "a.txt: is empty, expected at least one document");
  EXPECT_EQ(error("a.jsonl", "\n \n"), "a.jsonl: is empty, expected at least one document");
  EXPECT_EQ(error("a.txt", "ab\xC0\x80"), "a.txt: byte 2 is not valid UTF-8");
  EXPECT_EQ(error("a.jsonl", "{\"text\":\"a\"}\n{\"text\":\"\xFF\"}"),
            "a.jsonl:2: byte 9 of the line is not valid UTF-8");
}

TEST_F(Dataset, RefusesLinesWithoutADocument) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"prompt":"a","id":1})",
       "found the fields 'id', 'prompt'; expected 'text', 'messages', or 'input' and 'output'"},
      {"{}", "found the fields none; expected 'text', 'messages', or 'input' and 'output'"},
      {R"({"text":3})", "the field 'text' is of type number, expected a string"},
      {R"({"input":["a"]})", "the field 'input' is of type array, expected a string"},
      {R"({"text":)", "is not valid JSON at byte 9 of the line; expected one object a line"},
      {R"([{"text":"a"}])",
       "holds a value of type array, expected one object a line (jq -c '.[]' turns a list into "
       "lines)"},
      {R"({"messages":[]})",
       "the field 'messages' is expected to be a list with at least one message"},
      {R"({"messages":["hi"]})",
       "'messages' holds a value of type string, expected objects with 'role' and 'content'"},
      {R"({"messages":[{"content":"hi"}]})", "the field 'role' is of type null, expected a string"},
      {R"({"messages":[{"role":"user","content":[{"type":"text"}]}]})",
       "a message's 'content' is a list of parts; only a string is implemented"},
      {R"({"messages":[{"role":"assistant","content":null,"tool_calls":[{}]}]})",
       "has 'tool_calls'; chats with tools are not implemented, leave them out or give their "
       "rendered form as 'text'"},
      {R"({"messages":[{"role":"user","content":"x"}],"tools":[{}]})",
       "has 'tools'; chats with tools are not implemented, leave them out or give their rendered "
       "form as 'text'"},
  };
  for (const auto& [line, message] : cases) {
    EXPECT_EQ(error("a.jsonl", "{\"text\":\"good\"}\n" + std::string(line) + "\n"),
              "a.jsonl:2: " + std::string(message));
  }
}

TEST(DefaultCalibration, IsTheTextThatTheProgramCarries) {
  const auto path = std::filesystem::path(VERNIER_SOURCE_DIR) / "models/tiny/data/calibration.txt";
  EXPECT_EQ(default_calibration_document(), read_file(path));
}

constexpr const char* kEmptySystem = "<|im_start|>system\n<|im_end|>\n";

TEST(Chat, BeginsWithASystemTurn) {
  EXPECT_EQ(format_chat({{"user", "hi"}}),
            std::string(kEmptySystem) + "<|im_start|>user\nhi<|im_end|>\n");
  EXPECT_EQ(format_chat({{"system", "Be brief."}, {"user", " hi "}}),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n hi <|im_end|>\n");
}

TEST(Chat, AnAssistantAlwaysHasThinkTags) {
  const auto answer = [](const ChatMessage& message) {
    return format_chat({message}).substr(std::string(kEmptySystem).size());
  };
  EXPECT_EQ(answer({"assistant", " 4 \n"}), "<|im_start|>assistant\n<think></think> 4<|im_end|>\n");
  EXPECT_EQ(answer({"assistant", "4", "2+2"}),
            "<|im_start|>assistant\n<think>\n2+2\n</think>\n4<|im_end|>\n");
  EXPECT_EQ(answer({"assistant", "4", " \n"}),
            "<|im_start|>assistant\n<think></think>4<|im_end|>\n");
  EXPECT_EQ(answer({"assistant", "\n<think>so</think>4"}),
            "<|im_start|>assistant\n<think>so</think>4<|im_end|>\n");
  EXPECT_EQ(answer({"assistant", ""}), "<|im_start|>assistant\n<think></think><|im_end|>\n");
}

TEST(Chat, DropsReasoningBeforeTheLastUserTurn) {
  EXPECT_EQ(format_chat({{"user", "a"},
                         {"assistant", "<think>x</think>b"},
                         {"user", "c"},
                         {"assistant", "<think>y</think>d"}}),
            std::string(kEmptySystem) +
                "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think></think>b<|im_end|>\n"
                "<|im_start|>user\nc<|im_end|>\n"
                "<|im_start|>assistant\n<think>y</think>d<|im_end|>\n");
}

TEST(Chat, ToolResultsInARowShareAUserTurn) {
  EXPECT_EQ(format_chat({{"user", "a"}, {"tool", "1"}, {"tool", "2"}, {"assistant", "b"}}),
            std::string(kEmptySystem) +
                "<|im_start|>user\na<|im_end|>\n<|im_start|>user\n<tool_response>\n1\n"
                "</tool_response>\n<tool_response>\n2\n</tool_response>\n<|im_end|>\n"
                "<|im_start|>assistant\n<think></think>b<|im_end|>\n");
}

// Every byte is a token of this tokenizer, but for "ab" and "abc".
class Windows : public testing::Test {
 protected:
  std::vector<Ids> make(const std::vector<std::string>& documents, const WindowOptions& options) {
    return make_windows(tokenizer_, documents, options);
  }
  const Tokenizer tokenizer_ = TokenizerJson().make();
};

TEST_F(Windows, PackDocumentsWithTheSeparatorBetween) {
  EXPECT_THAT(make({"xy", "", "z", "uvw"}, {.window_tokens = 4, .separator = 259}),
              ElementsAre(Ids{'x', 'y', 259, 'z'}, Ids{259, 'u', 'v', 'w'}));
  EXPECT_THAT(make({"xy", "z"}, {.window_tokens = 3, .separator = {}}),
              ElementsAre(Ids{'x', 'y', 'z'}));
}

TEST_F(Windows, DropAnIncompleteOneUnlessItIsTheOnlyOne) {
  EXPECT_THAT(make({"xyzuv"}, {.window_tokens = 2}), ElementsAre(Ids{'x', 'y'}, Ids{'z', 'u'}));
  EXPECT_THAT(make({"xyz"}, {.window_tokens = 512}), ElementsAre(Ids{'x', 'y', 'z'}));
}

TEST_F(Windows, AreAtMostAsManyAsAsked) {
  EXPECT_THAT(make({"xyzu", "abc"}, {.n_windows = 1, .window_tokens = 2}),
              ElementsAre(Ids{'x', 'y'}));
  const int64_t most = std::numeric_limits<int64_t>::max();
  EXPECT_THAT(make({"xy"}, {.n_windows = most, .window_tokens = most}), SizeIs(1));
}

// Cutting the text instead of the tokens would give 'a' 'b' 'c' at a window's edge.
TEST_F(Windows, CutTokensNotText) {
  EXPECT_THAT(make({"xxababcab"}, {.n_windows = 2, .window_tokens = 2}),
              ElementsAre(Ids{'x', 'x'}, Ids{256, 257}));
}

TEST_F(Windows, ShuffleDocumentsNotTheirText) {
  std::vector<std::string> documents;
  for (char c = 'A'; c <= 'Z'; ++c) documents.push_back(std::string(2, c));
  const auto plain = make(documents, {.window_tokens = 2});
  const auto shuffled = make(documents, {.window_tokens = 2, .shuffle_seed = 1});
  EXPECT_NE(shuffled, plain);
  EXPECT_THAT(shuffled, testing::UnorderedElementsAreArray(plain));
  EXPECT_EQ(shuffled, make(documents, {.window_tokens = 2, .shuffle_seed = 1}));
  EXPECT_NE(shuffled, make(documents, {.window_tokens = 2, .shuffle_seed = 2}));
}

TEST_F(Windows, RefuseSizesBelowOneAndNoText) {
  EXPECT_EQ(error_of([&] { make({"x"}, {.n_windows = 0}); }),
            "the number of windows is 0, expected at least 1");
  EXPECT_EQ(error_of([&] { make({"x"}, {.window_tokens = -3}); }),
            "the window length in tokens is -3, expected at least 1");
  EXPECT_EQ(error_of([&] {
              make({"", ""}, {.separator = 259});
            }),
            "the documents hold no text to make token windows of");
}

}  // namespace
}  // namespace vernier::text
