#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/random.h"
#include "text/dataset.h"

namespace vernier::text {
namespace {

void expect_at_least_one(int64_t value, std::string_view what) {
  if (value < 1) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("the {} is {}, expected at least 1", what, value));
  }
}

// Fisher-Yates. std::shuffle would give another order with another standard library.
std::vector<size_t> document_order(size_t n_documents, const std::optional<uint64_t>& seed) {
  std::vector<size_t> order(n_documents);
  std::iota(order.begin(), order.end(), size_t{0});
  if (!seed) return order;
  constexpr uint32_t kStream = 0;
  for (size_t n_left = n_documents; n_left > 1; --n_left) {
    const uint64_t below_2_32 = random_bits(*seed, kStream, n_left);
    std::swap(order[n_left - 1], order[below_2_32 * n_left >> 32]);
  }
  return order;
}

// The windows as they fill up.
class Packer {
 public:
  explicit Packer(const WindowOptions& options)
      : n_windows_(static_cast<size_t>(options.n_windows)),
        window_tokens_(static_cast<size_t>(options.window_tokens)) {}

  bool is_full() const { return windows_.size() == n_windows_; }

  // How many tokens still fit. Sizes beyond any memory are as good as the largest number.
  size_t n_missing() const {
    const size_t n_whole = n_windows_ - windows_.size();
    if (n_whole > kMost / window_tokens_) return kMost;
    return n_whole * window_tokens_ - current_.size();
  }

  void append(const std::vector<TokenId>& ids) {
    for (size_t done = 0; done < ids.size() && !is_full();) {
      const size_t n = std::min(ids.size() - done, window_tokens_ - current_.size());
      current_.insert(current_.end(), ids.begin() + done, ids.begin() + done + n);
      done += n;
      if (current_.size() == window_tokens_) windows_.push_back(std::exchange(current_, {}));
    }
  }

  // A last window that did not fill up counts only when it is the only one.
  std::vector<std::vector<TokenId>> finish() {
    if (windows_.empty() && !current_.empty()) windows_.push_back(std::move(current_));
    return std::move(windows_);
  }

 private:
  static constexpr size_t kMost = std::numeric_limits<size_t>::max();

  size_t n_windows_;
  size_t window_tokens_;
  std::vector<TokenId> current_;
  std::vector<std::vector<TokenId>> windows_;
};

}  // namespace

std::vector<std::vector<TokenId>> make_windows(const Tokenizer& tokenizer,
                                               const std::vector<std::string>& documents,
                                               const WindowOptions& options) {
  expect_at_least_one(options.n_windows, "number of windows");
  expect_at_least_one(options.window_tokens, "window length in tokens");
  Packer packer(options);
  bool is_first = true;
  for (size_t index : document_order(documents.size(), options.shuffle_seed)) {
    if (packer.is_full()) break;
    if (documents[index].empty()) continue;
    if (!is_first && options.separator) packer.append({*options.separator});
    packer.append(tokenizer.encode_prefix(documents[index], packer.n_missing()));
    is_first = false;
  }
  auto windows = packer.finish();
  if (windows.empty()) {
    throw Error(ErrorKind::kInvalidArgument, "the documents hold no text to make token windows of");
  }
  return windows;
}

}  // namespace vernier::text
