#define PCRE2_CODE_UNIT_WIDTH 8

#include "text/split_pattern.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <string>

#include "base/check.h"
#include "base/error.h"
#include "text/oniguruma.h"

namespace vernier::text {

struct SplitPattern::Code {
  explicit Code(pcre2_code* code) : code(code) {}
  ~Code() { pcre2_code_free(code); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;

  pcre2_code* code;
};

namespace {

struct FreeMatch {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};
using MatchData = std::unique_ptr<pcre2_match_data, FreeMatch>;

std::string message_of(int error_code) {
  PCRE2_UCHAR buffer[256];
  const int length = pcre2_get_error_message(error_code, buffer, sizeof(buffer));
  if (length < 0) return fmt::format("PCRE2 error {}", error_code);
  return std::string(reinterpret_cast<const char*>(buffer), static_cast<size_t>(length));
}

pcre2_code* compile(std::string_view pattern, uint32_t options) {
  struct FreeContext {
    void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
  };
  std::unique_ptr<pcre2_compile_context, FreeContext> context(
      pcre2_compile_context_create(nullptr));
  VERNIER_CHECK(context != nullptr);
  // The library's default newline is a choice of who built it.
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error_code = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   options, &error_code, &offset, context.get());
  if (code == nullptr) {
    throw Error(ErrorKind::kCorrupt,
                fmt::format("the pattern '{}' does not compile, at byte {}: {}", pattern, offset,
                            message_of(error_code)));
  }
  return code;
}

// One attempt from `start` on; false when nothing matches.
bool find_match(const pcre2_code* code, std::string_view text, size_t start,
                pcre2_match_data* match) {
  const auto attempt = [&](uint32_t options) {
    // The caller has checked the UTF-8 once; PCRE2 would check the whole text at every match.
    return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
                       options | PCRE2_NO_UTF_CHECK, match, nullptr);
  };
  int status = attempt(0);
  // Compiled matching has a small fixed stack; the interpreter keeps its state on the heap.
  if (status == PCRE2_ERROR_JIT_STACKLIMIT) status = attempt(PCRE2_NO_JIT);
  if (status == PCRE2_ERROR_NOMATCH) return false;
  if (status < 0) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("the split pattern cannot be matched at byte {} of the text: {}", start,
                            message_of(status)));
  }
  return true;
}

}  // namespace

SplitPattern SplitPattern::regex(std::string_view pattern) {
  const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  auto code = std::make_shared<Code>(compile(oniguruma_to_pcre2(pattern), options));
  uint32_t matches_empty = 0;
  pcre2_pattern_info(code->code, PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty != 0) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("the pattern '{}' matches the empty text", pattern));
  }
  // Where compiled matching is not available, PCRE2 interprets: slower, not different.
  pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE);
  return SplitPattern(std::move(code));
}

SplitPattern SplitPattern::literal(std::string_view text) {
  if (text.empty()) throw Error(ErrorKind::kUnsupported, "the string to split at is empty");
  return SplitPattern(std::make_shared<Code>(compile(text, PCRE2_UTF | PCRE2_LITERAL)));
}

bool SplitPattern::for_each_stretch(std::string_view text, const Sink& sink) const {
  const MatchData match(pcre2_match_data_create(1, nullptr));
  if (match == nullptr) throw Error(ErrorKind::kOutOfMemory, "no memory to match a split pattern");
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.get());
  size_t done = 0;
  while (done < text.size() && find_match(code_->code, text, done, match.get())) {
    const size_t start = bounds[0];
    const size_t end = bounds[1];
    if (start > done && !sink(text.substr(done, start - done), false)) return false;
    if (!sink(text.substr(start, end - start), true)) return false;
    done = end;
  }
  return done == text.size() || sink(text.substr(done), false);
}

}  // namespace vernier::text
