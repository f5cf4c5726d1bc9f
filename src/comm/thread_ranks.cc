// Threads that show one another where their values lie: every collective is to show, to meet, to
// read what the others show, and to meet again, after which all may change their values.
#include "comm/thread_ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>

#include "base/check.h"
#include "base/error.h"
#include "comm/staged_communicator.h"

namespace vernier::comm {
namespace {

// Thrown where a rank waits for one that has ended: a consequence of that one's failure.
class RankHasGone : public Error {
 public:
  explicit RankHasGone(int rank)
      : Error(ErrorKind::kCommFault, fmt::format("rank {} has gone before all was done", rank)) {}
};

// Who has ended, and the one lock and signal of all groups. Nobody hangs: whoever waits for a rank
// that has ended fails, and ends in turn.
class Hall {
 public:
  explicit Hall(int n_ranks) : has_ended_(static_cast<size_t>(n_ranks)) {}

  std::unique_lock<std::mutex> lock() { return std::unique_lock(mutex_); }
  void notify() { changed_.notify_all(); }

  // Returns once done(); throws when one of `ranks`, whom that takes, has ended before.
  template <class Done>
  void wait(std::unique_lock<std::mutex>& lock, std::span<const int> ranks, Done done) {
    std::optional<int> gone;
    changed_.wait(lock, [&] { return done() || (gone = first_ended(ranks)).has_value(); });
    if (gone.has_value()) throw RankHasGone(*gone);
  }

  void end(int rank) {
    const auto held = lock();
    has_ended_[rank] = true;
    notify();
  }

 private:
  std::optional<int> first_ended(std::span<const int> ranks) const {
    const auto found = std::ranges::find_if(ranks, [this](int rank) { return has_ended_[rank]; });
    return found == ranks.end() ? std::nullopt : std::optional(*found);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<bool> has_ended_;  // by rank of the world
};

// What the members of one group share.
class Group {
 public:
  // `members`: ranks of the world.
  Group(Hall& hall, std::vector<int> members)
      : hall_(hall),
        members_(std::move(members)),
        shown_(members_.size()),
        parcels_(members_.size() * members_.size()) {}

  Hall& hall() const { return hall_; }
  int size() const { return static_cast<int>(members_.size()); }
  int member(int rank) const { return members_[rank]; }

  // What a member shows is for all to read from the meeting that follows to the next.
  void show(int rank, const void* mine) {
    const auto held = hall_.lock();
    shown_[rank] = mine;
  }
  const void* shown(int rank) const { return shown_[rank]; }

  // Returns when all members have come.
  void meet() {
    auto lock = hall_.lock();
    if (++n_here_ == size()) {
      n_here_ = 0;
      ++n_meetings_;
      hall_.notify();
    } else {
      hall_.wait(lock, members_, [&, before = n_meetings_] { return n_meetings_ != before; });
    }
  }

  // Returns when the receiver has taken the bytes: nothing may rely on a buffer between the two.
  void send(int from, int to, std::span<const std::byte> bytes) {
    auto lock = hall_.lock();
    Parcel& parcel = parcel_of(from, to);
    parcel = bytes;
    hall_.notify();
    hall_.wait(lock, {&members_[to], 1}, [&] { return !parcel.has_value(); });
  }

  void receive(int from, int to, std::span<std::byte> bytes) {
    auto lock = hall_.lock();
    Parcel& parcel = parcel_of(from, to);
    hall_.wait(lock, {&members_[from], 1}, [&] { return parcel.has_value(); });
    VERNIER_CHECK(parcel->size() == bytes.size());
    std::ranges::copy(*parcel, bytes.begin());
    parcel.reset();
    hall_.notify();
  }

 private:
  using Parcel = std::optional<std::span<const std::byte>>;

  Parcel& parcel_of(int from, int to) { return parcels_[from * size() + to]; }

  Hall& hall_;
  std::vector<int> members_;
  std::vector<const void*> shown_;  // by member
  std::vector<Parcel> parcels_;     // [from, to]
  int n_here_ = 0;
  int64_t n_meetings_ = 0;
};

std::unique_ptr<Communicator> join(std::shared_ptr<Group> group, int rank);

class ThreadCommunicator : public StagedCommunicator {
 public:
  ThreadCommunicator(std::shared_ptr<Group> group, int rank)
      : group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }

  using StagedCommunicator::sum;
  void sum(std::span<int64_t> values) const override { combine(values, std::plus<int64_t>()); }
  void sum(std::span<double> values) const override { combine(values, std::plus<double>()); }
  void max(std::span<float> values) const override {
    combine(values, [](float a, float b) { return std::max(a, b); });
  }

