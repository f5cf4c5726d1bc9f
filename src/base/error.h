// Errors about the world: a file, a flag, a shape, memory, a device. Library code throws Error;
// only `cli` prints it. Faults of our own are CHECKs (base/check.h), never Errors.
#pragma once

#include <exception>
#include <string>
#include <string_view>
#include <utility>

namespace vernier {

enum class ErrorKind {
  kInvalidArgument,  // a flag, a recipe, a value the user gave
  kNotFound,         // a file, a tensor, a name
  kCorrupt,          // a file whose content contradicts itself
  kUnsupported,      // understood, but not something this build or machine does
  kOutOfMemory,
  kEnvironment,  // disk, permission, device
  kCommFault,    // another rank
  kCancelled,
};

// One sentence: what was being done to which file, tensor or flag, what was found, what was
// expected.
class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string message) : kind_(kind), message_(std::move(message)) {}

  ErrorKind kind() const { return kind_; }
  const std::string& message() const { return message_; }
  const char* what() const noexcept override { return message_.c_str(); }

  // Prefixes the message: "loading layer 12: ...".
  void add_context(std::string_view context);

 private:
  ErrorKind kind_;
  std::string message_;
};

// Runs `body` and prefixes any Error that leaves it with `context`.
template <class Body>
auto with_context(std::string_view context, Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (Error& error) {
    error.add_context(context);
    throw;
  }
}

// The exit status of a program that ends with an Error of this kind: 2 bad input or flags, 3 the
// environment failed, 4 another rank failed.
int exit_status(ErrorKind kind);

}  // namespace vernier
