#include "search/gemm_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "search/versioned_json.h"

namespace vernier::search {
namespace {

constexpr int kVersion = 1;

const GemmRow& row_of(const GemmTable& table, const LinearShape& shape, bool is_routed,
                      const Candidate* candidate) {
  const GemmRow* row = table.find(shape.n, shape.k, is_routed, candidate);
  if (row != nullptr) return *row;
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("the table of products has no row for {} weights of {} x {}{} with {} "
                          "inputs; make one for this model with vernier bench --gemm-table",
                          weight_format_name(candidate), shape.n, shape.k,
                          is_routed ? " of routed experts" : "", input_format_name(candidate)));
}

io::Json to_json(const GemmRow& row) {
  return {{"weight", row.weight_format},
          {"input", row.input_format},
          {"n", row.n},
          {"k", row.k},
          {"routed", row.is_routed},
          {"prefill_tokens", row.prefill_tokens},
          {"decode_tokens", row.decode_tokens},
          {"prefill_seconds", row.prefill_seconds},
          {"decode_seconds", row.decode_seconds}};
}

GemmRow row_from_json(const io::Json& json) {
  return {.weight_format = json.at("weight"),
          .input_format = json.at("input"),
          .n = json.at("n"),
          .k = json.at("k"),
          .is_routed = json.at("routed"),
          .prefill_tokens = json.at("prefill_tokens"),
          .decode_tokens = json.at("decode_tokens"),
          .prefill_seconds = json.at("prefill_seconds"),
          .decode_seconds = json.at("decode_seconds")};
}

GemmTable from_json(const io::Json& json) {
  GemmTable table{.device = json.at("device"),
                  .prefill_tokens = json.at("prefill_tokens"),
                  .decode_tokens = json.at("decode_tokens"),
                  .rows = {}};
  for (const io::Json& row : json.at("rows")) table.rows.push_back(row_from_json(row));
  return table;
}

// What the arithmetic of budgets relies on.
void check_values(const GemmTable& table, const std::filesystem::path& path) {
  const auto fail = [&](const std::string& what) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: {}", path.string(), what));
  };
  if (table.prefill_tokens < 1 || table.decode_tokens < 1) {
    fail(fmt::format("steps of {} and {} tokens, expected at least 1", table.prefill_tokens,
                     table.decode_tokens));
  }
  for (const GemmRow& row : table.rows) {
    const auto is_time = [](double seconds) { return std::isfinite(seconds) && seconds > 0; };
    if (is_time(row.prefill_seconds) && is_time(row.decode_seconds)) continue;
    fail(fmt::format("{} weights of {} x {} take {:g} and {:g} s, expected times above 0",
                     row.weight_format, row.n, row.k, row.prefill_seconds, row.decode_seconds));
  }
}

}  // namespace

std::string weight_format_name(const Candidate* candidate) {
  if (candidate == nullptr || !candidate->weight) return std::string(formats::bf16_format().name);
  return std::string(candidate->weight->format->name);
}

std::string input_format_name(const Candidate* candidate) {
  if (candidate == nullptr || !candidate->input) return "none";
  return std::string(candidate->input->format->name);
}

Traffic traffic_of(double active_share, int64_t step_tokens) {
  const auto tokens = static_cast<double>(step_tokens);
  // A linear stays unvisited when every token passes it by.
  const double visited = 1 - std::pow(1 - active_share, tokens);
  return {visited, std::max<int64_t>(1, std::llround(tokens * active_share / visited))};
}

const GemmRow* GemmTable::find(int64_t n, int64_t k, bool is_routed,
                               const Candidate* candidate) const {
  const std::string weight = weight_format_name(candidate);
  const std::string input = input_format_name(candidate);
  const auto found = std::ranges::find_if(rows, [&](const GemmRow& row) {
    return row.n == n && row.k == k && row.is_routed == is_routed && row.weight_format == weight &&
           row.input_format == input;
  });
  return found == rows.end() ? nullptr : &*found;
}

double GemmTable::seconds(const ScoredGroup& group, const Candidate* candidate,
                          ServingPhase phase) const {
  double total = 0;
  for (const LinearShape& shape : group.shapes) {
    const double visited = traffic_of(shape.active_share, tokens(phase)).visited_share;
    const GemmRow& row = row_of(*this, shape, group.is_routed, candidate);
    total += static_cast<double>(shape.count) * visited * row.seconds(phase);
  }
  return total;
}

void write_gemm_table(const GemmTable& table, const std::filesystem::path& path) {
  io::Json rows = io::Json::array();
  for (const GemmRow& row : table.rows) rows.push_back(to_json(row));
  const io::Json document = {{"version", kVersion},
                             {"device", table.device},
                             {"prefill_tokens", table.prefill_tokens},
                             {"decode_tokens", table.decode_tokens},
                             {"rows", rows}};
  write_file(path, document.dump(1) + "\n");
}

GemmTable read_gemm_table(const std::filesystem::path& path) {
  return read_versioned(path, kVersion, "no table of products", "a table of products",
                        [&](const io::Json& json) {
                          const GemmTable table = from_json(json);
                          check_values(table, path);
                          return table;
                        });
}

}  // namespace vernier::search
