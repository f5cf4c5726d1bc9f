// JSON by nlohmann's event parser. Our builder exists because the library's own inserts into an
// ordered object by searching it first (quadratic for a vocabulary), keeps the last of duplicate
// keys silently, and knows no non-finite numbers.
#include "io/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"

template class nlohmann::basic_json<nlohmann::ordered_map>;

namespace vernier::io {
namespace {

constexpr size_t kMaxDepth = 256;
constexpr std::string_view kFloatKey = "__float__";

struct NonFinite {
  std::string_view name;
  double value;
};
constexpr NonFinite kNonFinite[] = {
    {"Infinity", std::numeric_limits<double>::infinity()},
    {"-Infinity", -std::numeric_limits<double>::infinity()},
    {"NaN", std::numeric_limits<double>::quiet_NaN()},
};

// The text with every bare non-finite number spelled as the object {"__float__": "..."}, and where.
struct Source {
  struct Edit {
    size_t end;     // in the new text
    size_t growth;  // bytes added by it
  };

  std::string text;
  std::vector<Edit> edits;

  // The place in the original text of a place in the new one.
  size_t original_offset(size_t offset) const {
    size_t growth = 0;
    for (const Edit& edit : edits) {
      if (edit.end <= offset) growth += edit.growth;
    }
    return offset - growth;
  }
};

const NonFinite* bare_non_finite(std::string_view text) {
  for (const NonFinite& number : kNonFinite) {
    if (text.substr(0, number.name.size()) == number.name) return &number;
  }
  return nullptr;
}

// The length of the string literal that `text` starts with, its quotes included.
size_t string_literal_length(std::string_view text) {
  size_t end = 1;
  while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
  return std::min(end + 1, text.size());
}

Source spell_non_finite(std::string_view text) {
  Source source;
  if (text.find("Infinity") == text.npos && text.find("NaN") == text.npos) {
    source.text = text;
    return source;
  }
  for (size_t offset = 0; offset < text.size();) {
    const std::string_view rest = text.substr(offset);
    if (const NonFinite* number = bare_non_finite(rest)) {
      const std::string object = fmt::format(R"({{"{}":"{}"}})", kFloatKey, number->name);
      source.text += object;
      source.edits.push_back({source.text.size(), object.size() - number->name.size()});
      offset += number->name.size();
    } else {
      const size_t length = rest[0] == '"' ? string_literal_length(rest) : 1;
      source.text += rest.substr(0, length);
      offset += length;
    }
  }
  return source;
}

class Builder : public nlohmann::json_sax<Json> {
 public:
  struct Failure {
    size_t n_read = 0;  // bytes of the text, the offending one included; 0 when not known
    std::string what;
  };

  Json take_root() { return std::move(root_); }
  const Failure& failure() const { return failure_; }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return fail("unexpected binary value"); }

  bool start_object(size_t) override { return open(); }
  bool key(string_t& name) override {
    open_.back().keys.push_back(std::move(name));
    return true;
  }
  bool end_object() override {
    Open done = close();
    if (const NonFinite* number = as_non_finite(done)) return add(number->value);
    if (const std::string* key = duplicate(done.keys)) {
      return fail(fmt::format("key \"{}\" appears twice in one object", *key));
    }
    // Reserved: growing would copy the values, since the keys in an object are const.
    Json object = Json::object();
    auto& members = object.get_ref<Json::object_t&>();
    members.reserve(done.keys.size());
    for (size_t index = 0; index < done.keys.size(); ++index) {
      members.emplace_back(std::move(done.keys[index]), std::move(done.values[index]));
    }
    return add(std::move(object));
  }

  bool start_array(size_t) override { return open(); }
  bool end_array() override { return add(Json(Json::array_t(close().values))); }

  bool parse_error(size_t n_read, const std::string&,
                   const nlohmann::json::exception& error) override {
    failure_ = {n_read, describe(error.what())};
    return false;
  }

 private:
  struct Open {
    std::vector<std::string> keys;  // empty in an array
    std::vector<Json> values;
  };

  bool fail(std::string what) {
    failure_.what = std::move(what);
    return false;
  }

  bool open() {
    if (open_.size() == kMaxDepth) return fail(fmt::format("nested deeper than {}", kMaxDepth));
    open_.emplace_back();
    return true;
  }

  Open close() {
    Open done = std::move(open_.back());
    open_.pop_back();
    return done;
  }

  bool add(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else {
      open_.back().values.push_back(std::move(value));
    }
    return true;
  }

