// Reading: the header is untrusted until every rule of the format was checked, in this order: its
// length, its JSON, each tensor by itself, then the tensors against one another and the file.
#include "io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "base/error.h"
#include "io/json.h"

namespace vernier::io {
namespace {

constexpr int64_t kLengthBytes = 8;

[[noreturn]] void corrupt(std::string_view origin, std::string_view what) {
  throw Error(ErrorKind::kCorrupt, fmt::format("{}: {}", origin, what));
}

uint64_t read_little_endian(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (int64_t index = kLengthBytes - 1; index >= 0; --index) {
    value = value << 8 | std::to_integer<uint64_t>(bytes[static_cast<size_t>(index)]);
  }
  return value;
}

// The header's text, its length checked.
std::string_view header_text(std::span<const std::byte> prefix, int64_t file_bytes,
                             std::string_view origin) {
  if (file_bytes < kLengthBytes) {
    corrupt(origin, fmt::format("is {} bytes long, expected at least the {} of the header length",
                                file_bytes, kLengthBytes));
  }
  const uint64_t length = read_little_endian(prefix.first(kLengthBytes));
  if (length > kMaxHeaderBytes) {
    corrupt(origin, fmt::format("says that its header is {} bytes long, safetensors allows {}",
                                length, kMaxHeaderBytes));
  }
  if (static_cast<int64_t>(length) > file_bytes - kLengthBytes) {
    corrupt(origin,
            fmt::format("says that its header is {} bytes long, the file holds {} after the "
                        "header length",
                        length, file_bytes - kLengthBytes));
  }
  const auto text = prefix.subspan(kLengthBytes, length);
  if (text.empty() || text[0] != std::byte{'{'}) corrupt(origin, "header does not begin with '{'");
  return {reinterpret_cast<const char*>(text.data()), text.size()};
}

// One tensor's description, with the names needed to complain about it.
class EntryParser {
 public:
  EntryParser(const std::string& name, const Json& info, std::string_view origin)
      : name_(name), info_(info), origin_(origin) {}

  TensorEntry parse() const {
    if (!info_.is_object()) fail("is not an object");
    TensorEntry entry{name_, dtype(), shape(), 0, 0};
    const std::vector<int64_t> offsets = integers("data_offsets");
    if (offsets.size() != 2) fail(fmt::format("has {} data_offsets, expected 2", offsets.size()));
    entry.begin = offsets[0];
    entry.end = offsets[1];
    check_size(entry);
    return entry;
  }

 private:
  [[noreturn]] void fail(std::string_view what) const {
    corrupt(origin_, fmt::format("tensor \"{}\" {}", name_, what));
  }

  const Json& field(std::string_view key) const {
    const auto found = info_.find(key);
    if (found == info_.end()) fail(fmt::format("has no {}", key));
    return *found;
  }

  DType dtype() const {
    const Json& value = field("dtype");
    const auto* name = value.get_ptr<const std::string*>();
    if (name == nullptr) fail("has a dtype that is not a string");
    const std::optional<DType> dtype = dtype_from_name(*name);
    if (!dtype) fail(fmt::format("has the unknown dtype \"{}\"", *name));
    return *dtype;
  }

  Shape shape() const {
    // Every partial product, also one that a later zero makes small, fits 64 bits counted in bits.
    constexpr int64_t kMaxElems = std::numeric_limits<int64_t>::max() / 64;
    Shape shape = integers("shape");
    int64_t product = 1;
    for (const int64_t dim : shape) {
      if (dim != 0 && product > kMaxElems / dim) {
        fail(
            fmt::format("has the shape {}, more elements than can be addressed", to_string(shape)));
      }
      product *= dim;
    }
    return shape;
  }

  std::vector<int64_t> integers(std::string_view key) const {
    const Json& list = field(key);
    if (!list.is_array()) fail(fmt::format("has a {} that is not a list", key));
    std::vector<int64_t> values;
    values.reserve(list.size());
    for (const Json& item : list) {
      // Non-negative integers, and only they, are parsed as unsigned.
      const bool fits =
          item.is_number_unsigned() && item.get<uint64_t>() <= std::numeric_limits<int64_t>::max();
      if (!fits) {
        fail(fmt::format("has {} in {}, expected non-negative integers", dump_json(item), key));
      }
      values.push_back(item.get<int64_t>());
    }
    return values;
  }

  void check_size(const TensorEntry& entry) const {
    const DTypeInfo& info = dtype_info(entry.dtype);
    const auto layout = [&] { return fmt::format("{} {}", info.name, to_string(entry.shape)); };
    if (n_elems(entry.shape) * info.bits % 8 != 0) {
      fail(fmt::format("is {}, which does not fill whole bytes", layout()));
    }
    const int64_t expected = n_bytes(entry.dtype, entry.shape);
    if (entry.begin > entry.end || entry.end - entry.begin != expected) {
      fail(fmt::format("has the data_offsets [{}, {}], expected {} bytes for {}", entry.begin,
                       entry.end, expected, layout()));
    }
  }

  const std::string& name_;
  const Json& info_;
  std::string_view origin_;
};

std::map<std::string, std::string> parse_metadata(const Json& object, std::string_view origin) {
  if (!object.is_object()) corrupt(origin, "__metadata__ is not an object");
  std::map<std::string, std::string> metadata;
  for (const auto& member : object.items()) {
    const auto* text = member.value().get_ptr<const std::string*>();
    if (text == nullptr) {
      corrupt(origin, fmt::format("__metadata__ key \"{}\" is not a string", member.key()));
    }
    metadata.emplace(member.key(), *text);
  }
  return metadata;
}

// Contiguous, without gap or overlap, from the first to the last byte of the data.
void check_coverage(const std::vector<TensorEntry>& entries, int64_t data_bytes,
                    std::string_view origin) {
  int64_t covered = 0;
  for (const TensorEntry& entry : entries) {
    if (entry.begin != covered) {
      corrupt(origin, fmt::format("tensor \"{}\" begins at byte {} of the data, expected {}, where "
                                  "the tensor before it ends",
                                  entry.name, entry.begin, covered));
    }
    covered = entry.end;
  }
  if (covered != data_bytes) {
    corrupt(origin, fmt::format("the tensors take {} bytes of data, the file holds {}", covered,
                                data_bytes));
  }
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> prefix, int64_t file_bytes,
                                           std::string_view origin) {
  const std::string_view text = header_text(prefix, file_bytes, origin);
  const Json document = parse_json(text, fmt::format("{} (header)", origin));
  SafetensorsHeader header;
  header.data_start = kLengthBytes + static_cast<int64_t>(text.size());
  header.entries.reserve(document.size());
  for (const auto& member : document.items()) {
    if (member.key() == "__metadata__") {
      header.metadata = parse_metadata(member.value(), origin);
    } else {
      header.entries.push_back(EntryParser(member.key(), member.value(), origin).parse());
    }
  }
  // Stable, so that empty tensors, which share an offset, stay in the order of the header.
  std::stable_sort(header.entries.begin(), header.entries.end(),
                   [](const TensorEntry& left, const TensorEntry& right) {
                     return std::pair(left.begin, left.end) < std::pair(right.begin, right.end);
                   });
  check_coverage(header.entries, file_bytes - header.data_start, origin);
  return header;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : path_(path),
      file_(path),
      header_(parse_safetensors_header(file_.bytes(), file_bytes(), path.string())) {}

TensorView SafetensorsFile::view(const TensorEntry& entry) const {
  return {entry.dtype, entry.shape, file_.bytes().data() + header_.data_start + entry.begin};
}

}  // namespace vernier::io
