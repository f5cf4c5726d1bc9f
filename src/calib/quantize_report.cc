#include "calib/quantize_report.h"

#include "io/json.h"

namespace vernier::calib {
namespace {

io::Json to_json(const InputAmax& amax) {
  return {{"amax", amax.amax}, {"source", to_string(amax.source)}};
}

InputAmax amax_from_json(const io::Json& json) {
  return {json.at("amax"), amax_source_from_string(json.at("source").get<std::string>())};
}

io::Json to_json(const ModuleReport& module) {
  return {{"name", module.name},
          {"weight", module.weight},
          {"input", module.input},
          {"signal", module.signal},
          {"noise", module.noise},
          {"n_weights", module.n_weights},
          {"n_saturated", module.n_saturated},
          {"n_flushed", module.n_flushed},
          {"input_amax", module.input_amax},
          {"amax_source", to_string(module.amax_source)},
          {"is_all_zero", module.is_all_zero}};
}

ModuleReport module_from_json(const io::Json& json) {
  return {.name = json.at("name"),
          .weight = json.at("weight"),
          .input = json.at("input"),
          .signal = json.at("signal"),
          .noise = json.at("noise"),
          .n_weights = json.at("n_weights"),
          .n_saturated = json.at("n_saturated"),
          .n_flushed = json.at("n_flushed"),
          .input_amax = json.at("input_amax"),
          .amax_source = amax_source_from_string(json.at("amax_source").get<std::string>()),
          .is_all_zero = json.at("is_all_zero")};
}

}  // namespace

io::Json to_json(const LayerReport& report) {
  io::Json modules = io::Json::array();
  for (const ModuleReport& module : report.modules) modules.push_back(to_json(module));
  io::Json kv = io::Json::array();
  for (const KvReport& site : report.kv) {
    kv.push_back({{"name", site.name}, {"k", to_json(site.k)}, {"v", to_json(site.v)}});
  }
  return {{"layer", report.layer},
          {"modules", modules},
          {"kv", kv},
          {"expert_tokens", report.expert_tokens}};
}

LayerReport layer_report_from_json(const io::Json& json) {
  LayerReport report;
  report.layer = json.at("layer");
  for (const io::Json& module : json.at("modules")) {
    report.modules.push_back(module_from_json(module));
  }
  for (const io::Json& site : json.at("kv")) {
    report.kv.push_back(
        {site.at("name"), amax_from_json(site.at("k")), amax_from_json(site.at("v"))});
  }
  report.expert_tokens = json.at("expert_tokens").get<std::vector<int64_t>>();
  return report;
}

io::Json to_json(const QuantizeReport& report) {
  io::Json layers = io::Json::array();
  for (const LayerReport& layer : report.layers) {
    io::Json json = to_json(layer);
    for (size_t index = 0; index < layer.modules.size(); ++index) {
      const formats::Distortion distortion{layer.modules[index].signal, layer.modules[index].noise};
      json["modules"][index]["snr_db"] = distortion.snr_db();
    }
    layers.push_back(std::move(json));
  }
  return {{"layers", layers}, {"passed_through", report.passed_through}};
}

}  // namespace vernier::calib
