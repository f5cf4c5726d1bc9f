// Gradients of losses at the logits, in double.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/loss.h"
#include "kernels/reference.h"

namespace vernier::kernels::ref {
namespace {

std::vector<double> softmax(std::span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  std::vector<double> p;
  double sum = 0;
  for (const float logit : logits) {
    p.push_back(std::exp(logit - max));
    sum += p.back();
  }
  for (double& each : p) each /= sum;
  return p;
}

}  // namespace

void cross_entropy_gradient(std::span<const float> logits, int32_t target, float scale,
                            std::span<float> g_logits) {
  const std::vector<double> p = softmax(logits);
  for (int64_t i = 0; i < std::ssize(p); ++i) {
    const double gradient = scale * (p[i] - (i == target ? 1 : 0));
    g_logits[i] = target == kNoTarget ? 0.0f : static_cast<float>(gradient);
  }
}

void fisher_probe(std::span<const float> logits, std::span<const int> signs, float scale,
                  std::span<float> g_logits) {
  const std::vector<double> p = softmax(logits);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += std::sqrt(p[i]) * signs[i];
  for (size_t i = 0; i < p.size(); ++i) {
    g_logits[i] = static_cast<float>(scale * (std::sqrt(p[i]) * signs[i] - p[i] * sum));
  }
}

void kl_gradient(std::span<const float> teacher_logits, std::span<const float> logits, float scale,
                 std::span<float> g_logits) {
  const std::vector<double> teacher = softmax(teacher_logits);
  const std::vector<double> p = softmax(logits);
  for (size_t i = 0; i < p.size(); ++i) {
    g_logits[i] = static_cast<float>(scale * (p[i] - teacher[i]));
  }
}

}  // namespace vernier::kernels::ref
