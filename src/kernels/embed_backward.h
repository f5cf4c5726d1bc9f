// Gradient of an embedding (embed in linear.h), on the host.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/matrix.h"

namespace vernier::kernels {

// g_table[ids[i]] += g[i], in ascending order of i whatever the number of threads. g: [ids.size(),
// channels]. g_table: [vocabulary, channels]. REQUIRES: 0 <= ids[i] < g_table.rows.
void embed_backward(std::span<const int32_t> ids, ConstMatrixView g, MatrixView g_table);

}  // namespace vernier::kernels
