// Large JSON objects. Indexing an ordered Json object searches it, so filling one key by key is
// quadratic; a checkpoint of this family has 160,000 tensors.
#pragma once

#include <string>
#include <utility>

#include "io/json.h"

namespace vernier::exporting {

// Appends members in the order of the calls. REQUIRES: no key twice.
class JsonObjectBuilder {
 public:
  void add(std::string key, io::Json value) {
    members_.emplace_back(std::move(key), std::move(value));
  }
  io::Json take() { return io::Json(std::move(members_)); }

 private:
  io::Json::object_t members_;
};

}  // namespace vernier::exporting
