// A linear's outputs from those of its shares.
#pragma once

#include "comm/communicator.h"
#include "model/module.h"
#include "tensor/any_matrix.h"

namespace vernier::model {

// Of a linear cut by rows: columns that tensor ranks share out become whole on each of them, and of
// those that several hold in common the sum of theirs. own: this rank's [rows, its share of n],
// BF16 or FP32; whole: FP32 [rows, n], contiguous, overwritten. REQUIRES: one segment.
void gather_outputs(ConstAnyMatrixView own, const Module& linear, const comm::Communicator& tensor,
                    AnyMatrixView whole);

// Where this rank's columns lie in the whole. REQUIRES: the same.
comm::Range own_outputs(const Module& linear, const comm::Communicator& tensor);

}  // namespace vernier::model
