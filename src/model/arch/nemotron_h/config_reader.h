// Typed access to config.json keys that go by several names.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "io/json_fwd.h"

namespace vernier::model::nemotron_h {

// All spellings of one key, the usual one first.
using Spellings = std::initializer_list<std::string_view>;

class ConfigReader {
 public:
  ConfigReader(const io::Json& config, std::string_view origin);

  // The value under whichever spelling is there; null for none, a JSON null counting as none.
  // Throws Corrupt when two spellings hold different values.
  const io::Json* find(Spellings spellings) const;

  // A size: an integer of 1 .. 2^24, far above any release and small enough that products of two
  // cannot overflow. Without `fallback` a missing key is Corrupt.
  int64_t size(Spellings spellings, std::optional<int64_t> fallback = std::nullopt) const;
  // The same for a value already found.
  int64_t as_size(std::string_view key, const io::Json& value) const;
  double number(Spellings spellings, double fallback) const;
  bool flag(Spellings spellings, bool fallback) const;

  // Throws Unsupported when the key is there with a value that is not `only`.
  void require(std::string_view key, const io::Json& only) const;

  // "config.json: key is VALUE, expected EXPECTED"
  [[noreturn]] void reject(ErrorKind kind, std::string_view key, const io::Json& value,
                           std::string_view expected) const;
  // Throws Corrupt with `problem` after the file's name unless `holds`.
  void check(bool holds, const std::string& problem) const;

 private:
  const io::Json& config_;
  std::string origin_;
};

}  // namespace vernier::model::nemotron_h
