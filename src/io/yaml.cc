// YAML into JSON values: yaml-cpp reads the structure, the typing of plain scalars is ours, since
// the library leaves it to whoever asks for a type.
#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "io/json.h"

namespace vernier::io {
namespace {

// Aliases share nodes in YAML but not in JSON: a few lines of text could expand without bound.
constexpr int kMaxNodes = 1'000'000;
constexpr int kMaxDepth = 256;

template <size_t N>
bool is_one_of(std::string_view text, const std::array<std::string_view, N>& words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

template <class T>
std::optional<T> from_chars(std::string_view digits, int base) {
  T value = 0;
  const char* end = digits.data() + digits.size();
  const auto result = std::from_chars(digits.data(), end, value, base);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

bool is_decimal(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == text.npos;
}

// [-+]? [0-9]+ | 0o [0-7]+ | 0x [0-9a-fA-F]+, as far as 64 bits hold it.
std::optional<Json> as_integer(std::string_view text) {
  const std::string_view prefix = text.substr(0, 2);
  if (prefix == "0o" || prefix == "0x") {
    const auto value = from_chars<uint64_t>(text.substr(2), prefix == "0o" ? 8 : 16);
    return value ? std::optional<Json>(*value) : std::nullopt;
  }
  const bool has_sign = text.substr(0, 1) == "+" || text.substr(0, 1) == "-";
  if (!is_decimal(text.substr(has_sign ? 1 : 0))) return std::nullopt;
  if (text[0] == '+') text.remove_prefix(1);  // std::from_chars knows only the minus
  if (const auto value = from_chars<int64_t>(text, 10)) return *value;
  if (const auto value = from_chars<uint64_t>(text, 10)) return *value;
  return std::nullopt;
}

// [-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?
bool is_float(std::string_view text) {
  const auto take_digits = [&] {
    const size_t n_digits = std::min(text.find_first_not_of("0123456789"), text.size());
    text.remove_prefix(n_digits);
    return n_digits;
  };
  const auto take_one_of = [&](std::string_view chars) {
    if (text.empty() || chars.find(text[0]) == chars.npos) return false;
    text.remove_prefix(1);
    return true;
  };
  take_one_of("+-");
  const size_t n_whole = take_digits();
  const size_t n_fraction = take_one_of(".") ? take_digits() : 0;
  if (n_whole + n_fraction == 0) return false;
  if (!take_one_of("eE")) return text.empty();
  take_one_of("+-");
  return take_digits() > 0 && text.empty();
}

std::optional<Json> as_special_float(std::string_view text) {
  using Limits = std::numeric_limits<double>;
  if (is_one_of<3>(text, {".nan", ".NaN", ".NAN"})) return Limits::quiet_NaN();
  const bool is_negative = text.substr(0, 1) == "-";
  if (is_negative || text.substr(0, 1) == "+") text.remove_prefix(1);
  if (!is_one_of<3>(text, {".inf", ".Inf", ".INF"})) return std::nullopt;
  return is_negative ? -Limits::infinity() : Limits::infinity();
}

class Converter {
 public:
  explicit Converter(std::string_view origin) : origin_(origin) {}

  Json convert(const YAML::Node& node, int depth = 0) {
    if (depth > kMaxDepth) fail(node, fmt::format("nested deeper than {}", kMaxDepth));
    if (++n_nodes_ > kMaxNodes) {
      fail(node, fmt::format("aliases expand to more than {} values", kMaxNodes));
    }
    switch (node.Type()) {
      case YAML::NodeType::Scalar:
        return scalar(node);
      case YAML::NodeType::Sequence:
        return sequence(node, depth);
      case YAML::NodeType::Map:
        return mapping(node, depth);
      default:
        return nullptr;
    }
  }

  [[noreturn]] void fail(int line, std::string_view what) const {
    throw Error(ErrorKind::kInvalidArgument, fmt::format("{}:{}: {}", origin_, line, what));
  }

 private:
  [[noreturn]] void fail(const YAML::Node& node, std::string_view what) const {
    fail(node.Mark().line + 1, what);
  }

  Json sequence(const YAML::Node& node, int depth) {
    check_tag(node, "tag:yaml.org,2002:seq");
    Json array = Json::array();
    for (const YAML::Node& item : node) array.push_back(convert(item, depth + 1));
    return array;
  }

  Json mapping(const YAML::Node& node, int depth) {
    check_tag(node, "tag:yaml.org,2002:map");
    Json object = Json::object();
    std::map<std::string, int> line_of_key;
    for (const auto& member : node) {
      if (!member.first.IsScalar()) fail(node, "a key is not a scalar");
      const std::string& key = member.first.Scalar();
      const int line = member.first.Mark().line + 1;
      const auto [first, is_new] = line_of_key.emplace(key, line);
      if (!is_new) {
        fail(line, fmt::format("key \"{}\" appears twice, first on line {}", key, first->second));
      }
      object.emplace(key, convert(member.second, depth + 1));
    }
    return object;
  }

  Json scalar(const YAML::Node& node) const {
    const std::string& text = node.Scalar();
    // The parser tags quoted scalars "!" and plain ones "?".
    if (node.Tag() == "!" || node.Tag() == "tag:yaml.org,2002:str") return text;
    check_tag(node, "?");
    if (is_one_of<5>(text, {"", "~", "null", "Null", "NULL"})) return nullptr;
    if (is_one_of<3>(text, {"true", "True", "TRUE"})) return true;
    if (is_one_of<3>(text, {"false", "False", "FALSE"})) return false;
    if (const auto value = as_integer(text)) return *value;
    if (const auto value = as_special_float(text)) return *value;
    if (is_float(text)) return finite(node);
    return text;
  }

  double finite(const YAML::Node& node) const {
    std::string_view text = node.Scalar();
    if (text[0] == '+') text.remove_prefix(1);
    double value = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
    if (result.ec != std::errc()) fail(node, fmt::format("{} is out of the range of double", text));
    return value;
  }

  void check_tag(const YAML::Node& node, std::string_view implied) const {
    const std::string& tag = node.Tag();
    if (tag.empty() || tag == "?" || tag == implied) return;
    fail(node, fmt::format("tag \"{}\" is not supported, only !!str is", tag));
  }

  std::string_view origin_;
  int n_nodes_ = 0;
};

}  // namespace

Json parse_yaml(std::string_view text, std::string_view origin) {
  Converter converter(origin);
  if (size_t offset = 0; !is_valid_utf8(text, &offset)) {
    const auto n_newlines =
        std::count(text.begin(), text.begin() + static_cast<long>(offset), '\n');
    converter.fail(static_cast<int>(n_newlines) + 1, "not UTF-8");
  }
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(std::string(text));
    if (documents.size() > 1) {
      converter.fail(documents[1].Mark().line + 1, "a second document begins, expected one");
    }
    return documents.empty() ? Json() : converter.convert(documents[0]);
  } catch (const YAML::Exception& error) {
    converter.fail(error.mark.line + 1, fmt::format("malformed YAML: {}", error.msg));
  }
}

}  // namespace vernier::io
