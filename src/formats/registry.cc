// The table of formats. A new format is a row here and its file group.
#include <algorithm>

#include "formats/format.h"
#include "formats/rows.h"

namespace vernier::formats {
namespace {

constexpr const Format* kFormats[] = {&kBf16Format, &kFp8E4m3Format, &kNvfp4Format};

}  // namespace

std::span<const Format* const> all_formats() { return kFormats; }

const Format* find_format(std::string_view name) {
  const auto row = std::ranges::find(kFormats, name, &Format::name);
  return row == std::end(kFormats) ? nullptr : *row;
}

const Format& bf16_format() { return kBf16Format; }

}  // namespace vernier::formats
