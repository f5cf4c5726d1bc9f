#include "text/json_lines.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "text/dataset.h"

namespace vernier::text {
namespace {

using Json = nlohmann::json;

[[noreturn]] void invalid(std::string message) {
  throw Error(ErrorKind::kInvalidArgument, std::move(message));
}

[[noreturn]] void unsupported(std::string message) {
  throw Error(ErrorKind::kUnsupported, std::move(message));
}

// The value at `key`, null where there is none.
const Json& field(const Json& object, std::string_view key) {
  static const Json kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

std::string string_field(const Json& object, std::string_view key) {
  const Json& value = field(object, key);
  if (!value.is_string()) {
    invalid(fmt::format("the field '{}' is of type {}, expected a string", key, value.type_name()));
  }
  return value.get<std::string>();
}

std::string optional_string_field(const Json& object, std::string_view key) {
  return field(object, key).is_null() ? std::string() : string_field(object, key);
}

void refuse_tools(const Json& object, std::string_view key) {
  const Json& value = field(object, key);
  if (!value.is_null() && !value.empty()) {
    unsupported(
        fmt::format("has '{}'; chats with tools are not implemented, leave them out or give "
                    "their rendered form as 'text'",
                    key));
  }
}

ChatMessage read_message(const Json& message) {
  if (!message.is_object()) {
    invalid(
        fmt::format("'messages' holds a value of type {}, expected objects with 'role' and "
                    "'content'",
                    message.type_name()));
  }
  refuse_tools(message, "tool_calls");
  if (field(message, "content").is_array()) {
    unsupported("a message's 'content' is a list of parts; only a string is implemented");
  }
  return {string_field(message, "role"), optional_string_field(message, "content"),
          optional_string_field(message, "reasoning_content")};
}

std::string read_chat(const Json& object) {
  const Json& messages = object.at("messages");
  if (!messages.is_array() || messages.empty()) {
    invalid("the field 'messages' is expected to be a list with at least one message");
  }
  refuse_tools(object, "tools");
  std::vector<ChatMessage> chat;
  for (const Json& message : messages) chat.push_back(read_message(message));
  return format_chat(chat);
}

std::string names_of_fields(const Json& object) {
  std::string names;
  for (const auto& [key, value] : object.items()) {
    names += (names.empty() ? "'" : ", '") + key + "'";
  }
  return names.empty() ? "none" : names;
}

std::string read_document(const Json& object) {
  if (object.contains("text")) return string_field(object, "text");
  if (object.contains("messages")) return read_chat(object);
  if (object.contains("input")) {
    const std::string input = string_field(object, "input");
    return object.contains("output") ? input + "\n" + string_field(object, "output") : input;
  }
  invalid(fmt::format("found the fields {}; expected 'text', 'messages', or 'input' and 'output'",
                      names_of_fields(object)));
}

std::string parse_line(std::string_view line) {
  size_t offset = 0;
  if (!is_valid_utf8(line, &offset)) {
    invalid(fmt::format("byte {} of the line is not valid UTF-8", offset));
  }
  Json object;
  try {
    object = Json::parse(line.begin(), line.end());
  } catch (const Json::parse_error& error) {
    invalid(fmt::format("is not valid JSON at byte {} of the line; expected one object a line",
                        error.byte));
  } catch (const Json::exception& error) {  // a number beyond a double
    invalid(fmt::format("is not readable as JSON: {}", error.what()));
  }
  if (!object.is_object()) {
    invalid(
        fmt::format("holds a value of type {}, expected one object a line (jq -c '.[]' turns a "
                    "list into lines)",
                    object.type_name()));
  }
  return read_document(object);
}

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r") == line.npos; }

}  // namespace

std::vector<std::string> parse_json_lines(std::string_view text, std::string_view file_name) {
  std::vector<std::string> documents;
  for (int64_t line_number = 1; !text.empty(); ++line_number) {
    const size_t length = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, length);
    text.remove_prefix(std::min(length + 1, text.size()));
    if (is_blank(line)) continue;
    documents.push_back(with_context(fmt::format("{}:{}", file_name, line_number),
                                     [&] { return parse_line(line); }));
  }
  return documents;
}

}  // namespace vernier::text
