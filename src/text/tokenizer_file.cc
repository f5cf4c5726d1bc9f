#include "text/tokenizer_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "text/byte_alphabet.h"

namespace vernier::text {
namespace {

using Json = nlohmann::json;

// Far above any vocabulary; a damaged id must not become a table of gigabytes.
constexpr uint64_t kMaxTokenId = (1 << 24) - 1;

// The regular expression that a ByteLevel step applies by itself (GPT-2, encoder.py).
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::optional<TokenId> as_token_id(const Json& value) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kMaxTokenId) return std::nullopt;
  return value.get<TokenId>();
}

// A value of the file and where it stands, for messages.
class Field {
 public:
  Field(const Json& value, std::string_view file_name, std::string path)
      : value_(&value), file_name_(file_name), path_(std::move(path)) {}

  const Json& value() const { return *value_; }
  std::string where() const {
    return path_.empty() ? std::string(file_name_) : fmt::format("{}: {}", file_name_, path_);
  }

  [[noreturn]] void corrupt(std::string_view what) const {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: {}", where(), what));
  }
  [[noreturn]] void unsupported(std::string_view what) const {
    throw Error(ErrorKind::kUnsupported, fmt::format("{}: {}", where(), what));
  }

  Field operator[](const std::string& key) const {
    static const Json kNull;
    const auto found = object().find(key);
    return {found == value_->end() ? kNull : *found, file_name_,
            path_.empty() ? key : fmt::format("{}.{}", path_, key)};
  }
  Field at(size_t index) const {
    return {(*value_)[index], file_name_, fmt::format("{}[{}]", path_, index)};
  }

  bool is_null() const { return value_->is_null(); }
  const Json& object() const { return expect(value_->is_object(), "an object"); }
  const Json& array() const { return expect(value_->is_array(), "an array"); }
  const std::string& string() const {
    return expect(value_->is_string(), "a string").get_ref<const std::string&>();
  }
  bool boolean_or(bool absent) const {
    return is_null() ? absent : expect(value_->is_boolean(), "true or false").get<bool>();
  }
  TokenId token_id() const {
    const std::optional<TokenId> id = as_token_id(*value_);
    if (!id) {
      corrupt(fmt::format("is {}, expected a token id from 0 to {}",
                          value_->is_number() ? value_->dump() : value_->type_name(), kMaxTokenId));
    }
    return *id;
  }

  // A field that is not read would be a field that is ignored.
  void allow_only(std::initializer_list<std::string_view> keys) const {
    for (const auto& [key, value] : object().items()) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
        unsupported(fmt::format("has the field '{}', which is not implemented", key));
      }
    }
  }

 private:
  const Json& expect(bool is_right_type, std::string_view expected) const {
    if (!is_right_type) {
      corrupt(is_null() ? fmt::format("is missing, expected {}", expected)
                        : fmt::format("is of type {}, expected {}", value_->type_name(), expected));
    }
    return *value_;
  }

  const Json* value_;
  std::string_view file_name_;
  std::string path_;  // "model.merges[3]"; empty for the whole file
};

void expect_type(const Field& part, std::string_view type) {
  if (part["type"].string() != type) {
    part["type"].unsupported(
        fmt::format("is '{}'; only {} is implemented", part["type"].string(), type));
  }
}

void expect_absent(const Field& field) {
  if (!field.is_null()) field.unsupported("is set; only null is implemented");
}

// ---- model

using IdOfSpelling = std::unordered_map<std::string_view, TokenId>;

void set_bytes(std::vector<std::string>& bytes_of_token, TokenId id, std::string bytes) {
  const auto index = static_cast<size_t>(id);
  if (index >= bytes_of_token.size()) bytes_of_token.resize(index + 1);
  bytes_of_token[index] = std::move(bytes);
}

