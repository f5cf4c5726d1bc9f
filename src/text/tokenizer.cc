#include "text/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_file.h"

namespace vernier::text {
namespace {

// Words repeat: a piece seen before in the same text is copied from where it was encoded. Long
// pieces rarely repeat, and a text of many different ones must not fill the memory.
constexpr size_t kMaxCachedBytes = 64;
constexpr size_t kMaxCachedPieces = 1 << 16;

constexpr size_t kNoLimit = std::numeric_limits<size_t>::max();

std::vector<AddedToken> tokens_of_pass(const std::vector<AddedToken>& tokens, bool normalized) {
  std::vector<AddedToken> chosen;
  std::copy_if(tokens.begin(), tokens.end(), std::back_inserter(chosen),
               [&](const AddedToken& token) { return token.normalized == normalized; });
  return chosen;
}

}  // namespace

struct Tokenizer::Impl {
  Impl(TokenizerFile file, std::string_view name)
      : name(name),
        first_pass(tokens_of_pass(file.added_tokens, false)),
        second_pass(tokens_of_pass(file.added_tokens, true)),
        splits(std::move(file.splits)),
        bpe(std::move(file.model)),
        prefix(std::move(file.prefix)),
        suffix(std::move(file.suffix)),
        bytes_of_token(std::move(file.bytes_of_token)) {
    for (AddedToken& token : file.added_tokens) {
      if (token.special) special.insert(token.id);
      added.emplace(std::move(token.content), token.id);
    }
  }

  std::string name;  // for messages
  AddedTokenSplitter first_pass;
  AddedTokenSplitter second_pass;
  std::vector<SplitStep> splits;
  Bpe bpe;
  std::vector<TokenId> prefix;
  std::vector<TokenId> suffix;
  std::vector<std::string> bytes_of_token;
  Vocabulary added;
  std::unordered_set<TokenId> special;
};

namespace {

// One text on its way through the steps: added tokens, pieces, byte pairs.
template <class Impl>
class Encoder {
 public:
  Encoder(const Impl& impl, size_t max_tokens) : impl_(impl), max_tokens_(max_tokens) {}

  std::vector<TokenId> run(std::string_view text) {
    const auto on_token = [&](TokenId id) { return take_token(id); };
    const auto on_piece = [&](std::string_view piece) { return take_piece(piece); };
    const auto on_text = [&](std::string_view rest) {
      return for_each_piece(impl_.splits, rest, on_piece);
    };
    const auto on_first_pass = [&](std::string_view rest) {
      return impl_.second_pass.split(rest, on_text, on_token);
    };
    if (max_tokens_ > 0) impl_.first_pass.split(text, on_first_pass, on_token);
    if (ids_.size() > max_tokens_) ids_.resize(max_tokens_);
    return std::move(ids_);
  }

 private:
  struct Range {
    size_t first;
    size_t n;
  };

  bool take_token(TokenId id) {
    ids_.push_back(id);
    return ids_.size() < max_tokens_;
  }

  bool take_piece(std::string_view piece) {
    const auto seen = seen_.find(piece);
    if (seen != seen_.end()) {
      for (size_t index = 0; index < seen->second.n; ++index) {
        ids_.push_back(ids_[seen->second.first + index]);
      }
    } else {
      const size_t first = ids_.size();
      impl_.bpe.encode(piece, ids_);
      if (piece.size() <= kMaxCachedBytes && seen_.size() < kMaxCachedPieces) {
        seen_.emplace(piece, Range{first, ids_.size() - first});
      }
    }
    return ids_.size() < max_tokens_;
  }

  const Impl& impl_;
  const size_t max_tokens_;
  std::vector<TokenId> ids_;
  std::unordered_map<std::string_view, Range> seen_;
};

void expect_utf8(std::string_view text) {
  size_t offset = 0;
  if (!is_valid_utf8(text, &offset)) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("the text to encode is not valid UTF-8 at byte {}", offset));
  }
}

}  // namespace

Tokenizer::Tokenizer(const std::filesystem::path& path)
    : Tokenizer(read_file(path), path.string()) {}

Tokenizer::Tokenizer(std::string_view json, std::string_view name)
    : impl_(std::make_unique<const Impl>(parse_tokenizer_file(json, name), name)) {}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

std::vector<TokenId> Tokenizer::encode_prefix(std::string_view text, size_t max_tokens) const {
  expect_utf8(text);
  return with_context(impl_->name, [&] { return Encoder(*impl_, max_tokens).run(text); });
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool add_special) const {
  std::vector<TokenId> ids = encode_prefix(text, kNoLimit);
  if (add_special) {
    ids.insert(ids.begin(), impl_->prefix.begin(), impl_->prefix.end());
    ids.insert(ids.end(), impl_->suffix.begin(), impl_->suffix.end());
  }
  return ids;
}

std::string Tokenizer::decode(const std::vector<TokenId>& ids, bool skip_special) const {
  std::string text;
  for (TokenId id : ids) {
    const auto index = static_cast<size_t>(id);
    if (id < 0 || index >= impl_->bytes_of_token.size() || impl_->bytes_of_token[index].empty()) {
      throw Error(ErrorKind::kInvalidArgument,
                  fmt::format("{}: has no token with the id {}", impl_->name, id));
    }
    if (skip_special && impl_->special.count(id) > 0) continue;
    text += impl_->bytes_of_token[index];
  }
  return text;
}

TokenId Tokenizer::id_of(std::string_view token) const {
  for (const Vocabulary* vocabulary : {&impl_->added, &impl_->bpe.vocabulary()}) {
    const auto found = vocabulary->find(token);
    if (found != vocabulary->end()) return found->second;
  }
  return -1;
}

int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(impl_->bytes_of_token.size()); }

}  // namespace vernier::text
