#include "search/frontier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "search/test_support.h"

namespace vernier::search {
namespace {

using ::testing::IsSubsetOf;

using Point = std::pair<int64_t, double>;  // cost, loss

std::vector<Point> points_of(const std::vector<Solution>& solutions) {
  std::vector<Point> points;
  for (const Solution& solution : solutions) points.emplace_back(solution.cost[0], solution.loss);
  return points;
}

// Of all ways to choose, those that no other one beats.
std::vector<Point> exhaustive(const std::vector<Group>& groups) {
  std::map<int64_t, double> least;
  for_every_solution(groups, 1, [&](const Solution& solution) {
    const auto [found, is_new] = least.emplace(solution.cost[0], solution.loss);
    if (!is_new) found->second = std::min(found->second, solution.loss);
  });
  std::vector<Point> points;
  for (const auto& [cost, loss] : least) {
    if (points.empty() || loss < points.back().second) points.emplace_back(cost, loss);
  }
  return points;
}

// The corners of the lower hull of points that rise in cost and fall in loss: those that lie below
// every line between a point before and a point after them.
std::vector<Point> corners_of(const std::vector<Point>& points) {
  std::vector<Point> corners;
  for (const Point& point : points) {
    const bool is_corner = std::none_of(points.begin(), points.end(), [&](const Point& before) {
      return std::any_of(points.begin(), points.end(), [&](const Point& after) {
        if (!(before.first < point.first && point.first < after.first)) return false;
        const double share = static_cast<double>(point.first - before.first) /
                             static_cast<double>(after.first - before.first);
        const double line = before.second + share * (after.second - before.second);
        return line <= point.second + 1e-12 * std::abs(line);
      });
    });
    if (is_corner) corners.push_back(point);
  }
  return corners;
}

TEST(Frontier, IsAllThatNoOtherBeats) {
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    const std::vector<Group> groups = random_problem(seed, 1).groups;
    const Frontier found = frontier(groups, {}, 100000);
    EXPECT_TRUE(found.is_whole);
    ASSERT_EQ(points_of(found.points), exhaustive(groups)) << "seed " << seed;
  }
}

TEST(Frontier, HoldsTheSolutionOfEveryBudget) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const std::vector<Group> groups = random_problem(seed, 1).groups;
    for (const Solution& point : frontier(groups, {}, 100000).points) {
      ASSERT_EQ(solve({groups, point.cost})->chosen, point.chosen) << "seed " << seed;
    }
  }
}

TEST(Frontier, OfTooManyPointsSomeAreGiven) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    const Problem problem = random_problem(seed, 1);
    const std::vector<Point> all = exhaustive(problem.groups);
    if (all.size() < 3) continue;
    const Frontier some = frontier(problem.groups, problem.budgets, 2);
    EXPECT_FALSE(some.is_whole);
    const std::vector<Point> points = points_of(some.points);
    EXPECT_TRUE(std::is_sorted(points.begin(), points.end()));
    ASSERT_THAT(points, IsSubsetOf(all)) << "seed " << seed;
    ASSERT_THAT(points_of(hull(problem.groups)), IsSubsetOf(points)) << "seed " << seed;
    if (const std::optional<Solution> best = solve(problem)) {
      EXPECT_THAT(points, testing::Contains(Point(best->cost[0], best->loss)));
    }
  }
}

TEST(Frontier, HullIsTheCornersOfAllPoints) {
  for (uint32_t seed = 0; seed < 1000; ++seed) {
    const std::vector<Group> groups = random_problem(seed, 1).groups;
    const std::vector<Point> all = exhaustive(groups);
    if (all.size() > 300) continue;
    ASSERT_EQ(points_of(hull(groups)), corners_of(all)) << "seed " << seed;
  }
}

TEST(Frontier, OfNothingIsOnePoint) {
  EXPECT_EQ(points_of(frontier({}, {}, 10).points), (std::vector<Point>{{0, 0}}));
  EXPECT_EQ(points_of(hull({})), (std::vector<Point>{{0, 0}}));
}

}  // namespace
}  // namespace vernier::search
