#include "text/decompress.h"

#include <fmt/format.h>
#include <lzma.h>
#include <zstd.h>

#include <cstdint>
#include <limits>
#include <memory>

#include "base/check.h"
#include "base/error.h"

namespace vernier::text {
namespace {

[[noreturn]] void throw_corrupt(std::string_view file_name, std::string_view what) {
  throw Error(ErrorKind::kCorrupt, fmt::format("{}: cannot be decompressed: {}", file_name, what));
}

std::string_view message_of(lzma_ret status) {
  switch (status) {
    case LZMA_FORMAT_ERROR:
      return "the file is not in xz format";
    case LZMA_BUF_ERROR:
      return "the file is truncated";
    case LZMA_DATA_ERROR:
      return "the file is damaged";
    case LZMA_MEM_ERROR:
      return "no memory";
    default:
      return "the file is not supported";
  }
}

}  // namespace

std::string decompress_zstd(std::string_view bytes, std::string_view file_name) {
  const std::unique_ptr<ZSTD_DStream, decltype(&ZSTD_freeDStream)> stream(ZSTD_createDStream(),
                                                                          ZSTD_freeDStream);
  VERNIER_CHECK(stream != nullptr);
  std::string text;
  std::string buffer(ZSTD_DStreamOutSize(), '\0');
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  size_t n_expected = 1;  // 0 exactly at the end of a frame
  bool is_full = false;   // the last step filled the buffer, so more may be waiting
  while (in.pos < in.size || is_full) {
    ZSTD_outBuffer out{buffer.data(), buffer.size(), 0};
    n_expected = ZSTD_decompressStream(stream.get(), &out, &in);
    if (ZSTD_isError(n_expected)) throw_corrupt(file_name, ZSTD_getErrorName(n_expected));
    text.append(buffer, 0, out.pos);
    is_full = out.pos == out.size && n_expected != 0;
  }
  if (n_expected != 0) throw_corrupt(file_name, "the file is truncated");
  return text;
}

std::string decompress_xz(std::string_view bytes, std::string_view file_name) {
  lzma_stream stream = LZMA_STREAM_INIT;
  const std::unique_ptr<lzma_stream, decltype(&lzma_end)> owner(&stream, lzma_end);
  const uint64_t no_limit = std::numeric_limits<uint64_t>::max();
  lzma_ret status = lzma_stream_decoder(&stream, no_limit, LZMA_CONCATENATED);
  stream.next_in = reinterpret_cast<const uint8_t*>(bytes.data());
  stream.avail_in = bytes.size();
  std::string text;
  std::string buffer(1 << 17, '\0');
  while (status == LZMA_OK) {
    stream.next_out = reinterpret_cast<uint8_t*>(buffer.data());
    stream.avail_out = buffer.size();
    status = lzma_code(&stream, LZMA_FINISH);
    text.append(buffer, 0, buffer.size() - stream.avail_out);
  }
  if (status != LZMA_STREAM_END) throw_corrupt(file_name, message_of(status));
  return text;
}

}  // namespace vernier::text
