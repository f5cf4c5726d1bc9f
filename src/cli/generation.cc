#include "cli/generation.h"

#include <fmt/format.h>

#include <chrono>

#include "cli/device_flags.h"
#include "cli/opened_model.h"
#include "report/units.h"
#include "runtime/generator.h"
#include "text/tokenizer.h"

namespace vernier::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

std::vector<std::string> split_prompts(const std::string& prompts) {
  std::vector<std::string> parts;
  size_t start = 0;
  while (true) {
    const size_t end = prompts.find('|', start);
    parts.push_back(prompts.substr(start, end - start));
    if (end == std::string::npos) return parts;
    start = end + 1;
  }
}

void generate_all(const model::StoredModel& stored, Device* device, const GenerationFlags& flags,
                  Console& console) {
  const text::Tokenizer tokenizer(stored.directory / "tokenizer.json");
  const auto weights = share_on(device, stored.weights, stored.model->ranks());
  const runtime::Generator generator(*stored.model, *weights, stored.eos_token_ids);
  const std::vector<std::string> prompts = split_prompts(flags.prompts);
  for (size_t index = 0; index < prompts.size(); ++index) {
    text::StreamDecoder decoder(tokenizer);
    console.stream(fmt::format("> {}", prompts[index]));
    const Clock::time_point start = Clock::now();
    const runtime::Generation generation = generator.generate(
        tokenizer.encode(prompts[index], true), flags.max_tokens, flags.sampling,
        static_cast<uint32_t>(index), [&](text::TokenId id) { console.stream(decoder.push(id)); });
    const double rate = static_cast<double>(generation.ids.size()) / seconds_since(start);
    console.stream(
        fmt::format("{}\n  ({} tokens, {}, {})\n", decoder.finish(), generation.ids.size(),
                    generation.stop == runtime::StopReason::kEndOfSequence ? "end of sequence"
                                                                           : "length reached",
                    report::format_rate(rate, "tokens")));
  }
}

bool stays_resident(const model::StoredModel& stored, const Device* device) {
  const int64_t room =
      device == nullptr ? runtime::available_memory_bytes() : device->memory().free_bytes / 10 * 9;
  return bytes_of_share(stored) <= room;
}

}  // namespace vernier::cli
