// Fuzzes JSON: any bytes give an Error or a value whose dump reads back as the same dump.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/error.h"
#include "io/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using vernier::io::dump_json;
  using vernier::io::parse_json;
  std::string dumped;
  try {
    dumped = dump_json(parse_json({reinterpret_cast<const char*>(data), size}, "f"));
  } catch (const vernier::Error&) {
    return 0;
  }
  VERNIER_CHECK(dump_json(parse_json(dumped, "dump")) == dumped);
  return 0;
}
