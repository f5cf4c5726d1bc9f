#include "text/bpe.h"

#include <queue>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace vernier::text {
namespace {

uint64_t pair_key(TokenId left, TokenId right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

Bpe::Bpe(BpeModel model) : model_(std::move(model)) {
  for (size_t byte = 0; byte < token_of_byte_.size(); ++byte) {
    const char text = static_cast<char>(byte);
    const auto token = model_.vocabulary.find(std::string_view(&text, 1));
    VERNIER_CHECK(token != model_.vocabulary.end());
    token_of_byte_[byte] = token->second;
  }
  merge_of_pair_.reserve(model_.merges.size());
  int32_t rank = 0;
  for (const Merge& merge : model_.merges) {
    merge_of_pair_.insert_or_assign(pair_key(merge.left, merge.right),
                                    RankedToken{rank++, merge.result});
  }
  model_.merges = {};
}

const Bpe::RankedToken* Bpe::find_merge(TokenId left, TokenId right) const {
  const auto merge = merge_of_pair_.find(pair_key(left, right));
  return merge == merge_of_pair_.end() ? nullptr : &merge->second;
}

// The tokens of a piece as a linked list, and a heap of the pairs that may be joined. A pair that
// has changed since it was queued is skipped when its turn comes.
class Bpe::Merger {
 public:
  Merger(const Bpe& bpe, std::string_view piece)
      : bpe_(bpe), n_(static_cast<int64_t>(piece.size())) {
    symbols_.reserve(piece.size());
    for (int64_t index = 0; index < n_; ++index) {
      const auto byte = static_cast<unsigned char>(piece[index]);
      symbols_.push_back({bpe.token_of_byte_[byte], index - 1, index + 1});
    }
    for (int64_t index = 0; index + 1 < n_; ++index) queue(index);
  }

  void run(std::vector<TokenId>& ids) {
    while (!candidates_.empty()) {
      const Candidate candidate = candidates_.top();
      candidates_.pop();
      if (is_current(candidate)) join(candidate.left, candidate.merge->token);
    }
    for (int64_t index = 0; index < n_; index = symbols_[index].next) {
      ids.push_back(symbols_[index].token);
    }
  }

 private:
  static constexpr TokenId kJoined = -1;  // the token is now part of the one to its left

  struct Symbol {
    TokenId token;
    int64_t previous;  // -1 before the first
    int64_t next;      // n_ after the last
  };
  struct Candidate {
    const RankedToken* merge;
    int64_t left;
    // The top of the heap has the lowest rank, the leftmost place among equals.
    bool operator<(const Candidate& other) const {
      return std::tie(merge->rank, left) > std::tie(other.merge->rank, other.left);
    }
  };

  const RankedToken* merge_at(int64_t left) const {
    const int64_t right = symbols_[left].next;
    if (symbols_[left].token == kJoined || right == n_) return nullptr;
    return bpe_.find_merge(symbols_[left].token, symbols_[right].token);
  }

  void queue(int64_t left) {
    if (const RankedToken* merge = merge_at(left)) candidates_.push({merge, left});
  }

  bool is_current(const Candidate& candidate) const {
    return merge_at(candidate.left) == candidate.merge;
  }

  void join(int64_t left, TokenId token) {
    const int64_t right = symbols_[left].next;
    const int64_t after = symbols_[right].next;
    symbols_[left] = {token, symbols_[left].previous, after};
    symbols_[right].token = kJoined;
    if (after < n_) symbols_[after].previous = left;
    queue(left);
    if (symbols_[left].previous >= 0) queue(symbols_[left].previous);
  }

  const Bpe& bpe_;
  const int64_t n_;
  std::vector<Symbol> symbols_;
  std::priority_queue<Candidate> candidates_;
};

void Bpe::encode(std::string_view piece, std::vector<TokenId>& ids) const {
  if (model_.ignore_merges) {
    const auto token = model_.vocabulary.find(piece);
    if (token != model_.vocabulary.end()) return ids.push_back(token->second);
  }
  Merger(*this, piece).run(ids);
}

}  // namespace vernier::text
