// Checks of our own code. A failed check is a fault of ours: it ends the process with the place.
// Never reachable from user input; bad input is an Error (base/error.h).
#pragma once

namespace vernier {
[[noreturn]] void check_failed(const char* file, int line, const char* condition);
}  // namespace vernier

#define VERNIER_CHECK(condition) \
  ((condition) ? void(0) : ::vernier::check_failed(__FILE__, __LINE__, #condition))

// For hot paths: checked in debug builds only.
#ifdef NDEBUG
#define VERNIER_DCHECK(condition) void(0)
#else
#define VERNIER_DCHECK(condition) VERNIER_CHECK(condition)
#endif
