#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <xxhash.h>

#include <cerrno>
#include <optional>
#include <unordered_map>

#include "base/check.h"
#include "base/error.h"
#include "io/descriptor.h"
#include "io/json.h"
#include "io/staging.h"

namespace vernier::io {
namespace {

constexpr size_t kHashDigits = 16;

struct Record {
  std::string key;
  Json value;
};

std::string hash_digits(std::string_view payload) {
  return fmt::format("{:016x}", hash64(payload));
}

// The record in a line without its newline, if the line is whole and ours.
std::optional<Record> parse_record(std::string_view line) {
  if (line.size() <= kHashDigits || line[kHashDigits] != ' ') return std::nullopt;
  const std::string_view payload = line.substr(kHashDigits + 1);
  if (line.substr(0, kHashDigits) != hash_digits(payload)) return std::nullopt;
  Json pair = parse_json(payload, "journal");
  if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string()) return std::nullopt;
  return Record{pair[0].get<std::string>(), std::move(pair[1])};
}

void lock(const Descriptor& file) {
  // File systems that have no locks are no reason to refuse.
  if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  throw Error(ErrorKind::kEnvironment,
              fmt::format("{}: another process is using it", file.path().string()));
}

}  // namespace

struct Journal::State {
  Descriptor file;
  int64_t end = 0;  // of the last good record
  std::unordered_map<std::string, Json> records;

  void read_records() {
    const std::string text = file.read_prefix(file.size());
    std::string_view rest = text;
    for (size_t length; (length = rest.find('\n')) != rest.npos; rest.remove_prefix(length + 1)) {
      std::optional<Record> record = parse_record(rest.substr(0, length));
      if (!record) break;
      records.insert_or_assign(std::move(record->key), std::move(record->value));
      end += static_cast<int64_t>(length) + 1;
    }
  }
};

Journal::Journal(const std::filesystem::path& path)
    : state_(std::make_unique<State>(State{Descriptor(path, O_RDWR | O_CREAT), 0, {}})) {
  Descriptor& file = state_->file;
  lock(file);
  state_->read_records();
  if (state_->end != file.size()) file.resize(state_->end);
  file.sync();
  file.sync_name();
}

Journal::~Journal() = default;
Journal::Journal(Journal&&) noexcept = default;
Journal& Journal::operator=(Journal&&) noexcept = default;

void Journal::append(std::string_view key, const Json& value) {
  VERNIER_CHECK(state_ != nullptr);
  const std::string payload = dump_json(Json::array({std::string(key), value}));
  const std::string line = fmt::format("{} {}\n", hash_digits(payload), payload);
  // At the end of the last good record, so that one a full disk cut short is overwritten.
  state_->file.write_at(state_->end, std::as_bytes(std::span(line)), "a record");
  state_->file.sync();
  state_->end += static_cast<int64_t>(line.size());
  state_->records.insert_or_assign(std::string(key), value);
}

const Json* Journal::find(std::string_view key) const {
  VERNIER_CHECK(state_ != nullptr);
  const auto found = state_->records.find(std::string(key));
  return found == state_->records.end() ? nullptr : &found->second;
}

size_t Journal::size() const {
  VERNIER_CHECK(state_ != nullptr);
  return state_->records.size();
}

void Journal::clear() {
  VERNIER_CHECK(state_ != nullptr);
  state_->file.resize(0);
  state_->file.sync();
  state_->end = 0;
  state_->records.clear();
}

uint64_t hash64(std::string_view bytes) { return XXH64(bytes.data(), bytes.size(), /*seed=*/0); }

}  // namespace vernier::io
