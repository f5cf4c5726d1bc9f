// A network as the runtime sees it: a tree of modules, an embedding, layers that load one at a
// time, a head. An architecture (model/arch/) implements it; open_model finds the one a config.json
// names.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "comm/ranks.h"
#include "io/json_fwd.h"
#include "model/layer.h"
#include "model/module.h"
#include "model/weight_source.h"
#include "tensor/any_matrix.h"

namespace vernier::model {

class Model {
 public:
  virtual ~Model() = default;

  // The whole network's, whatever this rank runs of it.
  virtual const ModuleTree& tree() const = 0;
  // Who runs it together. Layers hold this rank's share of their modules and add up what the shares
  // give; a share's states and temporaries are what the sizes below count.
  virtual const comm::Ranks& ranks() const = 0;
  // Throws InvalidArgument, naming the flag, where the network cannot be cut so.
  virtual void check_layout(const comm::Layout& layout) const = 0;
  virtual int64_t hidden_size() const = 0;
  virtual int64_t vocab_size() const = 0;
  // Module names of the token table and the head.
  virtual const Module& embedding() const = 0;
  virtual const Module& head() const = 0;
  // Weights of linear modules that take part in one token: routed experts count top_k of their
  // number.
  virtual int64_t active_weights() const = 0;
  // Bytes that a layer's state takes there after n_tokens tokens of one sequence.
  virtual int64_t state_bytes(int layer, int64_t n_tokens, const Device* device) const = 0;

  // The most that a layer allocates besides weights, states and its input while n_tokens tokens run
  // through it on `device`, at most piece_tokens(device) of them at once. Grows with n_tokens.
  virtual int64_t scratch_bytes(int layer, int64_t n_tokens, const Device* device) const = 0;

  // Throws the source's errors, and Corrupt for a tensor of the wrong shape or dtype. The model and
  // the weights must outlive the layer, which reads linear weights where the source keeps them.
  virtual std::unique_ptr<Layer> load_layer(int layer, const WeightSource& weights) const = 0;
  // normed = final norm of hidden [tokens, hidden_size], the head's input, coded by the rule if it
  // has a format (kernels::rms_norm_encode); on the weights' device.
  virtual void final_norm(ConstAnyMatrixView hidden, const WeightSource& weights,
                          const kernels::InputRule& rule, AnyMatrixView normed) const = 0;
  // g_hidden, FP32, += the gradient of hidden, from that of normed. `hook`, which may be null, says
  // where the norm's own gradient goes.
  virtual void final_norm_backward(ConstAnyMatrixView hidden, const WeightSource& weights,
                                   ConstAnyMatrixView g_normed, AnyMatrixView g_hidden,
                                   GradientHook* hook) const = 0;
};

// The architecture that config["model_type"] names. `origin` names the file in errors. `ranks`,
// null for one rank, must outlive the model. Throws Unsupported for an unknown model_type, listing
// the known ones, and InvalidArgument for a layout that the network cannot be cut by.
std::unique_ptr<Model> open_model(const io::Json& config, std::string_view origin,
                                  const comm::Ranks* ranks = nullptr);

}  // namespace vernier::model
