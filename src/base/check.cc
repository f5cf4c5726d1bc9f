#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace vernier {

void check_failed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, condition);
  std::_Exit(70);
}

}  // namespace vernier
