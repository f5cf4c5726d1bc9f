// All groups share the mesh's connections. Every collective is one or two exchanges in which each
// rank sends to each: as many bytes as a ring would move, in fewer steps.
#include "comm/communicator_tcp.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

#include "base/check.h"
#include "comm/pieces.h"
#include "comm/staged_communicator.h"
#include "comm/transfer.h"

namespace vernier::comm {
namespace {

// A sum of more goes in pieces, since it needs room for as many bytes again.
constexpr int64_t kMaxSummedBytes = int64_t{64} << 20;

// The first of part `index` where n values are shared out to n_parts.
size_t first_of_part(size_t n, int index, int n_parts) {
  return n * static_cast<size_t>(index) / static_cast<size_t>(n_parts);
}

// An id for a part of a group, alike on its members without a word: FNV-1a over what tells it from
// the group's other parts, and from parts made earlier.
uint64_t id_of_part(uint64_t group, uint64_t n_splits, uint64_t first_member) {
  uint64_t id = 0xcbf29ce484222325;
  for (const uint64_t word : {group, n_splits, first_member}) {
    for (int byte = 0; byte < 8; ++byte) id = (id ^ (word >> (8 * byte) & 0xff)) * 0x100000001b3;
  }
  return id;
}

class TcpCommunicator : public StagedCommunicator {
 public:
  // `members`: ranks of the mesh.
  TcpCommunicator(const Mesh& mesh, std::vector<int> members, uint64_t id)
      : mesh_(mesh),
        members_(std::move(members)),
        id_(id),
        rank_(static_cast<int>(std::ranges::find(members_, mesh.rank) - members_.begin())),
        n_sent_(members_.size()),
        n_received_(members_.size()) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }

  using StagedCommunicator::sum;
  void sum(std::span<int64_t> values) const override { reduce(values, std::plus<int64_t>()); }
  void sum(std::span<double> values) const override { reduce(values, std::plus<double>()); }
  void max(std::span<float> values) const override {
    reduce(values, [](float a, float b) { return std::max(a, b); });
  }

  void gather_all(std::span<const int64_t> own, std::span<int64_t> all) const override {
    VERNIER_CHECK(all.size() == own.size() * static_cast<size_t>(size()));
    const auto part = [&](int rank) { return all.subspan(rank * own.size(), own.size()); };
    std::ranges::copy(own, part(rank_).begin());
    exchange([&](int) { return std::as_bytes(own); },
             [&](int rank) { return std::as_writable_bytes(part(rank)); });
  }

  std::vector<std::string> gather(const std::string& own, int root) const override {
    const std::vector<int64_t> sizes = gathered(std::ssize(own));
    if (rank_ != root) {
      send_bytes(std::as_bytes(std::span(own)), root);
      return {};
    }
    std::vector<std::string> all;
    for (const int64_t n : sizes) all.emplace_back(static_cast<size_t>(n), '\0');
    all[root] = own;
    Transfer transfer;
    for (int rank = 0; rank < size(); ++rank) {
      if (rank != root) receive(transfer, std::as_writable_bytes(std::span(all[rank])), rank);
    }
    transfer.run();
    return all;
  }

  std::string broadcast(const std::string& own, int root) const override {
    if (rank_ == root) {
      const int64_t n_bytes = std::ssize(own);
      send_to_others(bytes_of(n_bytes));
      send_to_others(std::as_bytes(std::span(own)));
      return own;
    }
    int64_t n_bytes = 0;
    receive_bytes(writable_bytes_of(n_bytes), root);
    std::string text(static_cast<size_t>(n_bytes), '\0');
    receive_bytes(std::as_writable_bytes(std::span(text)), root);
    return text;
  }

  void barrier() const override {
    exchange([](int) { return std::span<const std::byte>(); },
             [](int) { return std::span<std::byte>(); });
  }

  std::unique_ptr<Communicator> split(int64_t color) const override {
    const std::vector<int64_t> colors = gathered(color);
    std::vector<int> members;
    for (int rank = 0; rank < size(); ++rank) {
      if (colors[rank] == color) members.push_back(members_[rank]);
    }
    ++n_splits_;
    if (members.size() == 1) return alone();
    const uint64_t id = id_of_part(id_, n_splits_, static_cast<uint64_t>(members[0]));
    return std::make_unique<TcpCommunicator>(mesh_, std::move(members), id);
  }

 protected:
  void sum_floats(std::span<float> values) const override { reduce(values, std::plus<float>()); }

