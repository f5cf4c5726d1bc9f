#include "kernels/grouped_linear.h"

#include "kernels/elementwise.h"
#include "kernels/linear_test_support.h"

namespace vernier::kernels {
namespace {

struct Expert {
  const formats::Format* format;
  bool has_rule;
  int64_t n_rows;
};

class GroupedLinearOnEveryTarget : public OnEveryTarget {
 protected:
  static void SetUpTestSuite() { configure_host_threads(); }

  // Each group's rows against the reference. `scale` of all rules; 0: each its own.
  void expect_groups(const std::vector<Expert>& experts, int64_t n, int64_t k, float scale = 0) {
    std::vector<int64_t> begin = {0};
    for (const Expert& expert : experts) begin.push_back(begin.back() + expert.n_rows);
    const Matrix x = rounded(random_matrix(begin.back(), k, 31));
    std::vector<formats::PackedTensor> host, there;
    std::vector<GroupWeight> groups;
    for (size_t index = 0; index < experts.size(); ++index) {
      const Tensor source = bf16_weight(n, k, static_cast<uint32_t>(40 + index));
      host.push_back(experts[index].format->encode(source.view(), {}));
      there.push_back(to_device(host.back().view(), device()));
      InputRule rule;
      if (experts[index].has_rule) {
        rule = rule_for(*experts[index].format,
                        x.view().row_range(begin[index], experts[index].n_rows));
        if (scale > 0) rule.scale = scale;
      }
      groups.push_back({there.back().view(), rule});
    }
    AnyMatrix y = new_output(x.rows(), n);
    grouped_linear(activation(x), begin, groups, y);
    const Matrix found = to_host(y);
    for (size_t index = 0; index < experts.size(); ++index) {
      SCOPED_TRACE("group " + std::to_string(index));
      const InputRule& rule = groups[index].rule;
      const bool is_fp8 = is_bf16() && rule.format != nullptr && rule.format->name == "fp8_e4m3";
      const int64_t n_rows = experts[index].n_rows;
      expect_product(found.view().row_range(begin[index], n_rows),
                     rounded_by(rule, x.view().row_range(begin[index], n_rows)),
                     decoded(host[index].view()), product_bound(is_bf16(), is_fp8, k, y.dtype()));
    }
  }
};

TEST_P(GroupedLinearOnEveryTarget, GroupsOfAllSizes) {
  for (const formats::Format* format : formats::all_formats()) {
    for (const bool has_rule : {false, true}) {
      if (has_rule && format->input_divisor == 0) continue;
      SCOPED_TRACE(format->name);
      expect_groups({{format, has_rule, 0},
                     {format, has_rule, 1},
                     {format, has_rule, 8},
                     {format, has_rule, 33},
                     {format, has_rule, 0},
                     {format, has_rule, 9},
                     {format, has_rule, 70},
                     {format, has_rule, 2},
                     {format, has_rule, 0}},
                    48, 64);
    }
  }
}

// One scale for all: inputs are coded in one go.
TEST_P(GroupedLinearOnEveryTarget, OneRuleForAll) {
  for (const formats::Format* format : formats::all_formats()) {
    if (format->input_divisor == 0) continue;
    SCOPED_TRACE(format->name);
    expect_groups({{format, true, 3}, {format, true, 0}, {format, true, 5}, {format, true, 1}}, 32,
                  96, 4.0f / format->input_divisor);
    expect_groups({{format, true, 50}, {format, true, 0}, {format, true, 40}}, 32, 96,
                  4.0f / format->input_divisor);
  }
}

TEST_P(GroupedLinearOnEveryTarget, FormatsAndRulesMayDiffer) {
  std::vector<Expert> experts;
  for (const int64_t n_rows : {4, 50}) {
    for (const bool has_rule : {false, true}) {
      for (const formats::Format* format : formats::all_formats()) {
        experts.push_back({format, has_rule && format->input_divisor > 0, n_rows});
      }
    }
  }
  expect_groups(experts, 33, 64);
}

// More groups than one launch takes.
TEST_P(GroupedLinearOnEveryTarget, ManyGroups) {
  std::vector<Expert> experts;
  for (int64_t index = 0; index < 150; ++index) {
    experts.push_back({formats::find_format("nvfp4"), false, index % 4});
  }
  expect_groups(experts, 16, 32);
}

// k of which no kernel reads 16 bytes at a time.
TEST_P(GroupedLinearOnEveryTarget, OddShapes) {
  expect_groups({{&formats::bf16_format(), false, 2}, {&formats::bf16_format(), false, 40}}, 17,
                37);
}

// The bits of a pass over x before, for groups on every path.
TEST_P(GroupedLinearOnEveryTarget, MapsInputsOnTheWay) {
  std::vector<formats::PackedTensor> weights;
  std::vector<GroupWeight> groups;
  std::vector<int64_t> begin = {0};
  for (const int64_t n_rows : {3, 0, 50, 12}) {
    for (const formats::Format* format : formats::all_formats()) {
      if (format->input_divisor == 0) continue;
      const Tensor source = bf16_weight(48, 64, static_cast<uint32_t>(50 + groups.size()));
      weights.push_back(to_device(format->encode(source.view(), {}).view(), device()));
      groups.push_back({weights.back().view(), {format, 9 / format->input_divisor}});
      begin.push_back(begin.back() + n_rows);
    }
  }
  AnyMatrix x = activation(random_matrix(begin.back(), 64, 51));
  AnyMatrix found = new_output(x.rows(), 48);
  grouped_linear(x, begin, groups, found, formats::InputMap::kSquaredRelu);
  squared_relu(x);
  AnyMatrix expected = new_output(x.rows(), 48);
  grouped_linear(x, begin, groups, expected);
  EXPECT_EQ(bytes_of(found), bytes_of(expected));
}

TEST_P(GroupedLinearOnEveryTarget, NoRows) {
  expect_groups({{&formats::bf16_format(), false, 0}}, 8, 8);
  expect_groups({}, 8, 8);
}

VERNIER_ON_EVERY_TARGET(GroupedLinearOnEveryTarget);

}  // namespace
}  // namespace vernier::kernels