  static const NonFinite* as_non_finite(const Open& object) {
    if (object.keys.size() != 1 || object.keys[0] != kFloatKey) return nullptr;
    if (!object.values[0].is_string()) return nullptr;
    const auto& text = object.values[0].get_ref<const std::string&>();
    const NonFinite* number = bare_non_finite(text);
    return number != nullptr && number->name == text ? number : nullptr;
  }

  static const std::string* duplicate(const std::vector<std::string>& keys) {
    std::vector<const std::string*> sorted;
    sorted.reserve(keys.size());
    for (const std::string& key : keys) sorted.push_back(&key);
    std::sort(sorted.begin(), sorted.end(), [](auto* a, auto* b) { return *a < *b; });
    const auto found =
        std::adjacent_find(sorted.begin(), sorted.end(), [](auto* a, auto* b) { return *a == *b; });
    return found == sorted.end() ? nullptr : *found;
  }

  // The library's message without its exception number and its own idea of the place.
  static std::string describe(std::string_view message) {
    const auto drop_through = [&](std::string_view mark) {
      if (const size_t at = message.find(mark); at != message.npos) {
        message.remove_prefix(at + mark.size());
      }
    };
    drop_through("] ");
    if (message.substr(0, 11) == "parse error") drop_through(": ");
    return std::string(message);
  }

  std::vector<Open> open_;
  Json root_;
  Failure failure_;
};

[[noreturn]] void throw_malformed(std::string_view text, size_t offset, std::string_view origin,
                                  std::string_view what) {
  const std::string_view before = text.substr(0, offset);
  const auto n_newlines = std::count(before.begin(), before.end(), '\n');
  const size_t column = before.size() - (n_newlines == 0 ? 0 : before.rfind('\n') + 1);
  throw Error(ErrorKind::kCorrupt, fmt::format("{}:{}:{}: malformed JSON: {}", origin,
                                               n_newlines + 1, column + 1, what));
}

std::string number_text(double value) {
  for (const NonFinite& number : kNonFinite) {
    if (value == number.value) return std::string(number.name);
  }
  if (std::isnan(value)) return "NaN";
  std::string text = fmt::format("{}", value);  // the shortest that reads back as the same double
  if (text.find_first_of(".e") == text.npos) text += ".0";
  return text;
}

std::string scalar_text(const Json& value) {
  if (value.is_number_float()) return number_text(value.get<double>());
  return value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
}

class Printer {
 public:
  explicit Printer(int indent) : indent_(indent) {}

  void print(const Json& value, int depth) {
    if (value.is_object()) {
      print_members(value, "{}", depth, [&](const auto& member) {
        text_ += scalar_text(member.key()) + (indent_ < 0 ? ":" : ": ");
      });
    } else if (value.is_array()) {
      print_members(value, "[]", depth, [](const auto&) {});
    } else {
      text_ += scalar_text(value);
    }
  }
  std::string take() { return std::move(text_); }

 private:
  template <class PrintKey>
  void print_members(const Json& value, std::string_view brackets, int depth, PrintKey print_key) {
    text_ += brackets[0];
    bool is_first = true;
    for (const auto& member : value.items()) {
      if (!is_first) text_ += ',';
      is_first = false;
      new_line(depth + 1);
      print_key(member);
      print(member.value(), depth + 1);
    }
    if (!is_first) new_line(depth);
    text_ += brackets[1];
  }

  void new_line(int depth) {
    if (indent_ >= 0) text_ += '\n' + std::string(static_cast<size_t>(indent_ * depth), ' ');
  }

  int indent_;
  std::string text_;
};

}  // namespace

Json parse_json(std::string_view text, std::string_view origin) {
  const Source source = spell_non_finite(text);
  Builder builder;
  if (Json::sax_parse(source.text, &builder)) return builder.take_root();
  const Builder::Failure& failure = builder.failure();
  if (failure.n_read == 0) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: malformed JSON: {}", origin, failure.what));
  }
  throw_malformed(text, source.original_offset(failure.n_read - 1), origin, failure.what);
}

bool is_string(const Json& value, std::string_view text) {
  return value.is_string() && value.get_ref<const std::string&>() == text;
}

Json read_json(const std::filesystem::path& path) {
  return parse_json(read_file(path), path.string());
}

std::string dump_json(const Json& value, int indent) {
  Printer printer(indent);
  printer.print(value, 0);
  return printer.take();
}

}  // namespace vernier::io
