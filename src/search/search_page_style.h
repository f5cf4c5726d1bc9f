// The style sheet of a search's page.
#pragma once

#include <string_view>

namespace vernier::search {

std::string_view page_style();

}  // namespace vernier::search