  void exchange_runs(Runs<const std::byte> own, Runs<std::byte> arrived,
                     int64_t row_bytes) const override {
    const std::vector<std::span<const std::byte>> to = cut(own, row_bytes);
    const std::vector<std::span<std::byte>> from = cut(arrived, row_bytes);
    VERNIER_CHECK(to[rank_].size() == from[rank_].size());
    std::ranges::copy(to[rank_], from[rank_].begin());
    exchange([&](int rank) { return to[rank]; }, [&](int rank) { return from[rank]; });
  }
  void send_bytes(std::span<const std::byte> bytes, int to) const override {
    Transfer transfer;
    send(transfer, bytes, to);
    transfer.run();
  }
  void receive_bytes(std::span<std::byte> bytes, int from) const override {
    Transfer transfer;
    receive(transfer, bytes, from);
    transfer.run();
  }

 private:
  template <class Byte>
  static std::vector<std::span<Byte>> cut(Runs<Byte> runs, int64_t row_bytes) {
    std::vector<std::span<Byte>> parts;
    Byte* data = runs.data;
    for (const int64_t n : runs.n_rows) {
      parts.emplace_back(data, static_cast<size_t>(n * row_bytes));
      data += n * row_bytes;
    }
    return parts;
  }

  void send(Transfer& transfer, std::span<const std::byte> bytes, int to) const {
    transfer.send(mesh_.talks[members_[to]], id_, n_sent_[to]++, bytes);
  }
  void receive(Transfer& transfer, std::span<std::byte> bytes, int from) const {
    transfer.receive(mesh_.talks[members_[from]], id_, n_received_[from]++, bytes);
  }

  // With every other rank: to(rank) goes there, from(rank) is filled from there.
  template <class To, class From>
  void exchange(To to, From from) const {
    Transfer transfer;
    for (int step = 1; step < size(); ++step) {
      // Each rank begins with its neighbour, so that not all send to the first at once.
      const int other = (rank_ + step) % size();
      send(transfer, to(other), other);
      receive(transfer, from(other), other);
    }
    transfer.run();
  }

  void send_to_others(std::span<const std::byte> bytes) const {
    Transfer transfer;
    for (int rank = 0; rank < size(); ++rank) {
      if (rank != rank_) send(transfer, bytes, rank);
    }
    transfer.run();
  }

  template <class T, class Combine>
  void reduce(std::span<T> values, Combine combine) const {
    in_pieces(
        values, [&](std::span<T> piece) { reduce_piece(piece, combine); },
        kMaxSummedBytes / static_cast<int64_t>(sizeof(T)));
  }

  // Each rank combines a part of the values, in the order of ranks, and all get the parts: the same
  // bits everywhere.
  template <class T, class Combine>
  void reduce_piece(std::span<T> values, Combine combine) const {
    const auto part = [&](int rank) {
      const size_t first = first_of_part(values.size(), rank, size());
      return values.subspan(first, first_of_part(values.size(), rank + 1, size()) - first);
    };
    const std::span<T> mine = part(rank_);
    std::vector<T> shown(mine.size() * members_.size());  // [rank, mine]
    const auto shown_by = [&](int rank) {
      return std::span(shown).subspan(rank * mine.size(), mine.size());
    };
    std::ranges::copy(mine, shown_by(rank_).begin());
    exchange([&](int rank) { return std::as_bytes(part(rank)); },
             [&](int rank) { return std::as_writable_bytes(shown_by(rank)); });

    std::ranges::copy(shown_by(0), mine.begin());
    for (int rank = 1; rank < size(); ++rank) {
      std::ranges::transform(mine, shown_by(rank), mine.begin(), combine);
    }
    exchange([&](int) { return std::as_bytes(mine); },
             [&](int rank) { return std::as_writable_bytes(part(rank)); });
  }

  std::vector<int64_t> gathered(int64_t own) const {
    std::vector<int64_t> all(members_.size());
    gather_all({&own, 1}, all);
    return all;
  }

  const Mesh& mesh_;
  std::vector<int> members_;
  uint64_t id_;
  int rank_;
  mutable uint64_t n_splits_ = 0;
  mutable std::vector<uint64_t> n_sent_, n_received_;  // messages, by rank
};

}  // namespace

std::unique_ptr<Communicator> tcp_communicator(const Mesh& mesh) {
  std::vector<int> everyone(mesh.talks.size());
  std::iota(everyone.begin(), everyone.end(), 0);
  if (everyone.size() == 1) return alone();
  return std::make_unique<TcpCommunicator>(mesh, std::move(everyone), 0);
}

}  // namespace vernier::comm
