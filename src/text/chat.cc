#include <algorithm>

#include "text/dataset.h"

namespace vernier::text {
namespace {

constexpr std::string_view kThink = "<think>";
constexpr std::string_view kEndThink = "</think>";

bool contains(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kWhiteSpace = " \t\n\v\f\r";
  const size_t first = text.find_first_not_of(kWhiteSpace);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kWhiteSpace) - first + 1);
}

std::string with_reasoning(const ChatMessage& message) {
  if (!trimmed(message.reasoning_content).empty()) {
    return "<think>\n" + message.reasoning_content + "\n</think>\n" + message.content;
  }
  if (contains(message.content, kThink) || contains(message.content, kEndThink)) {
    return message.content;
  }
  return "<think></think>" + message.content;
}

// Reasoning on a question that has been answered is not shown to the model again.
std::string without_old_reasoning(const std::string& content) {
  if (!contains(content, kThink) || !contains(content, kEndThink)) return content;
  return "<think></think>" + content.substr(content.rfind(kEndThink) + kEndThink.size());
}

std::string turn(std::string_view role, std::string_view content) {
  std::string text = "<|im_start|>";
  text.append(role).append("\n").append(content).append("<|im_end|>\n");
  return text;
}

bool is_tool(const ChatMessage& message) { return message.role == "tool"; }

}  // namespace

std::string format_chat(const std::vector<ChatMessage>& messages) {
  const bool begins_with_system = !messages.empty() && messages[0].role == "system";
  std::string text = turn("system", begins_with_system ? messages[0].content : "");
  const auto last_user = std::find_if(messages.rbegin(), messages.rend(), [](const auto& message) {
                           return message.role == "user";
                         }).base();  // one past it
  for (auto message = messages.begin() + begins_with_system; message != messages.end(); ++message) {
    if (message->role == "assistant") {
      const std::string content = with_reasoning(*message);
      const bool is_old = message < last_user;
      text += turn("assistant", trimmed(is_old ? without_old_reasoning(content) : content));
    } else if (is_tool(*message)) {
      const auto end = std::find_if_not(message, messages.end(), is_tool);
      std::string responses;
      for (; message != end; ++message) {
        responses += "<tool_response>\n" + message->content + "\n</tool_response>\n";
      }
      --message;  // the loop steps on from the last response
      text += turn("user", responses);
    } else {
      text += turn(message->role, message->content);
    }
  }
  return text;
}

}  // namespace vernier::text
