#include "quant/recipe_source.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "base/embedded.h"
#include "base/file.h"
#include "quant/nearest.h"

namespace vernier {
std::span<const EmbeddedFile> embedded_recipes();
}  // namespace vernier

namespace vernier::quant {
namespace {

namespace fs = std::filesystem;
using io::Json;
using Rename = std::pair<std::string_view, std::string_view>;

constexpr std::string_view kShippedFolder = "recipes/";
constexpr std::string_view kSuffix = ".yaml";
constexpr std::string_view kImport = "$import";
constexpr int kMaxImportDepth = 32;

// Where Model Optimizer keeps the files that ours correspond to, so that its recipes' imports
// resolve.
constexpr std::array<Rename, 5> kPeerFolders = {{
    {"configs/numerics/", "numerics/"},
    {"configs/ptq/units/kv_", "kv/"},
    {"configs/ptq/units/", "units/"},
    {"configs/ptq/presets/kv/", "kv/"},
    {"configs/ptq/presets/model/", ""},
}};

// Its names for recipes that are called otherwise here.
constexpr std::array<Rename, 3> kPeerNames = {{
    {"fp8_default", "fp8"},
    {"nvfp4_default", "nvfp4"},
    {"nvfp4_w4a4_weight_mse_fp8_sweep", "nvfp4_sweep"},
}};

std::string without_peer_folder(std::string_view path) {
  for (const auto& [theirs, ours] : kPeerFolders) {
    if (path.substr(0, theirs.size()) == theirs) {
      return fmt::format("{}{}", ours, path.substr(theirs.size()));
    }
  }
  return std::string(path);
}

// MAMBA_MOE_FP8_AGGRESSIVE_CFG -> mamba_moe_fp8_aggressive: the constants of the Python interface.
std::string recipe_name(std::string_view name) {
  std::string result(name);
  constexpr std::string_view kConstantSuffix = "_CFG";
  if (name.size() > kConstantSuffix.size() &&
      name.substr(name.size() - kConstantSuffix.size()) == kConstantSuffix) {
    result.resize(result.size() - kConstantSuffix.size());
    std::transform(result.begin(), result.end(), result.begin(),
                   [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  }
  for (const auto& [theirs, ours] : kPeerNames) {
    if (result == theirs) return std::string(ours);
  }
  return result;
}

bool is_document_marker(std::string_view line) {
  return line.substr(0, 3) == "---" && line.find_first_not_of(" \t\r", 3) == line.npos;
}

bool is_blank_or_comment(std::string_view line) {
  const size_t first = line.find_first_not_of(" \t\r");
  return first == line.npos || line[first] == '#';
}

// A list that needs imports stands in a second document, below a `---`. Documents are padded with
// the lines before them, so that a parser's line numbers are the file's.
std::vector<std::string> split_documents(std::string_view text) {
  std::vector<std::string> documents(1);
  bool has_content = false;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    if (is_document_marker(line)) {
      const std::string padding(static_cast<size_t>(std::count(
                                    text.begin(), text.begin() + static_cast<long>(end), '\n')),
                                '\n');
      if (!has_content) documents.clear();
      documents.push_back(padding);
      has_content = false;
    } else {
      has_content = has_content || !is_blank_or_comment(line);
      documents.back().append(line);
    }
    documents.back().push_back('\n');
    begin = end + 1;
  }
  return documents;
}

void read_imports(RecipeFile& file, const Json& imports) {
  const auto fail = [&](std::string_view what) {
    throw Error(ErrorKind::kInvalidArgument, fmt::format("{}: imports: {}", file.name, what));
  };
  if (imports.is_null()) return;
  if (!imports.is_object()) fail("expected a mapping of aliases to paths");
  for (const auto& [alias, path] : imports.items()) {
    if (!path.is_string()) fail(fmt::format("\"{}\": expected a path", alias));
    file.imports[alias] = path.get<std::string>();
  }
}

RecipeFilePtr parse_file(std::string name, fs::path folder, std::string_view text,
                         RecipeFilePtr imported_by) {
  RecipeFile file{std::move(name), std::move(folder), {}, {}, std::move(imported_by)};
  const std::vector<std::string> documents = split_documents(text);
  if (documents.size() > 2) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{}: {} YAML documents, expected one, or one that holds only imports "
                            "and the list that uses them",
                            file.name, documents.size()));
  }
  file.body = io::parse_yaml(documents.back(), file.name);
  Json header = documents.size() == 2 ? io::parse_yaml(documents.front(), file.name) : Json();
  if (header.is_object() && (header.size() != 1 || !header.contains("imports"))) {
    throw Error(
        ErrorKind::kInvalidArgument,
        fmt::format("{}: the first of two YAML documents may hold only imports", file.name));
  }
  Json& holder = header.is_object() ? header : file.body;
  if (holder.is_object() && holder.contains("imports")) {
    read_imports(file, holder["imports"]);
    holder.erase("imports");
  }
  return std::make_shared<const RecipeFile>(std::move(file));
}

