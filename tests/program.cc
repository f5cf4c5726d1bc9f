#include "program.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string_view>
#include <thread>

#include "base/file.h"

namespace vernier::tests {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kComputing[] = {"quantize", "generate", "evaluate", "search", "bench"};

// On the host unless a test says otherwise, so that it expects the same on every machine.
std::vector<std::string> on_host_by_default(std::vector<std::string> args) {
  const bool computes =
      !args.empty() && std::ranges::find(kComputing, args[0]) != std::end(kComputing);
  if (computes && std::ranges::find(args, "--device") == args.end()) {
    args.insert(args.end(), {"--device", "cpu"});
  }
  return args;
}

pid_t start(const std::vector<std::string>& launcher, const std::vector<std::string>& arguments,
            const fs::path& directory, const fs::path& out, const fs::path& err) {
  const Arguments line = launcher + Arguments{VERNIER_BINARY} + on_host_by_default(arguments);
  const pid_t child = ::fork();
  if (child != 0) return child;
  if (::chdir(directory.c_str()) != 0) ::_exit(99);
  ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666), STDOUT_FILENO);
  ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666), STDERR_FILENO);
  std::vector<char*> argv;
  for (const std::string& arg : line) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  ::_exit(99);
}

// The command that starts so many ranks.
Arguments command_of(Launcher launcher, int n) {
  std::istringstream words(VERNIER_MPIRUN);
  Arguments command{std::istream_iterator<std::string>(words), {}};
  if (launcher == Launcher::kTorchrun) command = {(source_dir() / "tests/start_ranks").string()};
  command.push_back(std::to_string(n));
  return command;
}

struct Process {
  std::string program;
  std::string state;  // Z: it has ended, and nobody has asked how
  pid_t parent = 0;
};

// Of one that is not there, nothing.
Process process_of(const std::string& pid) {
  std::ifstream stat("/proc/" + pid + "/stat");
  Process process;
  std::string number;
  stat >> number >> process.program >> process.state >> process.parent;
  return process;
}

bool is_running(const Process& process) { return !process.state.empty() && process.state != "Z"; }

// The processes of this program that `launcher` has started, by their number.
std::vector<pid_t> ranks_of(pid_t launcher) {
  std::vector<pid_t> ranks;
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const Process process = process_of(name);
    if (process.parent == launcher && process.program == "(vernier)" && is_running(process)) {
      ranks.push_back(std::stoi(name));
    }
  }
  std::ranges::sort(ranks);
  return ranks;
}

int n_running(const std::vector<pid_t>& ranks) {
  return static_cast<int>(std::ranges::count_if(
      ranks, [](pid_t rank) { return is_running(process_of(std::to_string(rank))); }));
}

// mpirun may end a moment before the last of those that it has killed.
int n_left_after_a_second(const std::vector<pid_t>& ranks) {
  for (int trial = 0; trial < 100 && n_running(ranks) > 0; ++trial) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return n_running(ranks);
}

int status_of(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

}  // namespace

Outcome run(const std::vector<std::string>& args, const fs::path& directory) {
  const ScratchDirectory streams;
  const fs::path out = streams.path() / "out";
  const fs::path err = streams.path() / "err";
  int wait_status = 0;
  ::waitpid(start({}, args, directory, out, err), &wait_status, 0);
  return {status_of(wait_status), read_file(out), read_file(err)};
}

Launcher usual_launcher() {
  return std::string_view(VERNIER_MPIRUN).empty() ? Launcher::kTorchrun : Launcher::kMpirun;
}

Outcome run_ranks(int n, const Arguments& args, const fs::path& directory, Launcher launcher) {
  const ScratchDirectory streams;
  const fs::path out = streams.path() / "out";
  const fs::path err = streams.path() / "err";
  int wait_status = 0;
  ::waitpid(start(command_of(launcher, n), args, directory, out, err), &wait_status, 0);
  return {status_of(wait_status), read_file(out), read_file(err)};
}

