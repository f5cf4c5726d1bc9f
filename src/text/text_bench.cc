// Encoding speed on English prose, and loading time of a tokenizer of about the published size
// (131072 tokens, 269443 merges). Run from the project's root.
#include <benchmark/benchmark.h>

#include <string>

#include "text/byte_alphabet.h"
#include "text/dataset.h"
#include "text/tokenizer.h"

namespace vernier::text {
namespace {

void BM_Encode(benchmark::State& state) {
  const Tokenizer tokenizer(std::filesystem::path("models/tiny/tokenizer.json"));
  const std::string text = default_calibration_document();
  size_t n_tokens = 0;
  for (auto _ : state) n_tokens += tokenizer.encode(text).size();
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(n_tokens), benchmark::Counter::kIsRate);
}
BENCHMARK(BM_Encode)->Name("encode/tiny/calibration")->Unit(benchmark::kMillisecond);

// A tokenizer.json whose tokens are the single bytes and every word of 2 to 4 letters from a to r,
// with every way to join each: 111388 tokens and 326916 merges.
class LargeTokenizer {
 public:
  std::string json() {
    for (int byte = 0; byte < 256; ++byte) {
      const std::string spelling = spell_byte(static_cast<uint8_t>(byte));
      add_token(spelling == "\"" || spelling == "\\" ? "\\" + spelling : spelling);
    }
    add_longer_words("", 0);
    return R"({"added_tokens":[],"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},)"
           R"("decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{)" +
           vocab_ + "},\"merges\":[" + merges_ + "]}}";
  }

 private:
  void add_token(const std::string& spelling) {
    vocab_ += (n_tokens_ == 0 ? "\"" : ",\"") + spelling + "\":" + std::to_string(n_tokens_);
    ++n_tokens_;
  }

  void add_longer_words(const std::string& start, int n_letters) {
    if (n_letters == 4) return;
    for (char letter = 'a'; letter <= 'r'; ++letter) {
      const std::string word = start + letter;
      if (n_letters > 0) add_token(word);
      for (size_t cut = 1; cut < word.size(); ++cut) {
        merges_ += (merges_.empty() ? "[\"" : ",[\"") + word.substr(0, cut) + "\",\"" +
                   word.substr(cut) + "\"]";
      }
      add_longer_words(word, n_letters + 1);
    }
  }

  int n_tokens_ = 0;
  std::string vocab_;
  std::string merges_;
};

void BM_Load(benchmark::State& state) {
  const std::string json = LargeTokenizer().json();
  for (auto _ : state) benchmark::DoNotOptimize(Tokenizer(json, "large").vocab_size());
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * json.size()));
}
BENCHMARK(BM_Load)->Name("load/111388_tokens")->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace vernier::text
