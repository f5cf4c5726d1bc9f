#include "model/model.h"

#include <fmt/format.h>

#include <string>

#include "base/error.h"
#include "io/json.h"
#include "model/arch/registry.h"

namespace vernier::model {

std::unique_ptr<Model> open_model(const io::Json& config, std::string_view origin,
                                  const comm::Ranks* ranks) {
  const auto found = config.find("model_type");
  if (found == config.end()) {
    throw Error(ErrorKind::kCorrupt,
                fmt::format("{}: model_type is missing, which names the architecture", origin));
  }
  std::string known;
  for (const Architecture& architecture : all_architectures()) {
    if (io::is_string(*found, architecture.model_type)) {
      return architecture.open(config, origin, ranks);
    }
    known += fmt::format("{}{}", known.empty() ? "" : ", ", architecture.model_type);
  }
  throw Error(ErrorKind::kUnsupported, fmt::format("{}: model_type is {}, expected one of: {}",
                                                   origin, found->dump(), known));
}

}  // namespace vernier::model
