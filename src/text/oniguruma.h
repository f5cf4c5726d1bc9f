// Regular expressions as tokenizer.json writes them, for Oniguruma, rewritten for PCRE2.
#pragma once

#include <string>
#include <string_view>

namespace vernier::text {

// The PCRE2 spelling (UTF, UCP and multiline mode) with the same matches. Throws Unsupported,
// naming the construct and its byte, for what the two libraries read differently. The syntax itself
// is left to PCRE2.
std::string oniguruma_to_pcre2(std::string_view pattern);

}  // namespace vernier::text
