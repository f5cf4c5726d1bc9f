#include "model/arch/nemotron_h/config_reader.h"

#include <fmt/format.h>

#include <cmath>

#include "io/json.h"

namespace vernier::model::nemotron_h {

namespace {

constexpr int64_t kMaxSize = int64_t{1} << 24;

}  // namespace

ConfigReader::ConfigReader(const io::Json& config, std::string_view origin)
    : config_(config), origin_(origin) {
  if (!config.is_object()) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: expected a JSON object", origin));
  }
}

const io::Json* ConfigReader::find(Spellings spellings) const {
  const io::Json* found = nullptr;
  std::string_view found_key;
  for (std::string_view key : spellings) {
    const auto it = config_.find(std::string(key));
    if (it == config_.end() || it->is_null()) continue;
    if (found != nullptr && *found != *it) {
      throw Error(ErrorKind::kCorrupt,
                  fmt::format("{}: {} is {} but {} is {}; they are two spellings of one value",
                              origin_, found_key, found->dump(), key, it->dump()));
    }
    if (found == nullptr) {
      found = &*it;
      found_key = key;
    }
  }
  return found;
}

int64_t ConfigReader::size(Spellings spellings, std::optional<int64_t> fallback) const {
  const std::string_view key = *spellings.begin();
  const io::Json* value = find(spellings);
  if (value == nullptr) {
    check(fallback.has_value(), fmt::format("{} is missing", key));
    return *fallback;
  }
  return as_size(key, *value);
}

int64_t ConfigReader::as_size(std::string_view key, const io::Json& value) const {
  // Compared as doubles, since an unsigned 64-bit value would wrap as int64_t.
  if (!value.is_number_integer() || value.get<double>() < 1 || value.get<double>() > kMaxSize) {
    reject(ErrorKind::kCorrupt, key, value, fmt::format("an integer of 1 to {}", kMaxSize));
  }
  return value.get<int64_t>();
}

double ConfigReader::number(Spellings spellings, double fallback) const {
  const io::Json* value = find(spellings);
  if (value == nullptr) return fallback;
  if (!value->is_number() || !std::isfinite(value->get<double>())) {
    reject(ErrorKind::kCorrupt, *spellings.begin(), *value, "a finite number");
  }
  return value->get<double>();
}

bool ConfigReader::flag(Spellings spellings, bool fallback) const {
  const io::Json* value = find(spellings);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    reject(ErrorKind::kCorrupt, *spellings.begin(), *value, "true or false");
  }
  return value->get<bool>();
}

void ConfigReader::require(std::string_view key, const io::Json& only) const {
  const io::Json* value = find({key});
  if (value != nullptr && *value != only) {
    reject(ErrorKind::kUnsupported, key, *value,
           fmt::format("{} (nothing else is implemented)", only.dump()));
  }
}

void ConfigReader::reject(ErrorKind kind, std::string_view key, const io::Json& value,
                          std::string_view expected) const {
  throw Error(kind, fmt::format("{}: {} is {}, expected {}", origin_, key, value.dump(), expected));
}

void ConfigReader::check(bool holds, const std::string& problem) const {
  if (!holds) throw Error(ErrorKind::kCorrupt, fmt::format("{}: {}", origin_, problem));
}

}  // namespace vernier::model::nemotron_h
