// Fuzzes the safetensors header: any bytes give an Error or a header whose tensors fill the file.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "base/error.h"
#include "io/safetensors.h"

namespace {

void check_covers_the_file(const vernier::io::SafetensorsHeader& header, int64_t file_bytes) {
  int64_t covered = 0;
  for (const vernier::io::TensorEntry& entry : header.entries) {
    VERNIER_CHECK(entry.begin == covered);
    VERNIER_CHECK(entry.end - entry.begin == vernier::n_bytes(entry.dtype, entry.shape));
    covered = entry.end;
  }
  VERNIER_CHECK(header.data_start + covered == file_bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file_bytes = static_cast<int64_t>(size);
  try {
    check_covers_the_file(vernier::io::parse_safetensors_header(
                              std::as_bytes(std::span(data, size)), file_bytes, "f"),
                          file_bytes);
  } catch (const vernier::Error&) {
  }
  return 0;
}
