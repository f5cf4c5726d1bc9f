// How ranks end when some of them fail: `endings_launched_test LAUNCHER ARGUMENTS...` has the
// launcher start this program as three ranks, each of them `... --as-rank CASE FOLDER`.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <string>
#include <thread>

#include "base/testing.h"
#include "comm/world.h"

namespace vernier::comm {
namespace {

constexpr int kRanks = 3;
std::string launcher;  // "mpirun -np 3"; set by main()
constexpr char kMessage[] = "shard 1 is cut short";

[[noreturn]] void fail() { throw Error(ErrorKind::kCorrupt, kMessage); }

struct Ending {
  const char* name;
  void (*run)(const Communicator& world);  // what each rank does
  int n_messages;
  int status;  // -1: any that is not 0
};

std::ostream& operator<<(std::ostream& out, const Ending& ending) { return out << ending.name; }

const Ending kEndings[] = {
    {"OneFailsWhileOthersWait",
     [](const Communicator& world) {
       if (world.rank() == 1) fail();
       world.barrier();
     },
     1, 2},
    {"OneFailsInAGroup",
     [](const Communicator& world) {
       const auto pair = world.split(world.rank() / 2);
       if (world.rank() == 1) fail();
       pair->barrier();
     },
     1, 2},
    {"AllFailAlike", [](const Communicator&) { fail(); }, 1, 2},
    {"OneFailsAfterOthersHaveEnded",
     [](const Communicator& world) {
       if (world.rank() != 1) return;
       std::this_thread::sleep_for(std::chrono::milliseconds(300));
       fail();
     },
     1, 2},
    {"OneIsKilled",
     [](const Communicator& world) {
       if (world.rank() == 1) raise(SIGKILL);
       world.barrier();
     },
     0, -1},
    {"OneIsKilledWhileOthersCompute",
     [](const Communicator& world) {
       if (world.rank() == 1) raise(SIGKILL);
       std::this_thread::sleep_for(std::chrono::minutes(1));
     },
     0, -1},
    {"TheFirstIsKilled",
     [](const Communicator& world) {
       if (world.rank() == 0) raise(SIGKILL);
       std::this_thread::sleep_for(std::chrono::minutes(1));
     },
     0, -1},
    {"OneFailsWhileOthersCompute",
     [](const Communicator& world) {
       if (world.rank() == 1) fail();
       std::this_thread::sleep_for(std::chrono::minutes(1));
     },
     1, 2},
    // Longer than ranks that fail wait for each other.
    {"OneEndsWellAfterOthers",
     [](const Communicator& world) {
       if (world.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(2500));
     },
     0, 0},
};

void run_as_rank(const std::string& name, const std::string& folder) {
  const std::unique_ptr<World> world =
      open_world([](const std::string& sentence) { fmt::print(stderr, "{}\n", sentence); });
  std::ofstream(fmt::format("{}/{}", folder, world->all().rank())) << getpid();
  world->all().barrier();
  try {
    for (const Ending& ending : kEndings) {
      if (ending.name == name) ending.run(world->all());
    }
  } catch (const Error& error) {
    const int status = exit_status(error.kind());
    if (world->speaks_for_failure(status)) fmt::print(stderr, "{}\n", error.message());
    world->end(status);
  }
}

struct Outcome {
  std::string output;
  int status = 0;
  double seconds = 0;
};

Outcome run_ranks(const Ending& ending, const std::string& folder) {
  const auto start = std::chrono::steady_clock::now();
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string command = fmt::format("timeout -k 1 30 {} {} --as-rank {} {} 2>&1", launcher,
                                          program, ending.name, folder);
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  char line[4096];
  while (fgets(line, sizeof(line), pipe) != nullptr) outcome.output += line;
  outcome.status = WEXITSTATUS(pclose(pipe));
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

int n_found(const std::string& text, const std::string& part) {
  int n = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++n;
  return n;
}

// Also true of one whose status nobody has asked for yet, as happens when its parent dies first.
bool has_ended(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(file, text);
  return !file || text.find(") Z ") != text.npos;
}

bool ends_within_a_second(const std::string& folder, int rank) {
  pid_t pid = 0;
  std::ifstream(fmt::format("{}/{}", folder, rank)) >> pid;
  if (pid <= 0) return false;
  for (int trial = 0; trial < 100 && !has_ended(pid); ++trial) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return has_ended(pid);
}

class EndingsTest : public ::testing::TestWithParam<Ending> {};

TEST_P(EndingsTest, EndAllSoonAndSayWhyOnce) {
  const TemporaryDirectory folder;
  const Outcome outcome = run_ranks(GetParam(), folder.path().string());
  EXPECT_EQ(n_found(outcome.output, kMessage), GetParam().n_messages) << outcome.output;
  if (GetParam().status < 0) {
    EXPECT_NE(outcome.status, 0);
  } else {
    EXPECT_EQ(outcome.status, GetParam().status) << outcome.output;
  }
  EXPECT_LT(outcome.seconds, 10);
  for (int rank = 0; rank < kRanks; ++rank) {
    EXPECT_TRUE(ends_within_a_second(folder.path().string(), rank)) << rank;
  }
}

INSTANTIATE_TEST_SUITE_P(All, EndingsTest, ::testing::ValuesIn(kEndings),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace vernier::comm

int main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "--as-rank") {
    vernier::comm::run_as_rank(argv[2], argv[3]);
    return 0;
  }
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) vernier::comm::launcher += std::string(argv[i]) + ' ';
  return RUN_ALL_TESTS();
}
