// Calibration and evaluation text: files of documents, turned into windows of token ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace vernier::text {

// The documents of one file. `.txt`: the file is one document, as it stands. `.jsonl`, `.json`: one
// object a line, one document each, from `text`, or `messages` (the family's fixed chat form), or
// `input` and, behind a line feed, `output`; the first of these that is there. Each may be
// compressed: `.zst`, `.xz`. `.parquet` is refused with a hint. Throws InvalidArgument for an empty
// file, invalid UTF-8 (file, line, byte) and a line without a known field, Unsupported for chats
// with tools.
std::vector<std::string> read_documents(const std::filesystem::path& path);

// The text that is linked into the program, used when no data set is named: one document.
std::string default_calibration_document();

// One turn of a chat.
struct ChatMessage {
  std::string role;  // system, user, assistant, tool; others are written as they are
  std::string content = {};
  std::string reasoning_content = {};  // of an assistant, when it is kept apart from the content
};

// One chat in the form of the family's template, its options left at their defaults, without a
// prompt for a further answer:
//   <|im_start|>ROLE\nCONTENT<|im_end|>\n
// - A system turn always comes first, with no content when `messages` does not begin with one.
// - An assistant's reasoning becomes `<think>\n...\n</think>\n` before its content; a content
//   without think tags gets `<think></think>`. Before the last user turn, reasoning is cut to
//   `<think></think>` and what follows it. White space (ASCII) around the result is dropped.
// - Tool results that follow one another share one user turn:
//   <tool_response>\nCONTENT\n</tool_response>\n each.
std::string format_chat(const std::vector<ChatMessage>& messages);

struct WindowOptions {
  int64_t n_windows = 512;  // at most this many
  int64_t window_tokens = 512;
  std::optional<TokenId> separator;  // put between documents (EOS); absent: none
  // Shuffles the documents, not the windows of one document; absent: the given order.
  std::optional<uint64_t> shuffle_seed;
};

// Token windows, each exactly `window_tokens` long: documents are encoded without special tokens,
// joined with the separator and cut. Fewer than n_windows come back when the text ends; a text
// shorter than one window gives one short window. Encodes no more text than needed, and cuts
// tokens, never text: a window does not depend on how many there are. Empty documents count for
// nothing. Throws InvalidArgument for sizes below 1 and for documents without any text.
std::vector<std::vector<TokenId>> make_windows(const Tokenizer& tokenizer,
                                               const std::vector<std::string>& documents,
                                               const WindowOptions& options);

}  // namespace vernier::text
