#include "runtime/layout_plan_rates.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "io/json.h"

namespace vernier::runtime {
namespace {

struct Row {
  std::string_view key;
  double MachineRates::*value;
};

constexpr Row kRows[] = {
    {"forward_flop_per_s", &MachineRates::forward_flop_per_s},
    {"load_bytes_per_s", &MachineRates::load_bytes_per_s},
    {"encode_bytes_per_s", &MachineRates::encode_bytes_per_s},
    {"write_bytes_per_s", &MachineRates::write_bytes_per_s},
    {"reserve_bytes_per_s", &MachineRates::reserve_bytes_per_s},
    {"sum_bytes_per_s", &MachineRates::sum_bytes_per_s},
    {"exchange_bytes_per_s", &MachineRates::exchange_bytes_per_s},
    {"between_machines_bytes_per_s", &MachineRates::between_machines_bytes_per_s},
    {"collective_s", &MachineRates::collective_s},
    {"start_s", &MachineRates::start_s},
};

std::string known_keys() {
  std::string keys;
  for (const Row& row : kRows) keys += fmt::format("{}{}", keys.empty() ? "" : ", ", row.key);
  return keys;
}

double positive(const std::string& key, const io::Json& value, std::string_view origin) {
  const double number = value.is_number() ? value.get<double>() : 0;
  if (number > 0 && std::isfinite(number)) return number;
  throw Error(ErrorKind::kInvalidArgument, fmt::format("{}: {} is {}, expected a positive number",
                                                       origin, key, io::dump_json(value)));
}

}  // namespace

MachineRates read_rates(const io::Json& json, std::string_view origin) {
  if (!json.is_object()) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{}: expected an object of rates by name: {}", origin, known_keys()));
  }
  MachineRates rates;
  for (const auto& [key, value] : json.items()) {
    const auto row = std::ranges::find(kRows, key, &Row::key);
    if (row == std::end(kRows)) {
      throw Error(ErrorKind::kInvalidArgument,
                  fmt::format("{}: {} is no rate, expected one of: {}", origin, key, known_keys()));
    }
    rates.*row->value = positive(key, value, origin);
  }
  return rates;
}

io::Json to_json(const MachineRates& rates) {
  io::Json json;
  for (const Row& row : kRows) json[std::string(row.key)] = rates.*row.value;
  json["devices_per_machine"] = rates.devices_per_machine;
  return json;
}

}  // namespace vernier::runtime
