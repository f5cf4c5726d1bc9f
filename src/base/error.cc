#include "base/error.h"

namespace vernier {

void Error::add_context(std::string_view context) {
  message_ = std::string(context) + ": " + message_;
}

int exit_status(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
    case ErrorKind::kNotFound:
    case ErrorKind::kCorrupt:
    case ErrorKind::kUnsupported:
      return 2;
    case ErrorKind::kOutOfMemory:
    case ErrorKind::kEnvironment:
    case ErrorKind::kCancelled:
      return 3;
    case ErrorKind::kCommFault:
      return 4;
  }
  return 70;
}

}  // namespace vernier
