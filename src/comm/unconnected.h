// A rank of a layout that nobody started, for plans: it knows its place and talks to nobody.
#pragma once

#include "comm/ranks.h"

namespace vernier::comm {

// Groups know the rank and their size. REQUIRES: 0 <= rank < layout.world(), and no call of a group
// that would reach another rank.
Ranks unconnected(const Layout& layout, int64_t rank);

}  // namespace vernier::comm
