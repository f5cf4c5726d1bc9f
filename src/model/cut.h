// How tensor parallelism cuts a tensor over the ranks that hold a layer together.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/layout.h"
#include "formats/format.h"
#include "tensor/tensor.h"

namespace vernier::model {

enum class CutKind {
  kWhole,    // every rank has all of it
  kRows,     // along the first dimension: what a linear puts out
  kColumns,  // along the second: what it takes in; outputs are partial sums, to be added up
  kExpert,   // whole, on the ranks that hold the expert
};

struct Cut {
  CutKind kind = CutKind::kWhole;
  // Lengths along the cut dimension that are each cut on their own: z, x, B, C and dt of a Mamba
  // layer's input projection. Their sum is the dimension.
  std::vector<int64_t> segments = {};
  // What stays together: a head, a block of 16.
  int64_t unit = 1;
  // Whether ranks that outnumber a segment's units hold one in common, neighbours the same.
  bool repeats = false;

  bool is_cut() const { return kind == CutKind::kRows || kind == CutKind::kColumns; }
};

// What a share holds of the cut dimension, in order: a range of every segment.
std::vector<comm::Range> kept_ranges(const Cut& cut, comm::Share share);

// How long the cut dimension is for the share.
int64_t kept_size(const Cut& cut, comm::Share share);

// This share among those that have the same outputs of a linear: of a row that ranks hold in
// common, or all of a linear that is cut by columns, whose partial sums make one output.
comm::Share holder_of_outputs(const Cut& cut, comm::Share share);

// A host tensor's share, as a copy. REQUIRES: a cut by rows or columns, of whole bytes.
Tensor cut_tensor(const TensorView& tensor, const Cut& cut, comm::Share share);

// A packed weight's share, as a copy, in host memory. Throws Unsupported, naming `module`, where a
// cut by columns would divide a block of the format.
formats::PackedTensor cut_packed(const formats::PackedView& packed, const Cut& cut,
                                 comm::Share share, std::string_view module);

}  // namespace vernier::model
