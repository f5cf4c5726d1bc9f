// "Did you mean": the known name closest to a misspelled one.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace vernier::quant {

// The name with the smallest edit distance to `text`, absent when none is near (more than half of
// the letters differ).
std::optional<std::string_view> nearest(std::string_view text,
                                        std::span<const std::string_view> names);

// `; did you mean "x"?` or nothing, to end an error message with.
std::string did_you_mean(std::string_view text, std::span<const std::string_view> names);

}  // namespace vernier::quant