// The file itself or with a suffix; absent when there is none.
std::optional<fs::path> find_on_disk(const fs::path& path) {
  for (const char* suffix : {"", ".yaml", ".yml"}) {
    fs::path candidate = path;
    candidate += suffix;
    if (fs::is_regular_file(candidate)) return candidate;
  }
  return std::nullopt;
}

RecipeFilePtr find_shipped(std::string_view path, RecipeFilePtr imported_by) {
  const std::string name = fmt::format("{}{}{}", kShippedFolder, path, kSuffix);
  for (const EmbeddedFile& file : embedded_recipes()) {
    if (file.name == name) return parse_file(name, {}, file.text, std::move(imported_by));
  }
  return nullptr;
}

RecipeFilePtr read_from_disk(const fs::path& path, RecipeFilePtr imported_by) {
  const fs::path normal = path.lexically_normal();
  const fs::path folder = normal.has_parent_path() ? normal.parent_path() : fs::path(".");
  return parse_file(normal.string(), folder, read_file(path), std::move(imported_by));
}

void check_no_cycle(const RecipeFilePtr& file, const Node& alias) {
  int depth = 0;
  for (const RecipeFile* up = file->imported_by.get(); up; up = up->imported_by.get()) {
    if (up->name == file->name) {
      alias.fail(fmt::format("imports {}, which leads back here: a cycle", file->name));
    }
    if (++depth > kMaxImportDepth) {
      alias.fail(fmt::format("imports nest deeper than {}", kMaxImportDepth));
    }
  }
}

}  // namespace

void Node::fail(ErrorKind kind, const std::string& what) const {
  const std::string_view separator = place_.empty() ? "" : ": ";
  throw Error(kind, fmt::format("{}: {}{}{}", file_->name, place_, separator, what));
}

void Node::fail_type(std::string_view expected) const {
  fail(fmt::format("found {}, expected {}", value_.dump(), expected));
}

std::string Node::string() const {
  if (!value_.is_string()) fail_type("a string");
  return value_.get<std::string>();
}

bool Node::boolean() const {
  if (!value_.is_boolean()) fail_type("true or false");
  return value_.get<bool>();
}

double Node::number() const {
  if (!value_.is_number()) fail_type("a number");
  return value_.get<double>();
}

Node Node::member(const std::string& key) const {
  return {file_, value_.at(key), place_.empty() ? key : fmt::format("{}.{}", place_, key)};
}

