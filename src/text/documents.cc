#include <fmt/format.h>

#include "base/embedded.h"
#include "base/error.h"
#include "base/file.h"
#include "text/dataset.h"
#include "text/decompress.h"
#include "text/json_lines.h"

namespace vernier {

std::span<const EmbeddedFile> embedded_calibration_text();

namespace text {
namespace {

// What the name says of the content: "corpus.jsonl.zst" is JSON lines, compressed by zstd.
struct Extensions {
  std::string content;
  std::string compression;  // empty: none
};

Extensions extensions_of(const std::filesystem::path& path) {
  const std::string last = path.extension().string();
  if (last == ".zst" || last == ".xz") return {path.stem().extension().string(), last};
  return {last, ""};
}

void expect_accepted(const Extensions& extensions, const std::string& name) {
  if (extensions.content == ".txt" || extensions.content == ".jsonl" ||
      extensions.content == ".json") {
    return;
  }
  if (extensions.content == ".parquet") {
    throw Error(
        ErrorKind::kUnsupported,
        fmt::format("{0}: Parquet files are not read; convert it to JSON lines, for example "
                    "with duckdb -c \"COPY '{0}' TO 'data.jsonl' (FORMAT json)\"",
                    name));
  }
  throw Error(
      ErrorKind::kInvalidArgument,
      fmt::format("{}: is not known as a file of texts; accepted are .txt, .jsonl and .json "
                  "(one object a line), each also compressed as .zst or .xz",
                  name));
}

std::string read_text(const std::filesystem::path& path, const std::string& compression) {
  std::string bytes = read_file(path);
  if (compression == ".zst") return decompress_zstd(bytes, path.string());
  if (compression == ".xz") return decompress_xz(bytes, path.string());
  return bytes;
}

}  // namespace

std::vector<std::string> read_documents(const std::filesystem::path& path) {
  const std::string name = path.string();
  const Extensions extensions = extensions_of(path);
  expect_accepted(extensions, name);
  std::string text = read_text(path, extensions.compression);
  std::vector<std::string> documents;
  if (extensions.content != ".txt") {
    documents = parse_json_lines(text, name);
  } else if (size_t offset = 0; !is_valid_utf8(text, &offset)) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{}: byte {} is not valid UTF-8", name, offset));
  } else if (!text.empty()) {
    documents.push_back(std::move(text));
  }
  if (documents.empty()) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{}: is empty, expected at least one document", name));
  }
  return documents;
}

std::string default_calibration_document() {
  return std::string(embedded_calibration_text().front().text);
}

}  // namespace text
}  // namespace vernier
