// What of every layer a tensor rank holds, multiplies by, packs and sends.
#pragma once

#include <cstdint>
#include <vector>

#include "model/model.h"

namespace vernier::runtime {

// Weights as BF16, whatever they are stored as.
struct LayerSizes {
  // Linears that a rank loads to run the layer, routed experts excepted: tensor shares, whole where
  // there is no cut.
  int64_t share_bytes = 0;
  // Weights that a rank multiplies a token of its replica by: its share of the cut linears; 1/tp of
  // the routed experts that a token visits, and of the linears before and after them, since tensor
  // ranks route rows of their own, and experts are taken to be visited alike.
  double active_weights = 0;
  // What is packed or copied to the output besides routed experts, by all ranks together.
  int64_t dense_bytes = 0;
  int64_t largest_dense_bytes = 0;  // one module's

  // Zeros without routed experts. All of them, and what a token meets of them.
  int64_t expert_bytes = 0;
  double top_k = 0;
  int64_t expert_in = 0;     // elements that an expert takes of a token
  int64_t expert_inner = 0;  // and has between its linears
  int64_t expert_out = 0;    // and gives
};

struct NetworkSizes {
  std::vector<LayerSizes> layers;
  LayerSizes outside;              // embedding, final norm, head
  int64_t embedding_bytes = 0;     // a tensor rank's share
  int64_t largest_edge_bytes = 0;  // embedding or head, whole
};

// `share`: the network as the tensor rank has it open.
NetworkSizes measure_network(const model::Model& share);

}  // namespace vernier::runtime