  void gather_all(std::span<const int64_t> own, std::span<int64_t> all) const override {
    VERNIER_CHECK(all.size() == own.size() * static_cast<size_t>(size()));
    look_around(own, [&](int rank, std::span<const int64_t> theirs) {
      VERNIER_CHECK(theirs.size() == own.size());
      std::ranges::copy(theirs, all.begin() + rank * std::ssize(own));
    });
  }
  std::vector<std::string> gather(const std::string& own, int root) const override {
    std::vector<std::string> all;
    look_around(own, [&](int, const std::string& theirs) {
      if (rank_ == root) all.push_back(theirs);
    });
    return all;
  }
  std::string broadcast(const std::string& own, int root) const override {
    std::string text;
    look_around(own, [&](int rank, const std::string& theirs) {
      if (rank == root) text = theirs;
    });
    return text;
  }
  void barrier() const override { group_->meet(); }

  std::unique_ptr<Communicator> split(int64_t color) const override {
    std::vector<int> members;
    int first = -1, place = 0;
    look_around(color, [&](int rank, int64_t theirs) {
      if (theirs != color) return;
      if (rank == rank_) place = static_cast<int>(members.size());
      if (members.empty()) first = rank;
      members.push_back(group_->member(rank));
    });
    // The first member's group is everybody's.
    std::shared_ptr<Group> made, group;
    if (first == rank_) made = std::make_shared<Group>(group_->hall(), members);
    look_around(made, [&](int rank, const std::shared_ptr<Group>& theirs) {
      if (rank == first) group = theirs;
    });
    return join(group, place);
  }

 protected:
  void sum_floats(std::span<float> values) const override { combine(values, std::plus<float>()); }

  void exchange_runs(Runs<const std::byte> own, Runs<std::byte> arrived,
                     int64_t row_bytes) const override {
    std::byte* to = arrived.data;
    look_around(own, [&](int rank, const Runs<const std::byte>& theirs) {
      const auto n_before = theirs.n_rows.first(static_cast<size_t>(rank_));
      const int64_t first = std::accumulate(n_before.begin(), n_before.end(), int64_t{0});
      VERNIER_CHECK(theirs.n_rows[rank_] == arrived.n_rows[rank]);
      to = std::copy_n(theirs.data + first * row_bytes, arrived.n_rows[rank] * row_bytes, to);
    });
  }
  void send_bytes(std::span<const std::byte> bytes, int to) const override {
    group_->send(rank_, to, bytes);
  }
  void receive_bytes(std::span<std::byte> bytes, int from) const override {
    group_->receive(from, rank_, bytes);
  }

 private:
  // look(rank, theirs) for every rank in order, while nobody changes what it shows.
  template <class T, class Look>
  void look_around(const T& mine, Look look) const {
    group_->show(rank_, &mine);
    group_->meet();
    for (int rank = 0; rank < size(); ++rank) {
      look(rank, *static_cast<const T*>(group_->shown(rank)));
    }
    group_->meet();
  }

  // In the order of ranks, everywhere.
  template <class T, class Combine>
  void combine(std::span<T> values, Combine combine) const {
    std::vector<T> total(values.size());
    look_around(values, [&](int rank, std::span<T> theirs) {
      VERNIER_CHECK(theirs.size() == values.size());
      for (size_t i = 0; i < total.size(); ++i) {
        total[i] = rank == 0 ? theirs[i] : combine(total[i], theirs[i]);
      }
    });
    std::ranges::copy(total, values.begin());
  }

  std::shared_ptr<Group> group_;
  int rank_;
};

std::unique_ptr<Communicator> join(std::shared_ptr<Group> group, int rank) {
  if (group->size() == 1) return alone();
  return std::make_unique<ThreadCommunicator>(std::move(group), rank);
}

// The first failure that is no consequence of another, else the first.
void rethrow_cause(std::span<const std::exception_ptr> failures) {
  std::exception_ptr consequence;
  for (const std::exception_ptr& failure : failures) {
    try {
      if (failure != nullptr) std::rethrow_exception(failure);
    } catch (const RankHasGone&) {
      if (consequence == nullptr) consequence = failure;
    }
  }
  if (consequence != nullptr) std::rethrow_exception(consequence);
}

}  // namespace

void run_thread_ranks(int n, const std::function<void(const Communicator& world)>& body) {
  VERNIER_CHECK(n >= 1);
  Hall hall(n);
  std::vector<int> members(static_cast<size_t>(n));
  std::iota(members.begin(), members.end(), 0);
  const auto world = std::make_shared<Group>(hall, members);

  std::vector<std::exception_ptr> failures(members.size());
  std::vector<std::thread> threads;
  for (int rank = 0; rank < n; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        body(*join(world, rank));
      } catch (...) {
        failures[rank] = std::current_exception();
      }
      hall.end(rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
  rethrow_cause(failures);
}

}  // namespace vernier::comm
