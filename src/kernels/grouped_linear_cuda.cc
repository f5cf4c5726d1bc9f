// Products of routed experts on a device. Groups of few tokens with weights of one format are one
// launch; the others are a product each. Inputs are coded in as few launches as rules allow.
#include <map>
#include <utility>
#include <vector>

#include "kernels/convert_cuda.h"
#include "kernels/cuda.h"
#include "kernels/few_tokens_cuda.h"
#include "kernels/linear_cuda.h"

namespace vernier::kernels::cuda {
namespace {

using formats::InputMap;

struct Group {
  const GroupWeight* weight;
  int64_t first;
  int64_t n_rows;
  LinearPath path;

  int64_t end() const { return first + n_rows; }
};

// One launch for all groups of few tokens takes less than one each, even of products that alone
// would do better in the library.
LinearPath group_path(const GroupWeight& group, int64_t n_rows) {
  const auto& [weight, rule] = group;
  const bool is_few = compute_dtype(weight.device()) == DType::kBF16 &&
                      n_rows <= kFewTokensInPlace && takes_few_tokens(weight);
  return is_few ? LinearPath::kFewTokens : linear_path(weight, rule, n_rows);
}

std::vector<Group> non_empty(std::span<const int64_t> begin, std::span<const GroupWeight> weights) {
  std::vector<Group> groups;
  for (size_t index = 0; index < weights.size(); ++index) {
    const int64_t n_rows = begin[index + 1] - begin[index];
    if (n_rows == 0) continue;
    groups.push_back({&weights[index], begin[index], n_rows, group_path(weights[index], n_rows)});
  }
  return groups;
}

bool needs_codes(const std::vector<Group>& groups, ConstAnyMatrixView x, DType dtype) {
  if (x.dtype != dtype) return true;
  for (const Group& group : groups) {
    if (group.weight->rule.format != nullptr) return true;
  }
  return false;
}

// x mapped and coded for these groups, at the rows where x has them; rows of other groups are left
// alone. Neighbours with one rule are coded together.
ConstAnyMatrixView encode_groups(ConstAnyMatrixView x, const std::vector<Group>& groups,
                                 InputMap map, DType dtype, AnyMatrix& scratch) {
  if (!needs_codes(groups, x, dtype)) return x;
  scratch = AnyMatrix(x.rows, x.cols, dtype, x.device);
  for (size_t index = 0; index < groups.size();) {
    const int64_t first = groups[index].first;
    const InputRule& rule = groups[index].weight->rule;
    int64_t end = first;
    while (index < groups.size() && groups[index].first == end &&
           groups[index].weight->rule == rule) {
      end = groups[index++].end();
    }
    encode_input(x.row_range(first, end - first), rule, map,
                 scratch.view().row_range(first, end - first));
  }
  return scratch.view();
}

// A launch for each format among the groups.
void few_tokens_groups(ConstAnyMatrixView codes, const std::vector<Group>& groups,
                       AnyMatrixView y) {
  AnyMatrix copy;
  if (!has_loadable_rows(codes)) {
    copy = AnyMatrix(codes.rows, codes.cols, codes.dtype, codes.device);
    convert(codes, copy);
    codes = copy.view();
  }
  std::map<const formats::Format*, std::vector<FewTokensProduct>> by_format;
  for (const Group& group : groups) {
    by_format[group.weight->weight.format].push_back(
        {.x = codes.row_range(group.first, group.n_rows),
         .weight = &group.weight->weight,
         .alpha = product_scale(group.weight->weight, group.weight->rule),
         .y = y.row_range(group.first, group.n_rows)});
  }
  for (const auto& [format, products] : by_format) few_tokens(products);
}

// A grouped kernel would take the place of this loop.
void each_group(LinearPath path, ConstAnyMatrixView x, ConstAnyMatrixView codes, InputMap map,
                const std::vector<Group>& groups, AnyMatrixView y) {
  for (const Group& group : groups) {
    const auto& [weight, rule] = *group.weight;
    const AnyMatrixView rows = y.row_range(group.first, group.n_rows);
    if (linear_of_codes(path, codes.row_range(group.first, group.n_rows),
                        product_scale(weight, rule), weight, rows)) {
      continue;
    }
    cuda::linear(x.row_range(group.first, group.n_rows), weight, rule, map, rows);
  }
}

void groups_on_path(LinearPath path, ConstAnyMatrixView x, InputMap map,
                    const std::vector<Group>& groups, AnyMatrixView y) {
  if (path == LinearPath::kBlockScaled) {
    for (const Group& group : groups) {
      cuda::linear(x.row_range(group.first, group.n_rows), group.weight->weight, group.weight->rule,
                   map, y.row_range(group.first, group.n_rows));
    }
    return;
  }
  AnyMatrix scratch;
  const ConstAnyMatrixView codes =
      encode_groups(x, groups, map, input_dtype(path, x.device), scratch);
  if (path == LinearPath::kFewTokens) return few_tokens_groups(codes, groups, y);
  each_group(path, x, codes, map, groups, y);
}

}  // namespace

void grouped_linear(ConstAnyMatrixView x, std::span<const int64_t> begin,
                    std::span<const GroupWeight> groups, InputMap map, AnyMatrixView y) {
  if (y.rows == 0 || y.cols == 0) return;
  std::map<LinearPath, std::vector<Group>> by_path;
  for (const Group& group : non_empty(begin, groups)) by_path[group.path].push_back(group);
  for (const auto& [path, members] : by_path) groups_on_path(path, x, map, members, y);
}

}  // namespace vernier::kernels::cuda
