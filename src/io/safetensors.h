// The safetensors container: u64 header length, JSON header, data. Reading is by memory map and the
// header is validated in full before any tensor is handed out; writing lays the whole file out
// first and fills it in any order. Layout rules: docs/formats.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/mapped_file.h"
#include "tensor/tensor.h"

namespace vernier::io {

// What the format allows a header to be long.
constexpr int64_t kMaxHeaderBytes = 100'000'000;

struct TensorEntry {
  std::string name;
  DType dtype;
  Shape shape;
  int64_t begin;  // bytes from the start of the data section
  int64_t end;
};

struct SafetensorsHeader {
  std::vector<TensorEntry> entries;  // in offset order
  std::map<std::string, std::string> metadata;
  int64_t data_start;  // bytes from the start of the file
};

// Parses and validates the header of a file of `file_bytes` bytes that starts with `prefix` (the
// whole file or at least its header). `origin` names the file in errors. Throws Corrupt for: a file
// too short, a header beyond 100 MB or beyond the file, malformed JSON, duplicate names, unknown
// dtypes, negative or overflowing shapes, offsets that overlap, leave a gap, run past the end,
// contradict the shape, or do not fill the file.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> prefix, int64_t file_bytes,
                                           std::string_view origin);

// A mapped safetensors file. Movable; views live as long as it does. Safe for concurrent reads.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const SafetensorsHeader& header() const { return header_; }
  int64_t file_bytes() const { return static_cast<int64_t>(file_.bytes().size()); }
  // REQUIRES: an entry of this file's header.
  TensorView view(const TensorEntry& entry) const;

 private:
  std::filesystem::path path_;
  MappedFile file_;
  SafetensorsHeader header_;
};

// A tensor to be written: its name and layout, not its bytes.
struct TensorDecl {
  std::string name;
  DType dtype;
  Shape shape;

  int64_t size_bytes() const { return n_bytes(dtype, shape); }
};

// Puts declarations in the official writer's order: dtype descending, then name ascending.
void sort_canonically(std::vector<TensorDecl>& tensors);

// Writes one file whose tensors are all declared up front and then filled in any order, in place,
// so that nothing but the tensor at hand is ever in memory. The file has its final size from the
// start: a full disk is noticed then, where the file system can tell. Not thread-safe.
class SafetensorsWriter {
 public:
  // `tensors` are sorted canonically. With `resume`, a file that is there with exactly this layout
  // is continued, and the caller vouches for the tensors written in earlier runs; any other file,
  // and any file without `resume`, is replaced. Throws Environment when the disk refuses,
  // Unsupported when the header would be longer than the format allows. REQUIRES: unique UTF-8
  // names, none `__metadata__`; sizes that are whole bytes.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorDecl> tensors,
                    bool resume = false);
  ~SafetensorsWriter();
  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;

  // True when an earlier run's file is being continued.
  bool is_resumed() const;
  // Throws Environment when the disk refuses. REQUIRES: a declared name, the declared size.
  void write(std::string_view name, std::span<const std::byte> bytes);
  // Flushes what was written so far to the device.
  void sync();
  // Flushes and closes. Throws Corrupt, naming the first, when a new file's tensors were not all
  // written; in a resumed one the earlier runs' tensors are not known, and nothing is checked.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace vernier::io
