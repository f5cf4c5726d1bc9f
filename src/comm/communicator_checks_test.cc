#include "comm/communicator_checks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "base/random.h"

namespace vernier::comm {
namespace {

constexpr uint64_t kTrials = 20;

// A number below n that all ranks draw alike.
int64_t draw(int64_t n, uint64_t trial, uint64_t position) {
  return static_cast<int64_t>(random_uniform(trial, 0, position) * static_cast<double>(n));
}

// Whole numbers, whose sums no order rounds.
Matrix whole_matrix(int64_t rows, int64_t cols, int rank, uint64_t trial) {
  Matrix matrix(rows, cols);
  uint64_t position = 0;
  for (float& value : matrix.values()) {
    const uint32_t bits = random_bits(trial, 1 + static_cast<uint32_t>(rank), position++);
    value = static_cast<float>(bits % 1000) - 500;
  }
  return matrix;
}

Matrix sum_of_whole_matrices(int64_t rows, int64_t cols, int n_ranks, uint64_t trial) {
  Matrix sum(rows, cols);
  for (int rank = 0; rank < n_ranks; ++rank) {
    const Matrix theirs = whole_matrix(rows, cols, rank, trial);
    std::ranges::transform(sum.values(), theirs.values(), sum.values().begin(), std::plus());
  }
  return sum;
}

void expect_equal(ConstMatrixView found, ConstMatrixView expected) {
  ASSERT_EQ(found.rows, expected.rows);
  for (int64_t row = 0; row < found.rows; ++row) {
    EXPECT_TRUE(std::ranges::equal(found.row(row), expected.row(row))) << "row " << row;
  }
}

void check_sum(const Communicator& group, Device* device) {
  for (uint64_t trial = 0; trial < kTrials; ++trial) {
    const int64_t rows = draw(5, trial, 0), cols = draw(70, trial, 1);
    AnyMatrix values = to_device(whole_matrix(rows, cols, group.rank(), trial), device);
    group.sum(values);
    expect_equal(to_host(values), sum_of_whole_matrices(rows, cols, group.size(), trial));
  }
}

void check_sum_of_some_columns(const Communicator& group, Device* device) {
  const Matrix own = whole_matrix(3, 8, group.rank(), 0);
  const Matrix sum = sum_of_whole_matrices(3, 8, group.size(), 0);
  AnyMatrix values = to_device(own, device);
  group.sum(values.view().col_range(2, 4));
  const Matrix after = to_host(values);
  expect_equal(after.view().col_range(0, 2), own.view().col_range(0, 2));
  expect_equal(after.view().col_range(2, 4), sum.view().col_range(2, 4));
  expect_equal(after.view().col_range(6, 2), own.view().col_range(6, 2));
}

void check_sum_has_the_same_bits_everywhere(const Communicator& group, Device* device) {
  Matrix own(7, 1431);
  uint64_t position = 0;
  for (float& value : own.values()) {
    value = static_cast<float>(random_uniform(3, static_cast<uint32_t>(group.rank()), position++));
  }
  AnyMatrix values = to_device(own, device);
  group.sum(values);
  const Matrix sum = to_host(values);
  const std::string bits(reinterpret_cast<const char*>(sum.values().data()),
                         sum.values().size_bytes());
  EXPECT_TRUE(group.broadcast(bits, 0) == bits);
}

// Rows that a rank sends to another in a trial, often none; known to all.
int64_t n_exchanged(uint64_t trial, int from, int to) {
  return std::max<int64_t>(0, draw(7, trial, static_cast<uint64_t>(10 + from * 16 + to)) - 2);
}

std::vector<int64_t> n_sent(uint64_t trial, int from, int n_ranks) {
  std::vector<int64_t> counts;
  for (int to = 0; to < n_ranks; ++to) counts.push_back(n_exchanged(trial, from, to));
  return counts;
}

std::vector<int64_t> n_received(uint64_t trial, int to, int n_ranks) {
  std::vector<int64_t> counts;
  for (int from = 0; from < n_ranks; ++from) counts.push_back(n_exchanged(trial, from, to));
  return counts;
}

int64_t total(std::span<const int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

// All that a rank sends in a trial.
Matrix rows_of(uint64_t trial, int rank, int n_ranks, int64_t cols) {
  return whole_matrix(total(n_sent(trial, rank, n_ranks)), cols, rank, trial);
}

void check_exchange_rows(const Communicator& group, Device* device) {
  const int n_ranks = group.size(), me = group.rank();
  for (uint64_t trial = 0; trial < kTrials; ++trial) {
    const int64_t cols = draw(9, trial, 0);
    const std::vector<int64_t> n_from = n_received(trial, me, n_ranks);
    AnyMatrix arrived(total(n_from), cols, DType::kF32, device);
    const AnyMatrix own = to_device(rows_of(trial, me, n_ranks, cols), device);
    group.exchange_rows(own, n_sent(trial, me, n_ranks), arrived, n_from);

    const Matrix here = to_host(arrived);
    int64_t row = 0;
    for (int from = 0; from < n_ranks; ++from) {
      const Matrix theirs = rows_of(trial, from, n_ranks, cols);
      const std::vector<int64_t> sent = n_sent(trial, from, n_ranks);
      const int64_t first = total(std::span(sent).first(static_cast<size_t>(me)));
      expect_equal(here.view().row_range(row, n_from[from]),
                   theirs.view().row_range(first, n_from[from]));
      row += n_from[from];
    }
  }
}

// Types are bytes to it: 16-bit codes travel too.
void check_exchange_rows_of_any_type(const Communicator& group, Device* device) {
  const auto n_ranks = static_cast<int64_t>(group.size());
  AnyMatrix own(n_ranks, 3, DType::kBF16, nullptr), back(n_ranks, 3, DType::kBF16, nullptr);
  for (int64_t i = 0; i < n_ranks * 3; ++i) {
    own.view().as<uint16_t>()[i] = static_cast<uint16_t>(group.rank() * 1000 + i);
  }
  AnyMatrix there(n_ranks, 3, DType::kBF16, device), arrived(n_ranks, 3, DType::kBF16, device);
  copy_matrix(own, there);
  const std::vector<int64_t> one_each(static_cast<size_t>(n_ranks), 1);
  group.exchange_rows(there, one_each, arrived, one_each);
  copy_matrix(arrived, back);
  for (int64_t i = 0; i < n_ranks * 3; ++i) {
    EXPECT_EQ(back.view().as<uint16_t>()[i], i / 3 * 1000 + group.rank() * 3 + i % 3);
  }
}

// Down the line of ranks, each adding nothing: the last has what the first sent.
void check_send_and_receive(const Communicator& group, Device* device) {
  for (uint64_t trial = 0; trial < kTrials; ++trial) {
    const Matrix first = whole_matrix(draw(4, trial, 0), draw(50, trial, 1), 0, trial);
    AnyMatrix values =
        to_device(group.rank() == 0 ? first : Matrix(first.rows(), first.cols()), device);
    if (group.rank() > 0) group.receive(values, group.rank() - 1);
    if (group.rank() + 1 < group.size()) group.send(values, group.rank() + 1);
    expect_equal(to_host(values), first);
  }
}

void check_host_sums_and_max(const Communicator& group, Device*) {
  const int n_ranks = group.size();
  constexpr int64_t kBig = int64_t{1} << 40;
  std::vector<int64_t> counts = {1, kBig * group.rank(), -group.rank()};
  group.sum(counts);
  const int64_t rank_sum = int64_t{n_ranks} * (n_ranks - 1) / 2;
  EXPECT_EQ(counts, (std::vector<int64_t>{n_ranks, kBig * rank_sum, -rank_sum}));

  std::vector<double> sums = {0.5, static_cast<double>(group.rank())};
  group.sum(sums);
  EXPECT_EQ(sums, (std::vector<double>{0.5 * n_ranks, static_cast<double>(rank_sum)}));

  std::vector<float> maxima = {static_cast<float>(group.rank()), static_cast<float>(-group.rank())};
  group.max(maxima);
  EXPECT_EQ(maxima, (std::vector<float>{static_cast<float>(n_ranks - 1), 0}));

  group.sum(std::span<double>());
}

void check_gathering(const Communicator& group, Device*) {
  const int n_ranks = group.size(), me = group.rank();
  std::vector<int64_t> all(static_cast<size_t>(2 * n_ranks)), expected_all;
  std::vector<std::string> expected_texts;
  for (int rank = 0; rank < n_ranks; ++rank) {
    expected_all.insert(expected_all.end(), {rank, rank * 10});
    expected_texts.push_back(std::string(static_cast<size_t>(rank * 100), 'x'));
  }
  group.gather_all(std::vector<int64_t>{me, me * 10}, all);
  EXPECT_EQ(all, expected_all);
  for (int root = 0; root < n_ranks; ++root) {
    EXPECT_EQ(group.gather(expected_texts[me], root),
              me == root ? expected_texts : std::vector<std::string>());
    EXPECT_EQ(group.broadcast(expected_texts[me], root), expected_texts[root]);
  }
  group.barrier();
}

// The group of a color has its ranks in order, and talks.
void check_group(const Communicator& group, const std::vector<int64_t>& colors) {
  const int64_t mine = colors[group.rank()];
  const std::unique_ptr<Communicator> part = group.split(mine);
  ASSERT_EQ(part->size(), std::ranges::count(colors, mine));
  const auto before = std::span(colors).first(static_cast<size_t>(group.rank()));
  EXPECT_EQ(part->rank(), std::ranges::count(before, mine));
  std::vector<int64_t> found(static_cast<size_t>(part->size())), expected;
  part->gather_all(std::vector<int64_t>{group.rank()}, found);
  for (int rank = 0; rank < group.size(); ++rank) {
    if (colors[rank] == mine) expected.push_back(rank);
  }
  EXPECT_EQ(found, expected);
}

void check_split(const Communicator& group, Device*) {
  constexpr int64_t kAnyColors[] = {std::numeric_limits<int64_t>::min(), 7, int64_t{1} << 40};
  for (uint64_t trial = 0; trial < kTrials; ++trial) {
    std::vector<int64_t> colors;
    for (int rank = 0; rank < group.size(); ++rank) {
      colors.push_back(kAnyColors[draw(3, trial, static_cast<uint64_t>(rank))]);
    }
    check_group(group, colors);
  }
}

// A part of a part works while its elders do: pairs of neighbours, of a group of all.
void check_split_of_split(const Communicator& group, Device* device) {
  const std::unique_ptr<Communicator> all = group.split(0);
  const std::unique_ptr<Communicator> pair = all->split(all->rank() / 2);
  AnyMatrix values = to_device(whole_matrix(2, 5, pair->rank(), 1), device);
  pair->sum(values);
  expect_equal(to_host(values), sum_of_whole_matrices(2, 5, pair->size(), 1));
  check_sum(*all, device);
  check_sum(group, device);
}

}  // namespace

std::span<const CommunicatorCheck> communicator_checks() {
  static constexpr CommunicatorCheck kChecks[] = {
      {"Sum", check_sum},
      {"SumOfSomeColumns", check_sum_of_some_columns},
      {"SumHasTheSameBitsEverywhere", check_sum_has_the_same_bits_everywhere},
      {"ExchangeRows", check_exchange_rows},
      {"ExchangeRowsOfAnyType", check_exchange_rows_of_any_type},
      {"SendAndReceive", check_send_and_receive},
      {"HostSumsAndMax", check_host_sums_and_max},
      {"Gathering", check_gathering},
      {"Split", check_split},
      {"SplitOfSplit", check_split_of_split},
  };
  return kChecks;
}

}  // namespace vernier::comm