// A token whose spelling leaves the byte alphabet cannot come out of byte pairs; it stands for its
// spelling when decoded.
IdOfSpelling read_vocabulary(const Field& field, TokenizerFile& file) {
  IdOfSpelling id_of_spelling;
  id_of_spelling.reserve(field.object().size());
  file.model.vocabulary.reserve(field.object().size());
  for (const auto& [spelling, value] : field.value().items()) {
    if (spelling.empty()) field.corrupt("has an empty token");
    const std::optional<TokenId> found = as_token_id(value);
    const TokenId id = found ? *found : field[spelling].token_id();  // the latter throws
    if (static_cast<size_t>(id) < file.bytes_of_token.size() &&
        !file.bytes_of_token[static_cast<size_t>(id)].empty()) {
      field.corrupt(fmt::format("gives the id {} to two tokens, one of them '{}'", id, spelling));
    }
    id_of_spelling.emplace(spelling, id);
    std::optional<std::string> bytes = bytes_of_spelling(spelling);
    set_bytes(file.bytes_of_token, id, bytes ? *bytes : spelling);
    if (bytes) file.model.vocabulary.emplace(std::move(*bytes), id);
  }
  return id_of_spelling;
}

void expect_every_byte(const Field& field, const Vocabulary& vocabulary) {
  for (int byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    if (vocabulary.find(std::string_view(&text, 1)) == vocabulary.end()) {
      field.corrupt(fmt::format("has no token for the byte {:#04x}, spelled '{}'", byte,
                                spell_byte(static_cast<uint8_t>(byte))));
    }
  }
}

using Pair = std::pair<std::string_view, std::string_view>;

// Both forms of a merge: ["a", "b"] and, in older files, "a b".
Pair read_merge(const Field& merges, size_t index) {
  const Json& merge = merges.value()[index];
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()};
  }
  if (merge.is_string()) {
    const std::string_view text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != text.npos && text.find(' ', space + 1) == text.npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  }
  merges.at(index).corrupt("expected a pair of tokens, [\"a\", \"b\"] or \"a b\"");
}

void read_merges(const Field& field, const IdOfSpelling& id_of_spelling, BpeModel& model) {
  const auto id_of = [&](std::string_view spelling, size_t index) {
    const auto found = id_of_spelling.find(spelling);
    if (found == id_of_spelling.end()) {
      field.at(index).corrupt(
          fmt::format("names the token '{}', which model.vocab does not have", spelling));
    }
    return found->second;
  };
  const size_t n_merges = field.array().size();
  model.merges.reserve(n_merges);
  std::string result;
  for (size_t index = 0; index < n_merges; ++index) {
    const auto [left, right] = read_merge(field, index);
    result.assign(left).append(right);
    model.merges.push_back({id_of(left, index), id_of(right, index), id_of(result, index)});
  }
}

void expect_no_affix(const Field& field) {
  if (!field.is_null() && !field.string().empty()) {
    field.unsupported(
        fmt::format("is '{}'; only tokens without affixes are implemented", field.string()));
  }
}

// unk_token, fuse_unk and byte_fallback say what becomes of a character without a token. Every byte
// has one here, so none of them can matter.
void read_model(const Field& field, TokenizerFile& file) {
  if (!field["type"].is_null()) expect_type(field, "BPE");  // older files have no type
  field.allow_only({"type", "vocab", "merges", "dropout", "unk_token", "fuse_unk", "byte_fallback",
                    "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix"});
  const Field dropout = field["dropout"];
  if (!dropout.is_null() && dropout.value() != 0.0) dropout.unsupported("is set, expected null");
  expect_no_affix(field["continuing_subword_prefix"]);
  expect_no_affix(field["end_of_word_suffix"]);
  file.model.ignore_merges = field["ignore_merges"].boolean_or(false);
  const IdOfSpelling id_of_spelling = read_vocabulary(field["vocab"], file);
  expect_every_byte(field["vocab"], file.model.vocabulary);
  read_merges(field["merges"], id_of_spelling, file.model);
}

// ---- added tokens

AddedToken read_added_token(const Field& field) {
  field.allow_only({"id", "content", "special", "single_word", "lstrip", "rstrip", "normalized"});
  AddedToken token;
  token.id = field["id"].token_id();
  token.content = field["content"].string();
  if (token.content.empty()) field["content"].corrupt("is empty");
  token.special = field["special"].boolean_or(false);
  token.lstrip = field["lstrip"].boolean_or(false);
  token.rstrip = field["rstrip"].boolean_or(false);
  token.normalized = field["normalized"].boolean_or(!token.special);
  if (field["single_word"].boolean_or(false)) {
    field["single_word"].unsupported("is true; only false is implemented");
  }
  return token;
}

