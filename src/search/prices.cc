// The highest bound: by bisection for one constraint, by the ellipsoid method for several (Bland,
// Goldfarb and Todd, The Ellipsoid Method: A Survey, 1981), both on a concave function that every
// group adds a piecewise linear part to.
#include "search/prices.h"

#include <algorithm>
#include <cmath>

namespace vernier::search {
namespace {

// Prices as numbers near 1: of the share of all costs in the share of all losses.
using Point = std::vector<double>;

// Neighbours of the best prices are 1 +- 2^-1, 2^-2, ... 2^-kNearest of them.
constexpr int kNearest = 10;
constexpr double kHighest = 0x1p20;

struct Bound {
  double value = 0;
  Point slope;  // by each price: what the cheapest items cost above the budget
};

class Dual {
 public:
  Dual(const std::vector<ItemGroup>& groups, const Cost& budgets, size_t n_constraints)
      : groups_(groups), n_(n_constraints), budgets_(n_) {
    std::vector<double> costs(n_, 1);
    double loss = 1;
    for (const ItemGroup& group : groups) {
      Cost largest{};
      for (const Item& item : group) {
        for (size_t k = 0; k < n_; ++k) largest[k] = std::max(largest[k], item.cost[k]);
      }
      for (size_t k = 0; k < n_; ++k) costs[k] += static_cast<double>(largest[k]);
      loss += static_cast<double>(group.back().loss);
    }
    for (size_t k = 0; k < n_; ++k) {
      unit_.push_back(loss / costs[k]);
      budgets_[k] = static_cast<double>(budgets[k]) * unit_[k];
    }
  }

  Bound at(const Point& prices) const {
    Bound bound{0, Point(n_)};
    for (size_t k = 0; k < n_; ++k) {
      bound.slope[k] = -budgets_[k];
      bound.value -= prices[k] * budgets_[k];
    }
    for (const ItemGroup& group : groups_) {
      const Item* cheapest = nullptr;
      double least = HUGE_VAL;
      for (const Item& item : group) {
        double priced = static_cast<double>(item.loss);
        for (size_t k = 0; k < n_; ++k) priced += prices[k] * cost(item, k);
        if (priced < least) {
          least = priced;
          cheapest = &item;
        }
      }
      bound.value += least;
      for (size_t k = 0; k < n_; ++k) bound.slope[k] += cost(*cheapest, k);
    }
    return bound;
  }

  // In integers of 61 bits, as far as losses may be shifted.
  Prices to_integers(const Point& point) const {
    double highest = 0;
    for (size_t k = 0; k < n_; ++k) highest = std::max(highest, point[k] * unit_[k]);
    Prices prices{.shift = 60};
    if (highest > 0) prices.shift = std::clamp(60 - std::ilogb(highest), 0, 60);
    for (size_t k = 0; k < n_; ++k) {
      const double price = std::ldexp(point[k] * unit_[k], prices.shift);
      prices.price[k] = static_cast<int64_t>(std::min(price, 0x1p61));
    }
    return prices;
  }

 private:
  double cost(const Item& item, size_t k) const {
    return static_cast<double>(item.cost[k]) * unit_[k];
  }

  const std::vector<ItemGroup>& groups_;
  size_t n_;
  Point budgets_;
  Point unit_;
};

// The least price at which the cheapest items keep the budget, to the last bit.
Point bisect(const Dual& dual) {
  if (dual.at({0}).slope[0] <= 0) return {0};
  double low = 0, high = kHighest;
  for (;;) {
    const double middle = low / 2 + high / 2;
    if (middle <= low || middle >= high) return {high};
    (dual.at({middle}).slope[0] > 0 ? low : high) = middle;
  }
}

// Centre and matrix of an ellipsoid {x: (x - c)' A^-1 (x - c) <= 1} that holds the best prices.
class Ellipsoid {
 public:
  Ellipsoid(size_t n, double radius) : n_(n), centre_(n, 0), matrix_(n * n, 0) {
    for (size_t k = 0; k < n; ++k) matrix_[k * n + k] = radius * radius;
  }

  const Point& centre() const { return centre_; }

  // The smallest ellipsoid around the half in which `direction` * (x - centre) >= 0.
  bool keep_half(const Point& direction) {
    Point step(n_, 0);
    double norm = 0;
    for (size_t row = 0; row < n_; ++row) {
      for (size_t col = 0; col < n_; ++col) step[row] += matrix_[row * n_ + col] * direction[col];
      norm += step[row] * direction[row];
    }
    if (!(norm > 0)) return false;
    const auto n = static_cast<double>(n_);
    for (double& value : step) value /= std::sqrt(norm);
    for (size_t row = 0; row < n_; ++row) {
      centre_[row] += step[row] / (n + 1);
      for (size_t col = 0; col < n_; ++col) {
        double& entry = matrix_[row * n_ + col];
        entry = n * n / (n * n - 1) * (entry - 2 / (n + 1) * step[row] * step[col]);
      }
    }
    return true;
  }

 private:
  size_t n_;
  Point centre_;
  std::vector<double> matrix_;  // [n, n]
};

// Every n (n + 1) * 1.4 steps halve the ellipsoid's extent, sixty times in all.
Point search_ellipsoid(const Dual& dual, size_t n_constraints) {
  const size_t n_steps = 84 * n_constraints * (n_constraints + 1);
  Ellipsoid ellipsoid(n_constraints, 0x1p10);
  Point best(n_constraints, 0);
  double highest = -HUGE_VAL;
  for (size_t step = 0; step < n_steps; ++step) {
    const Point& centre = ellipsoid.centre();
    const auto lowest = std::min_element(centre.begin(), centre.end());
    Point direction(n_constraints, 0);
    if (*lowest < 0) {
      direction[static_cast<size_t>(lowest - centre.begin())] = 1;
    } else {
      const Bound bound = dual.at(centre);
      if (bound.value > highest) {
        highest = bound.value;
        best = centre;
      }
      direction = bound.slope;
    }
    if (!ellipsoid.keep_half(direction)) break;
  }
  return best;
}

}  // namespace

size_t Prices::cheapest(const ItemGroup& group) const {
  size_t best = 0;
  for (size_t place = 1; place < group.size(); ++place) {
    if (of(group[place]) < of(group[best])) best = place;
  }
  return best;
}

std::vector<Prices> prices_around_best(const std::vector<ItemGroup>& groups, const Cost& budgets,
                                       size_t n_constraints) {
  const Dual dual(groups, budgets, n_constraints);
  const Point best = n_constraints == 1 ? bisect(dual) : search_ellipsoid(dual, n_constraints);
  std::vector<Prices> prices{dual.to_integers(best)};
  for (int distance = kNearest; distance >= 1; --distance) {
    for (const double factor : {1 + std::ldexp(1, -distance), 1 - std::ldexp(1, -distance)}) {
      for (size_t k = 0; k < n_constraints; ++k) {
        Point near = best;
        near[k] *= factor;
        prices.push_back(dual.to_integers(near));
      }
    }
  }
  prices.push_back(dual.to_integers(Point(n_constraints, kHighest)));
  return prices;
}

}  // namespace vernier::search
