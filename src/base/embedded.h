// Files linked into the program (cmake/embed.cmake), so that an installed binary needs nothing
// else.
#pragma once

#include <span>
#include <string_view>

namespace vernier {

struct EmbeddedFile {
  std::string_view name;  // relative to the project, as in "recipes/nvfp4.yaml"
  std::string_view text;
};

}  // namespace vernier
