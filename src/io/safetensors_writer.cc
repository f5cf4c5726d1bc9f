// Writing: the layout is a function of the declarations alone, so header and offsets are known
// before the first tensor is, and a file that begins with the same header is the same file.
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <unordered_map>

#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "io/descriptor.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace vernier::io {
namespace {

constexpr size_t kLengthBytes = 8;
constexpr size_t kHeaderAlignment = 8;
constexpr std::string_view kMetadata = R"({"__metadata__":{"format":"pt"})";

struct Slot {
  int64_t offset;  // from the start of the file
  int64_t size_bytes;
  bool is_written = false;
};

struct Layout {
  std::string header;  // the length included
  int64_t file_bytes;
  std::unordered_map<std::string, Slot> slots;
};

std::string little_endian(uint64_t value) {
  std::string bytes;
  for (size_t index = 0; index < kLengthBytes; ++index) {
    bytes += static_cast<char>(value >> (8 * index) & 0xFF);
  }
  return bytes;
}

void append_entry(std::string& header, const TensorDecl& tensor, int64_t begin) {
  VERNIER_CHECK(is_valid_utf8(tensor.name));
  fmt::format_to(std::back_inserter(header),
                 R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                 Json(tensor.name).dump(), dtype_info(tensor.dtype).name,
                 fmt::join(tensor.shape, ","), begin, begin + tensor.size_bytes());
}

Layout lay_out(std::vector<TensorDecl> tensors) {
  sort_canonically(tensors);
  Layout layout;
  std::string json(kMetadata);
  int64_t n_data_bytes = 0;
  for (const TensorDecl& tensor : tensors) {
    VERNIER_CHECK(n_elems(tensor.shape) * dtype_info(tensor.dtype).bits % 8 == 0);
    VERNIER_CHECK(tensor.name != "__metadata__");
    append_entry(json, tensor, n_data_bytes);
    const Slot slot{n_data_bytes, tensor.size_bytes()};
    VERNIER_CHECK(layout.slots.emplace(tensor.name, slot).second);
    n_data_bytes += tensor.size_bytes();
  }
  json += '}';
  json.resize((json.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');
  layout.header = little_endian(json.size()) + json;

  const auto data_start = static_cast<int64_t>(layout.header.size());
  for (auto& [name, slot] : layout.slots) slot.offset += data_start;
  layout.file_bytes = data_start + n_data_bytes;
  return layout;
}

// Reserves the blocks of the whole file, so that a full disk is noticed now and not hours later.
// File systems that cannot are no error: there the writes will tell.
void reserve(const Descriptor& file, int64_t size) {
  if (::fallocate(file.get(), 0, 0, size) == 0 || errno != ENOSPC) return;
  throw Error(ErrorKind::kEnvironment,
              fmt::format("{}: cannot reserve {} bytes: {}", file.path().string(), size,
                          std::strerror(errno)));
}

bool has_layout(const Descriptor& file, const Layout& layout) {
  return file.size() == layout.file_bytes &&
         file.read_prefix(static_cast<int64_t>(layout.header.size())) == layout.header;
}

void create(Descriptor& file, const Layout& layout) {
  file.resize(0);  // nothing of another file may show through
  file.resize(layout.file_bytes);
  reserve(file, layout.file_bytes);
  file.write_at(0, std::as_bytes(std::span(layout.header)), "the header");
  file.sync_name();
}

}  // namespace

struct SafetensorsWriter::State {
  Descriptor file;
  std::unordered_map<std::string, Slot> slots;
  bool is_resumed;
};

void sort_canonically(std::vector<TensorDecl>& tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorDecl& left, const TensorDecl& right) {
    if (left.dtype != right.dtype) return left.dtype > right.dtype;
    return left.name < right.name;
  });
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::vector<TensorDecl> tensors, bool resume) {
  Layout layout = lay_out(std::move(tensors));
  const size_t header_bytes = layout.header.size() - kLengthBytes;
  if (header_bytes > kMaxHeaderBytes) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{}: {} tensors need a header of {} bytes, safetensors allows {}; use "
                            "smaller shards",
                            path.string(), layout.slots.size(), header_bytes, kMaxHeaderBytes));
  }
  Descriptor file(path, O_RDWR | O_CREAT);
  const bool is_resumed = resume && has_layout(file, layout);
  if (!is_resumed) create(file, layout);
  state_ = std::make_unique<State>(State{std::move(file), std::move(layout.slots), is_resumed});
}

SafetensorsWriter::~SafetensorsWriter() = default;
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;

bool SafetensorsWriter::is_resumed() const {
  VERNIER_CHECK(state_ != nullptr);
  return state_->is_resumed;
}

void SafetensorsWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  VERNIER_CHECK(state_ != nullptr);
  const auto found = state_->slots.find(std::string(name));
  VERNIER_CHECK(found != state_->slots.end());
  Slot& slot = found->second;
  VERNIER_CHECK(static_cast<int64_t>(bytes.size()) == slot.size_bytes);
  state_->file.write_at(slot.offset, bytes, fmt::format("tensor \"{}\"", name));
  // Starts writing back now: dirty pages stay few and the sync at the end has little left to do.
  (void)::sync_file_range(state_->file.get(), slot.offset, slot.size_bytes, SYNC_FILE_RANGE_WRITE);
  slot.is_written = true;
}

void SafetensorsWriter::sync() {
  VERNIER_CHECK(state_ != nullptr);
  state_->file.sync();
}

void SafetensorsWriter::finish() {
  VERNIER_CHECK(state_ != nullptr);
  const std::string* first_missing = nullptr;
  size_t n_missing = 0;
  for (const auto& [name, slot] : state_->slots) {
    if (slot.is_written) continue;
    ++n_missing;
    if (first_missing == nullptr || name < *first_missing) first_missing = &name;
  }
  if (n_missing > 0 && !state_->is_resumed) {
    throw Error(
        ErrorKind::kCorrupt,
        fmt::format("{}: {} of {} tensors were never written, the first is \"{}\"",
                    state_->file.path().string(), n_missing, state_->slots.size(), *first_missing));
  }
  state_->file.sync();
  state_.reset();
}

}  // namespace vernier::io
