#include "kernels/plan_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "base/file.h"

namespace vernier::kernels {
namespace {

constexpr std::string_view kMachineKey = R"({"machine": ")";
constexpr std::string_view kProductKey = R"({"product": ")";
constexpr std::string_view kAlgorithmKey = R"(", "algorithm": ")";
constexpr std::string_view kEnd = R"("})";

bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == ' ' ||
         c == '_';
}

std::string plain(std::string text) {
  std::ranges::replace_if(
      text, [](char c) { return !is_plain(c); }, ' ');
  return text;
}

std::optional<std::string> environment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

std::string machine_line(const std::string& machine) {
  return fmt::format("{}{}{}\n", kMachineKey, plain(machine), kEnd);
}

// Takes `prefix` off the text's front, or says that it is not there.
bool skip(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

// The plain text that the line goes on with.
std::string take_plain(std::string_view& line) {
  const auto end = std::ranges::find_if_not(line, is_plain);
  std::string text(line.begin(), end);
  line.remove_prefix(text.size());
  return text;
}

// Nothing unless the line has exactly the form in which plans are written.
std::optional<PlanTable::value_type> parse_line(std::string_view line) {
  if (!skip(line, kProductKey)) return std::nullopt;
  const std::string product = take_plain(line);
  if (!skip(line, kAlgorithmKey)) return std::nullopt;
  std::string algorithm = take_plain(line);
  if (line != kEnd) return std::nullopt;
  return PlanTable::value_type{product, std::move(algorithm)};
}

PlanTable parse(std::string_view text, const std::string& machine) {
  PlanTable plans;
  if (!skip(text, machine_line(machine))) return plans;
  while (!text.empty()) {
    const size_t length = text.find('\n');
    if (length == text.npos) break;  // cut off
    if (auto plan = parse_line(text.substr(0, length))) plans.insert(std::move(*plan));
    text.remove_prefix(length + 1);
  }
  return plans;
}

// Under a name of its own first, so that readers see the old file or the new one, whole.
void replace_file(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::filesystem::path temporary = path;
  temporary += fmt::format(".{}", ::getpid());
  write_file(temporary, text);
  std::filesystem::rename(temporary, path);
}

}  // namespace

std::filesystem::path plan_directory() {
  if (const auto cache = environment("XDG_CACHE_HOME")) {
    return std::filesystem::path(*cache) / "vernier";
  }
  const auto home = environment("HOME");
  return home ? std::filesystem::path(*home) / ".cache" / "vernier" : std::filesystem::path();
}

std::filesystem::path plan_path(const std::string& machine) {
  const std::filesystem::path directory = plan_directory();
  if (directory.empty()) return directory;
  std::string name = plain(machine);
  std::ranges::replace(name, ' ', '-');
  return directory / fmt::format("products-{}.jsonl", name);
}

PlanTable load_plans(const std::filesystem::path& path, const std::string& machine) {
  if (path.empty()) return {};
  try {
    return parse(read_file(path), machine);
  } catch (const Error&) {
    return {};
  }
}

void save_plans(const std::filesystem::path& path, const std::string& machine,
                const PlanTable& plans) {
  if (path.empty()) return;
  PlanTable all = plans;
  all.merge(load_plans(path, machine));
  std::string text = machine_line(machine);
  for (const auto& [product, algorithm] : all) {
    text += fmt::format("{}{}{}{}{}\n", kProductKey, product, kAlgorithmKey, algorithm, kEnd);
  }
  try {
    replace_file(path, text);
  } catch (const Error&) {
    return;  // searched again next time
  } catch (const std::filesystem::filesystem_error&) {
    return;
  }
}

}  // namespace vernier::kernels
