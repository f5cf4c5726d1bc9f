// vernier inspect: what is in a checkpoint; --verify: whether servers would load it.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "cli/command.h"
#include "cli/model_path.h"
#include "export/inspect.h"
#include "io/json.h"
#include "report/table.h"
#include "report/units.h"

namespace vernier::cli {
namespace {

struct Flags {
  std::string directory;
  bool json = false;
  bool verify = false;
};

std::string scale_range(const exporting::ModuleRow& row) {
  if (row.max_block_scale > 0) {
    return fmt::format("{:.3g} x {:.3g}..{:.3g}", row.global_scale, row.min_block_scale,
                       row.max_block_scale);
  }
  return row.global_scale > 0 ? fmt::format("{:.3g}", row.global_scale) : "-";
}

std::string format_name(const exporting::ModuleRow& row) {
  return row.input_format.empty() ? row.format : row.format + " / " + row.input_format;
}

void print_modules(const exporting::Inspection& inspection, Console& console) {
  std::vector<std::vector<std::string>> rows;
  for (const exporting::ModuleRow& row : inspection.modules) {
    rows.push_back({row.name, format_name(row), fmt::format("{:.2f}", row.bits_per_weight),
                    report::format_bytes(row.bytes), scale_range(row)});
  }
  console.print(report::format_table({{"module", report::Align::kLeft, true},
                                      {"weight / input", report::Align::kLeft},
                                      {"bits"},
                                      {"bytes"},
                                      {"scales", report::Align::kLeft}},
                                     rows, console.table_width()));
  console.print(fmt::format("{} tensors, {}, {:.2f} bits per weight, KV cache {}",
                            report::format_count(inspection.n_tensors),
                            report::format_bytes(inspection.size_bytes), inspection.bits_per_weight,
                            inspection.kv_format.empty() ? "unquantized" : inspection.kv_format));
}

int verify(const std::filesystem::path& directory, bool json, Console& console) {
  const std::vector<std::string> violations = exporting::verify_checkpoint(directory);
  if (json) {
    console.print(io::Json{{"violations", violations}}.dump(2));
  } else {
    for (const std::string& violation : violations) console.print(violation);
    console.print(violations.empty()
                      ? fmt::format("{}: loads by every requirement checked", directory.string())
                      : fmt::format("{}: {} violations", directory.string(), violations.size()));
  }
  return violations.empty() ? 0 : 1;
}

int run(const Flags& flags, Console& console) {
  const std::filesystem::path directory = find_model(flags.directory);
  if (flags.verify) return verify(directory, flags.json, console);
  const exporting::Inspection inspection = exporting::inspect_checkpoint(directory);
  if (flags.json) {
    console.print(exporting::to_json(inspection).dump(2));
  } else {
    print_modules(inspection, console);
  }
  return 0;
}

}  // namespace

Action declare_inspect(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  app.add_option("directory", flags->directory, "checkpoint directory, or a cached id")->required();
  app.add_flag("--json", flags->json, "the same for programs");
  app.add_flag("--verify", flags->verify,
               "check it as vLLM, SGLang and TensorRT-LLM would load it; exits 1 with every "
               "violation named");
  return [flags](Console& console, const comm::Communicator&) { return run(*flags, console); };
}

}  // namespace vernier::cli