// An added token may repeat one of the vocabulary, with the same id, or bring a new id. Decoded, it
// stands for its content.
void read_added_tokens(const Field& field, TokenizerFile& file, const Json& vocabulary) {
  if (field.is_null()) return;
  for (size_t index = 0; index < field.array().size(); ++index) {
    AddedToken token = read_added_token(field.at(index));
    const auto known = vocabulary.find(token.content);
    if (known != vocabulary.end() && *known != token.id) {
      field.at(index).corrupt(fmt::format("gives '{}' the id {}, model.vocab gives it {}",
                                          token.content, token.id, known->dump()));
    }
    const auto id = static_cast<size_t>(token.id);
    if (known == vocabulary.end() && id < file.bytes_of_token.size() &&
        !file.bytes_of_token[id].empty()) {
      field.at(index).corrupt(
          fmt::format("gives '{}' the id {}, which another token has", token.content, token.id));
    }
    set_bytes(file.bytes_of_token, token.id, token.content);
    file.added_tokens.push_back(std::move(token));
  }
}

// ---- pre-tokenizer

SplitBehavior read_behavior(const Field& field) {
  static constexpr std::pair<std::string_view, SplitBehavior> kBehaviors[] = {
      {"Isolated", SplitBehavior::kIsolated},
      {"Removed", SplitBehavior::kRemoved},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous},
  };
  for (const auto& [name, behavior] : kBehaviors) {
    if (field.string() == name) return behavior;
  }
  field.unsupported(
      fmt::format("is '{}'; expected Isolated, Removed, MergedWithPrevious, "
                  "MergedWithNext or Contiguous",
                  field.string()));
}

// The pattern's own messages know neither the file nor the field.
SplitPattern compile_pattern(const Field& field) {
  const Field regex = field["Regex"];
  const Field given = regex.is_null() ? field["String"] : regex;
  const std::string& pattern = given.string();
  return with_context(given.where(), [&] {
    return regex.is_null() ? SplitPattern::literal(pattern) : SplitPattern::regex(pattern);
  });
}

SplitStep read_split(const Field& field) {
  field.allow_only({"type", "pattern", "behavior", "invert"});
  field["pattern"].allow_only({"Regex", "String"});
  return {compile_pattern(field["pattern"]), read_behavior(field["behavior"]),
          field["invert"].boolean_or(false)};
}

SplitStep read_digits(const Field& field) {
  field.allow_only({"type", "individual_digits"});
  const bool individual = field["individual_digits"].boolean_or(false);
  return {SplitPattern::regex(R"(\p{N})"),
          individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous};
}

void read_byte_level(const Field& field, std::vector<SplitStep>& splits) {
  field.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  if (field["add_prefix_space"].boolean_or(true)) {
    field["add_prefix_space"].unsupported("is true, which changes the text; expected false");
  }
  if (field["use_regex"].boolean_or(true)) splits.push_back({SplitPattern::regex(kGpt2Pattern)});
}

// ByteLevel ends the list: behind it, texts are spelled in the byte alphabet.
void read_pre_tokenizer(const Field& field, std::vector<SplitStep>& splits) {
  std::vector<Field> parts{field};
  if (field["type"].string() == "Sequence") {
    field.allow_only({"type", "pretokenizers"});
    const Field list = field["pretokenizers"];
    parts.clear();
    for (size_t index = 0; index < list.array().size(); ++index) parts.push_back(list.at(index));
  }
  for (size_t index = 0; index < parts.size(); ++index) {
    const Field& part = parts[index];
    const std::string& type = part["type"].string();
    const bool is_last = index + 1 == parts.size();
    if (type == "ByteLevel" && is_last) return read_byte_level(part, splits);
    if (type == "Split") {
      splits.push_back(read_split(part));
    } else if (type == "Digits") {
      splits.push_back(read_digits(part));
    } else {
      part["type"].unsupported(
          fmt::format("is '{}'; expected Split or Digits steps and then one ByteLevel", type));
    }
  }
  field.unsupported("has no ByteLevel step; only byte-level tokenizers are implemented");
}