Node Node::import(const Node& alias) const {
  const std::string name = alias.string();
  const auto found = file_->imports.find(name);
  if (found == file_->imports.end()) {
    std::vector<std::string_view> known;
    for (const auto& [key, path] : file_->imports) known.push_back(key);
    alias.fail(
        fmt::format("\"{}\" is not among the file's imports{}", name, did_you_mean(name, known)));
  }
  const std::string path = without_peer_folder(found->second);
  RecipeFilePtr file = find_shipped(path, file_);
  if (!file && !file_->folder.empty()) {
    if (const auto on_disk = find_on_disk(file_->folder / found->second)) {
      file = read_from_disk(*on_disk, file_);
    }
  }
  if (!file) {
    const std::string beside =
        file_->folder.empty() ? "" : fmt::format(" and in no file beside {}", file_->name);
    alias.fail(
        ErrorKind::kNotFound,
        fmt::format("the import \"{}\" is not among the shipped recipes{}", found->second, beside));
  }
  check_no_cycle(file, alias);
  return {file, file->body, ""};
}

void Node::append_members(Fields& out) const {
  if (!is_mapping()) fail_type("a mapping");
  if (value_.contains(kImport)) import(member(std::string(kImport))).append_members(out);
  for (const auto& [key, value] : value_.items()) {
    if (key == kImport) continue;
    std::erase_if(out.members_, [&name = key](const auto& entry) { return entry.first == name; });
    out.members_.emplace_back(key, member(key));
  }
}

Fields Node::fields() const {
  Fields result(*this);
  append_members(result);
  return result;
}

std::vector<Node> Node::items() const {
  if (!is_list()) fail_type("a list");
  std::vector<Node> result;
  for (size_t index = 0; index < value_.size(); ++index) {
    Node item(file_, value_[index], fmt::format("{}[{}]", place_, index));
    if (!item.is_mapping() || item.value_.size() != 1 || !item.value_.contains(kImport)) {
      result.push_back(std::move(item));
      continue;
    }
    const Node imported = item.import(item.member(std::string(kImport)));
    if (!imported.is_list()) {
      result.push_back(imported);
      continue;
    }
    const std::vector<Node> spliced = imported.items();
    result.insert(result.end(), spliced.begin(), spliced.end());
  }
  return result;
}

const Node* Fields::find(std::string_view key) const {
  for (const auto& [name, node] : members_) {
    if (name == key) return &node;
  }
  return nullptr;
}

const Node& Fields::require(std::string_view key) const {
  const Node* node = find(key);
  if (!node) self_.fail(fmt::format("the key \"{}\" is missing", key));
  return *node;
}

void Fields::allow_only(std::span<const std::string_view> known) const {
  for (const auto& [key, node] : members_) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const std::string hint = did_you_mean(key, known);
    const std::string all = fmt::format("; known are {}", fmt::join(known, ", "));
    node.fail("unknown key" + (hint.empty() ? all : hint));
  }
}

std::vector<std::string> shipped_names(std::string_view folder) {
  const std::string prefix =
      fmt::format("{}{}{}", kShippedFolder, folder, folder.empty() ? "" : "/");
  std::vector<std::string> names;
  for (const EmbeddedFile& file : embedded_recipes()) {
    if (file.name.substr(0, prefix.size()) != prefix) continue;
    const std::string_view rest = file.name.substr(prefix.size());
    if (rest.find('/') != rest.npos) continue;
    names.emplace_back(rest.substr(0, rest.size() - kSuffix.size()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<Node> open_shipped(std::string_view path) {
  const RecipeFilePtr file = find_shipped(path, nullptr);
  if (!file) return std::nullopt;
  return Node(file, file->body, "");
}

Node open_recipe(std::string_view name_or_path) {
  const std::vector<std::string> names = shipped_names("");
  const std::string name = recipe_name(without_peer_folder(name_or_path));
  if (std::find(names.begin(), names.end(), name) != names.end()) return *open_shipped(name);
  if (const auto path = find_on_disk(name_or_path)) {
    const RecipeFilePtr file = read_from_disk(*path, nullptr);
    return {file, file->body, ""};
  }
  const std::vector<std::string_view> known(names.begin(), names.end());
  throw Error(ErrorKind::kNotFound,
              fmt::format("\"{}\" is neither a shipped recipe nor a file{}; shipped are {}",
                          name_or_path, did_you_mean(name, known), fmt::join(names, ", ")));
}

}  // namespace vernier::quant