RanksKilled run_ranks_and_kill(int n, const Arguments& args, const fs::path& directory,
                               size_t victim, std::chrono::milliseconds delay) {
  using Clock = std::chrono::steady_clock;
  const ScratchDirectory streams;
  const fs::path out = streams.path() / "out";
  const fs::path err = streams.path() / "err";
  const pid_t launcher = start(command_of(usual_launcher(), n), args, directory, out, err);
  while (std::ssize(ranks_of(launcher)) < n && is_running(process_of(std::to_string(launcher)))) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::this_thread::sleep_for(delay);
  const std::vector<pid_t> ranks = ranks_of(launcher);
  RanksKilled result;
  result.is_killed = !ranks.empty() && ::kill(ranks[victim % ranks.size()], SIGKILL) == 0;
  const Clock::time_point start = Clock::now();
  int wait_status = 0;
  ::waitpid(launcher, &wait_status, 0);
  result.seconds_to_end = std::chrono::duration<double>(Clock::now() - start).count();
  result.n_left = n_left_after_a_second(ranks);
  result.outcome = {status_of(wait_status), read_file(out), read_file(err)};
  return result;
}

bool run_and_kill(const std::vector<std::string>& args, const fs::path& directory,
                  const std::function<bool()>& is_time) {
  const ScratchDirectory streams;
  const pid_t child = start({}, args, directory, streams.path() / "out", streams.path() / "err");
  int wait_status = 0;
  while (!is_time()) {
    if (::waitpid(child, &wait_status, WNOHANG) == child) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, &wait_status, 0);
  return WIFSIGNALED(wait_status);
}

void expect_success(const Outcome& outcome) {
  EXPECT_EQ(outcome.status, 0) << outcome.out << outcome.err;
}

void expect_same_when_killed(const Arguments& args, const fs::path& directory,
                             const std::vector<uintmax_t>& journal_bytes) {
  expect_success(run(args + Arguments{"whole"}, directory));
  const fs::path journal = directory / "broken.vernier-staging" / "journal";
  int n_killed = 0;
  for (const uintmax_t n_bytes : journal_bytes) {
    n_killed += run_and_kill(args + Arguments{"broken"}, directory, [&] {
      std::error_code absent;
      const uintmax_t size = fs::file_size(journal, absent);
      return !absent && size >= n_bytes;
    });
    EXPECT_FALSE(fs::exists(directory / "broken"));
  }
  EXPECT_GT(n_killed, 0);
  const Outcome last = run(args + Arguments{"broken"}, directory);
  expect_success(last);
  EXPECT_THAT(last.err, ::testing::HasSubstr("going on from"));
  expect_same_files(directory / "whole", directory / "broken");
  EXPECT_FALSE(fs::exists(directory / "broken.vernier-staging"));
}

ScratchDirectory::ScratchDirectory() {
  std::string pattern = (fs::temp_directory_path() / "vernier-test-XXXXXX").string();
  path_ = ::mkdtemp(pattern.data());
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

fs::path source_dir() { return VERNIER_SOURCE_DIR; }
fs::path tiny_model() { return source_dir() / "models/tiny"; }
fs::path golden_checkpoint(const std::string& name) {
  return source_dir() / "tests/golden" / name / "checkpoint";
}

void copy_checkpoint(const fs::path& from, const fs::path& to) {
  fs::create_directories(to);
  for (const auto& entry : fs::directory_iterator(from)) {
    if (!entry.is_regular_file()) continue;
    write_file(to / entry.path().filename(), read_file(entry.path()));
  }
}

std::vector<std::pair<std::string, std::string>> files_of(const fs::path& directory) {
  std::vector<std::pair<std::string, std::string>> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file()) {
      files.emplace_back(fs::relative(entry.path(), directory).string(), read_file(entry.path()));
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

void expect_same_files(const fs::path& left, const fs::path& right) {
  const auto left_files = files_of(left);
  const auto right_files = files_of(right);
  ASSERT_EQ(left_files.size(), right_files.size()) << left << " and " << right;
  for (size_t i = 0; i < left_files.size(); ++i) {
    EXPECT_EQ(left_files[i].first, right_files[i].first);
    EXPECT_TRUE(left_files[i].second == right_files[i].second) << left_files[i].first << " differs";
  }
}

}  // namespace vernier::tests
