#include "model/cut.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace vernier::model {
namespace {

comm::Range kept_of_segment(int64_t length, const Cut& cut, comm::Share share) {
  const int64_t n_units = length / cut.unit;
  if (!cut.repeats || share.count <= n_units) return comm::part_of(length, share, cut.unit);
  const int64_t unit = share.index * n_units / share.count;
  return {unit * cut.unit, (unit + 1) * cut.unit};
}

// Copies columns [begin, end) of every row; all in bytes.
void copy_columns(const std::byte* from, int64_t n_rows, int64_t from_stride, comm::Range columns,
                  std::byte* to, int64_t to_stride) {
  for (int64_t row = 0; row < n_rows; ++row) {
    std::memcpy(to + row * to_stride, from + row * from_stride + columns.begin,
                static_cast<size_t>(columns.size()));
  }
}

// The bytes of a tensor as a matrix: its first dimension by all others.
struct Bytes {
  int64_t n_rows;
  int64_t row_bytes;
};

Bytes bytes_of(const TensorView& tensor) {
  const int64_t n_rows = tensor.shape.front();
  return {n_rows, n_rows == 0 ? 0 : tensor.size_bytes() / n_rows};
}

Tensor cut_rows(const TensorView& tensor, const std::vector<comm::Range>& kept) {
  const Bytes bytes = bytes_of(tensor);
  Shape shape = tensor.shape;
  shape.front() = 0;
  for (const comm::Range& range : kept) shape.front() += range.size();
  Tensor part(tensor.dtype, shape);
  std::byte* to = part.data();
  for (const comm::Range& range : kept) {
    const int64_t n_bytes = range.size() * bytes.row_bytes;
    std::memcpy(to, tensor.data + range.begin * bytes.row_bytes, static_cast<size_t>(n_bytes));
    to += n_bytes;
  }
  return part;
}

// `kept` in columns of a whole that has `n_columns`, of which the tensor may store several in one
// of its own (two codes in a byte, 16 under one block scale).
Tensor cut_columns(const TensorView& tensor, const std::vector<comm::Range>& kept,
                   int64_t n_columns) {
  const Bytes bytes = bytes_of(tensor);
  const auto in_bytes = [&](int64_t column) { return column * bytes.row_bytes / n_columns; };
  int64_t n_kept = 0;
  for (const comm::Range& range : kept) n_kept += range.size();
  Shape shape = tensor.shape;
  shape.back() = shape.back() * n_kept / n_columns;
  Tensor part(tensor.dtype, shape);
  int64_t to_column = 0;
  for (const comm::Range& range : kept) {
    copy_columns(tensor.data, bytes.n_rows, bytes.row_bytes,
                 {in_bytes(range.begin), in_bytes(range.end)}, part.data() + in_bytes(to_column),
                 in_bytes(n_kept));
    to_column += range.size();
  }
  return part;
}

Tensor copy_of(const TensorView& tensor) { return to_device(tensor, nullptr); }

}  // namespace

std::vector<comm::Range> kept_ranges(const Cut& cut, comm::Share share) {
  std::vector<comm::Range> kept;
  int64_t start = 0;
  for (const int64_t length : cut.segments) {
    const comm::Range part = kept_of_segment(length, cut, share);
    kept.push_back({start + part.begin, start + part.end});
    start += length;
  }
  return kept;
}

int64_t kept_size(const Cut& cut, comm::Share share) {
  int64_t size = 0;
  for (const comm::Range& range : kept_ranges(cut, share)) size += range.size();
  return size;
}

comm::Share holder_of_outputs(const Cut& cut, comm::Share share) {
  if (cut.kind == CutKind::kColumns) return share;
  if (cut.kind != CutKind::kRows || !cut.repeats) return {};
  const int64_t n_holders = std::max<int64_t>(share.count / (cut.segments.front() / cut.unit), 1);
  return {share.index % n_holders, n_holders};
}

Tensor cut_tensor(const TensorView& tensor, const Cut& cut, comm::Share share) {
  VERNIER_CHECK(cut.is_cut() && tensor.device == nullptr);
  const std::vector<comm::Range> kept = kept_ranges(cut, share);
  if (cut.kind == CutKind::kRows) return cut_rows(tensor, kept);
  return cut_columns(tensor, kept, tensor.shape.back());
}

formats::PackedTensor cut_packed(const formats::PackedView& packed, const Cut& cut,
                                 comm::Share share, std::string_view module) {
  VERNIER_CHECK(cut.is_cut() && packed.device() == nullptr);
  const std::vector<comm::Range> kept = kept_ranges(cut, share);
  const bool is_by_rows = cut.kind == CutKind::kRows;
  const int64_t multiple = packed.format->k_multiple;
  for (const comm::Range& range : kept) {
    if (is_by_rows || (range.begin % multiple == 0 && range.end % multiple == 0)) continue;
    throw Error(
        ErrorKind::kUnsupported,
        fmt::format("--tp {}: inputs {} to {} of {} would be one rank's, expected whole "
                    "blocks of {} ({})",
                    share.count, range.begin, range.end, module, multiple, packed.format->name));
  }
  formats::PackedTensor part{packed.format,
                             is_by_rows ? kept_size(cut, share) : packed.n,
                             is_by_rows ? packed.k : kept_size(cut, share),
                             {}};
  for (const formats::PlaneSpec& plane : packed.format->planes) {
    const TensorView& whole = packed.plane(plane.role);
    const bool is_scalar = plane.role == formats::PlaneRole::kGlobalScale;
    part.plane(plane.role) = is_scalar    ? copy_of(whole)
                             : is_by_rows ? cut_rows(whole, kept)
                                          : cut_columns(whole, kept, packed.k);
  }
  return part;
}

}  // namespace vernier::model
