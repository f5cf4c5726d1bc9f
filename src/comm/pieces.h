// MPI counts in int: longer messages go in pieces.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

namespace vernier::comm {

constexpr int64_t kMaxPieceElems = int64_t{1} << 30;

// body(first values), body(next values), ...: not at all for none.
template <class T, class Body>
void in_pieces(std::span<T> values, Body body, int64_t max_piece = kMaxPieceElems) {
  while (!values.empty()) {
    const auto n = std::min<size_t>(values.size(), static_cast<size_t>(max_piece));
    body(values.first(n));
    values = values.subspan(n);
  }
}

}  // namespace vernier::comm
