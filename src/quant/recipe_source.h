// The files behind a recipe: found among the shipped ones or on disk, parsed, their `$import`s
// resolved. A Node is one value of such a file and knows its place, so that every complaint can
// name it.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/json.h"

namespace vernier::quant {

struct RecipeFile {
  std::string name;              // for errors and tables: "recipes/units/base_disable_all.yaml"
  std::filesystem::path folder;  // where its own imports may lie; empty for a shipped file
  std::map<std::string, std::string> imports;     // alias -> path without suffix
  io::Json body;                                  // without its imports
  std::shared_ptr<const RecipeFile> imported_by;  // null for the recipe itself
};
using RecipeFilePtr = std::shared_ptr<const RecipeFile>;

class Fields;

class Node {
 public:
  Node(RecipeFilePtr file, io::Json value, std::string place)
      : file_(std::move(file)), value_(std::move(value)), place_(std::move(place)) {}

  const RecipeFile& file() const { return *file_; }
  const io::Json& value() const { return value_; }
  bool is_null() const { return value_.is_null(); }
  bool is_mapping() const { return value_.is_object(); }
  bool is_list() const { return value_.is_array(); }
  bool is_string() const { return value_.is_string(); }

  // The value as the given type; throws when it is another.
  std::string string() const;
  bool boolean() const;
  double number() const;
  // The members of a mapping. A `$import` member brings in those of another file first; the others
  // override them.
  Fields fields() const;
  // The items of a list, an item `$import: alias` replaced by the imported items or item.
  std::vector<Node> items() const;

  // Throws "recipe.yaml: quantize.quant_cfg[2].cfg: <what>".
  [[noreturn]] void fail(const std::string& what) const { fail(ErrorKind::kInvalidArgument, what); }
  [[noreturn]] void fail(ErrorKind kind, const std::string& what) const;

 private:
  friend class Fields;
  [[noreturn]] void fail_type(std::string_view expected) const;
  Node member(const std::string& key) const;
  Node import(const Node& alias) const;
  void append_members(Fields& out) const;

  RecipeFilePtr file_;
  io::Json value_;
  std::string place_;
};

class Fields {
 public:
  explicit Fields(Node self) : self_(std::move(self)) {}

  // Null when there is no such member.
  const Node* find(std::string_view key) const;
  // Throws when a member is missing, or is none of `known`.
  const Node& require(std::string_view key) const;
  void allow_only(std::span<const std::string_view> known) const;

  bool empty() const { return members_.empty(); }
  const std::vector<std::pair<std::string, Node>>& all() const& { return members_; }
  void all() && = delete;  // a loop over it would outlive the members
  const Node& self() const { return self_; }

 private:
  friend class Node;
  Node self_;
  std::vector<std::pair<std::string, Node>> members_;
};

// A recipe by shipped name, alias (MAMBA_MOE_FP8_AGGRESSIVE_CFG) or path, as its top-level node.
// Throws NotFound listing the shipped names.
Node open_recipe(std::string_view name_or_path);
// A shipped file below recipes/ without suffix ("kv/fp8"), absent when there is none.
std::optional<Node> open_shipped(std::string_view path);
// The names of the shipped files in a folder below recipes/ ("kv"; "" for the recipes themselves),
// without folder and suffix, in alphabetical order.
std::vector<std::string> shipped_names(std::string_view folder);

}  // namespace vernier::quant
