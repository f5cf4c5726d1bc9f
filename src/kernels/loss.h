// Gradients of losses at the logits, and random vectors whose covariance is the loss's curvature
// there: what goes into the network from behind. A chunk of tokens at a time; p =
// softmax(logits[t]).
//
// All matrices: FP32 [tokens, vocabulary], together on the host or a device; g_logits is
// overwritten. FP32 exponentials, sums in double.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/score.h"
#include "tensor/any_matrix.h"

namespace vernier::kernels {

// g_logits[t] = scale (p - onehot(targets[t])), the gradient of scale * -log p(target); zeros for
// kNoTarget. targets: [tokens] in host memory. g_logits may be logits.
void cross_entropy_gradient(ConstAnyMatrixView logits, std::span<const int32_t> targets,
                            float scale, AnyMatrixView g_logits);

// g_logits[t] = scale H^(1/2) xi with H = diag(p) - p p^T, the curvature at the logits of the cross
// entropy and of KL(p, .), and xi a vector of random signs:
//   g_i = scale (sqrt(p_i) xi_i - p_i sum_j sqrt(p_j) xi_j),
// so that the mean of g g^T over signs is scale^2 H, exactly. The signs are a function of the seed,
// the token's number first_token + t and the vocabulary index (probe_signs in philox.h), the same
// bits on host and device. g_logits may be logits.
void fisher_probe(ConstAnyMatrixView logits, uint64_t seed, uint64_t first_token, float scale,
                  AnyMatrixView g_logits);

// g_logits[t] = scale (p - softmax(teacher_logits[t])), the gradient of scale * KL(teacher, p);
// exact zeros where both rows have the same bits. g_logits may be either of the others.
void kl_gradient(ConstAnyMatrixView teacher_logits, ConstAnyMatrixView logits, float scale,
                 AnyMatrixView g_logits);

}  // namespace vernier::kernels