// ---- post-processor and decoder

std::vector<TokenId> read_template_token(const Field& piece, const Field& special_tokens) {
  const std::string& name = piece["id"].string();
  const Field ids = special_tokens[name]["ids"];
  std::vector<TokenId> tokens;
  for (size_t index = 0; index < ids.array().size(); ++index) {
    tokens.push_back(ids.at(index).token_id());
  }
  return tokens;
}

// The template of a single text: special tokens around one Sequence A.
void read_template(const Field& field, TokenizerFile& file) {
  field.allow_only({"type", "single", "pair", "special_tokens"});
  const Field single = field["single"];
  std::vector<TokenId> prefix;
  std::vector<TokenId> suffix;
  int n_sequences = 0;
  for (size_t index = 0; index < single.array().size(); ++index) {
    const Field piece = single.at(index);
    piece.allow_only({"SpecialToken", "Sequence"});
    if (!piece["Sequence"].is_null()) {
      if (piece["Sequence"]["id"].string() != "A") piece.corrupt("names another text than A");
      ++n_sequences;
      continue;
    }
    const auto tokens = read_template_token(piece["SpecialToken"], field["special_tokens"]);
    auto& side = n_sequences == 0 ? prefix : suffix;
    side.insert(side.end(), tokens.begin(), tokens.end());
  }
  if (n_sequences != 1) single.corrupt("expected the text, Sequence A, exactly once");
  file.prefix.insert(file.prefix.begin(), prefix.begin(), prefix.end());
  file.suffix.insert(file.suffix.end(), suffix.begin(), suffix.end());
}

void read_post_processor(const Field& field, TokenizerFile& file) {
  const std::string& type = field["type"].string();
  if (type == "ByteLevel") return;  // moves offsets, not ids
  if (type == "TemplateProcessing") return read_template(field, file);
  field["type"].unsupported(
      fmt::format("is '{}'; expected TemplateProcessing, ByteLevel or a Sequence of them", type));
}

void read_post_processors(const Field& field, TokenizerFile& file) {
  if (field.is_null()) return;
  if (field["type"].string() != "Sequence") return read_post_processor(field, file);
  field.allow_only({"type", "processors"});
  const Field list = field["processors"];
  for (size_t index = 0; index < list.array().size(); ++index) {
    read_post_processor(list.at(index), file);
  }
}

void expect_known_tokens(const Field& field, const TokenizerFile& file) {
  for (const auto* side : {&file.prefix, &file.suffix}) {
    for (TokenId id : *side) {
      const auto index = static_cast<size_t>(id);
      if (index >= file.bytes_of_token.size() || file.bytes_of_token[index].empty()) {
        field.corrupt(fmt::format("adds the token {}, which the vocabulary does not have", id));
      }
    }
  }
}

Json parse_json(std::string_view text, std::string_view file_name) {
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const Json::parse_error& error) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: is not valid JSON, at byte {} of {}",
                                                 file_name, error.byte, text.size()));
  } catch (const Json::exception& error) {  // a number beyond a double
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: {}", file_name, error.what()));
  }
}

}  // namespace

TokenizerFile parse_tokenizer_file(std::string_view text, std::string_view file_name) {
  const Json json = parse_json(text, file_name);
  const Field root(json, file_name, "");
  root.allow_only({"version", "truncation", "padding", "added_tokens", "normalizer",
                   "pre_tokenizer", "post_processor", "decoder", "model"});
  expect_absent(root["truncation"]);
  expect_absent(root["padding"]);
  expect_absent(root["normalizer"]);
  expect_type(root["decoder"], "ByteLevel");
  TokenizerFile file;
  read_pre_tokenizer(root["pre_tokenizer"], file.splits);
  read_model(root["model"], file);
  read_added_tokens(root["added_tokens"], file, root["model"]["vocab"].value());
  read_post_processors(root["post_processor"], file);
  expect_known_tokens(root["post_processor"], file);
  return file;
}

}  // namespace vernier::text
