// For tests only: ranks over TCP that are threads of one process.
#pragma once

#include <exception>
#include <functional>
#include <latch>
#include <thread>
#include <vector>

#include "comm/rendezvous.h"

namespace vernier::comm {

// A port that was free a moment ago.
inline int free_port() { return port_of(listen_on(0)); }

inline Address loopback(int port) { return {"127.0.0.1", port}; }

// Calls body(mesh) in n threads when all have met; each leaves when it returns. Throws what the
// lowest rank that fails throws.
inline void run_tcp_ranks(int n, const std::function<void(const Mesh& mesh)>& body) {
  const Address first = loopback(free_port());
  std::vector<std::exception_ptr> failures(static_cast<size_t>(n));
  std::latch met(n);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < n; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        const Mesh mesh = meet({rank, n, first}, std::chrono::seconds(20));
        met.arrive_and_wait();
        body(mesh);
      } catch (...) {
        failures[rank] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures) {
    if (failure != nullptr) std::rethrow_exception(failure);
  }
}

}  // namespace vernier::comm
