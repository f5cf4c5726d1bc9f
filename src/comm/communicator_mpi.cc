#include "comm/communicator_mpi.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "base/error.h"
#include "comm/pieces.h"
#include "comm/staged_communicator.h"

namespace vernier::comm {
namespace {

constexpr int kTag = 0;

int to_int(int64_t count) {
  VERNIER_CHECK(count >= 0 && count <= std::numeric_limits<int>::max());
  return static_cast<int>(count);
}

// `n` bytes as one element, so that counts and offsets are in rows.
class RowType {
 public:
  explicit RowType(int64_t n_bytes) {
    VERNIER_MPI_CALL(MPI_Type_contiguous(to_int(n_bytes), MPI_BYTE, &type_));
    VERNIER_MPI_CALL(MPI_Type_commit(&type_));
  }
  ~RowType() { MPI_Type_free(&type_); }
  RowType(const RowType&) = delete;
  RowType& operator=(const RowType&) = delete;

  MPI_Datatype get() const { return type_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

// Counts by rank and where each rank's run begins, as MPI takes them.
struct IntRuns {
  explicit IntRuns(std::span<const int64_t> n_rows) {
    int64_t first = 0;
    for (const int64_t n : n_rows) {
      counts.push_back(to_int(n));
      firsts.push_back(to_int(first));
      first += n;
    }
  }
  std::vector<int> counts, firsts;
};

class MpiCommunicator : public StagedCommunicator {
 public:
  explicit MpiCommunicator(MPI_Comm group) : group_(group) {
    VERNIER_MPI_CALL(MPI_Comm_set_errhandler(group_, MPI_ERRORS_RETURN));
    VERNIER_MPI_CALL(MPI_Comm_rank(group_, &rank_));
    VERNIER_MPI_CALL(MPI_Comm_size(group_, &size_));
  }
  ~MpiCommunicator() override { MPI_Comm_free(&group_); }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  using StagedCommunicator::sum;
  void sum(std::span<int64_t> values) const override { reduce(values, MPI_INT64_T, MPI_SUM); }
  void sum(std::span<double> values) const override { reduce(values, MPI_DOUBLE, MPI_SUM); }
  void max(std::span<float> values) const override { reduce(values, MPI_FLOAT, MPI_MAX); }

  void gather_all(std::span<const int64_t> own, std::span<int64_t> all) const override {
    VERNIER_CHECK(all.size() == own.size() * static_cast<size_t>(size_));
    const RowType part(static_cast<int64_t>(own.size_bytes()));
    VERNIER_MPI_CALL(MPI_Allgather(own.data(), 1, part.get(), all.data(), 1, part.get(), group_));
  }
  // Rank by rank, so that neither a text nor all of them have to be counted in int.
  std::vector<std::string> gather(const std::string& own, int root) const override {
    const std::vector<int64_t> sizes = gathered(std::ssize(own));
    std::vector<std::string> all;
    if (rank_ != root) {
      send_bytes(std::as_bytes(std::span(own)), root);
      return all;
    }
    for (int rank = 0; rank < size_; ++rank) {
      std::string& theirs = all.emplace_back(static_cast<size_t>(sizes[rank]), '\0');
      if (rank == root) {
        theirs = own;
      } else {
        receive_bytes(std::as_writable_bytes(std::span(theirs)), rank);
      }
    }
    return all;
  }
  std::string broadcast(const std::string& own, int root) const override {
    int64_t n_bytes = std::ssize(own);
    VERNIER_MPI_CALL(MPI_Bcast(&n_bytes, 1, MPI_INT64_T, root, group_));
    std::string text = own;
    text.resize(static_cast<size_t>(n_bytes));
    in_pieces(std::span(text), [&](std::span<char> piece) {
      VERNIER_MPI_CALL(MPI_Bcast(piece.data(), to_int(std::ssize(piece)), MPI_BYTE, root, group_));
    });
    return text;
  }
  void barrier() const override { VERNIER_MPI_CALL(MPI_Barrier(group_)); }

  // MPI's colors are an int that is not negative: that of the first rank with the color.
  std::unique_ptr<Communicator> split(int64_t color) const override {
    const std::vector<int64_t> colors = gathered(color);
    const auto first = std::ranges::find(colors, color) - colors.begin();
    MPI_Comm part = MPI_COMM_NULL;
    VERNIER_MPI_CALL(MPI_Comm_split(group_, to_int(first), rank_, &part));
    return mpi_communicator(part);
  }

 protected:
  // Open MPI and MPICH add the same pairs on all ranks or each element on one alone.
  void sum_floats(std::span<float> values) const override { reduce(values, MPI_FLOAT, MPI_SUM); }

  void exchange_runs(Runs<const std::byte> own, Runs<std::byte> arrived,
                     int64_t row_bytes) const override {
    const IntRuns to(own.n_rows), from(arrived.n_rows);
    const RowType row(row_bytes);
    VERNIER_MPI_CALL(MPI_Alltoallv(own.data, to.counts.data(), to.firsts.data(), row.get(),
                                   arrived.data, from.counts.data(), from.firsts.data(), row.get(),
                                   group_));
  }
  void send_bytes(std::span<const std::byte> bytes, int to) const override {
    in_pieces(bytes, [&](std::span<const std::byte> piece) {
      VERNIER_MPI_CALL(
          MPI_Send(piece.data(), to_int(std::ssize(piece)), MPI_BYTE, to, kTag, group_));
    });
  }
  void receive_bytes(std::span<std::byte> bytes, int from) const override {
    in_pieces(bytes, [&](std::span<std::byte> piece) {
      VERNIER_MPI_CALL(MPI_Recv(piece.data(), to_int(std::ssize(piece)), MPI_BYTE, from, kTag,
                                group_, MPI_STATUS_IGNORE));
    });
  }

 private:
  template <class T>
  void reduce(std::span<T> values, MPI_Datatype type, MPI_Op op) const {
    in_pieces(values, [&](std::span<T> piece) {
      VERNIER_MPI_CALL(
          MPI_Allreduce(MPI_IN_PLACE, piece.data(), to_int(std::ssize(piece)), type, op, group_));
    });
  }

  std::vector<int64_t> gathered(int64_t own) const {
    std::vector<int64_t> all(static_cast<size_t>(size_));
    gather_all({&own, 1}, all);
    return all;
  }

  MPI_Comm group_;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace

void check_mpi(int status, const char* call) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(status, text, &length);
  throw Error(ErrorKind::kCommFault,
              fmt::format("ranks could not talk to each other: {} in {}", text, call));
}

std::unique_ptr<Communicator> mpi_communicator(MPI_Comm group) {
  auto communicator = std::make_unique<MpiCommunicator>(group);
  if (communicator->size() == 1) return alone();
  return communicator;
}

}  // namespace vernier::comm
