#!/usr/bin/env python3
"""Writes tests/golden/knapsack.json: multiple-choice knapsacks and the least loss of each, as HiGHS finds it.

Usage: tools/oracle/milp_goldens.py [OUTPUT]

Losses and costs are integers, so that the least loss is one too and is compared exactly. HiGHS works to tolerances: its choices
are recomputed here in integers and must keep every budget.
"""
import json
import pathlib
import random
import sys

import numpy
import scipy
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array


def uncorrelated(source, n_choices, n_constraints):
    return [[source.randrange(10**4)] + [source.randrange(10**5) for _ in range(n_constraints)] for _ in range(n_choices)]


def strongly_correlated(source, n_choices, n_constraints):
    """A choice gains as much as it costs, and a little for being one more (Pisinger, 1995)."""
    loss, costs, choices = 210 * n_choices, [0] * n_constraints, []
    for _ in range(n_choices):
        steps = [source.randint(1, 200) for _ in range(n_constraints)]
        costs = [cost + step for cost, step in zip(costs, steps)]
        loss -= max(steps) + 10
        choices.append([loss] + costs)
    return choices


def realistic(source, n_choices, n_constraints):
    """Bits and, as another cost, time; several candidates of the same bits; sizes over four orders of magnitude."""
    bits = ([4.5, 4.5, 4.5, 4.5, 8, 8, 8, 16] if n_choices == 8 else [4.5, 4.5, 8, 8, 16])[:n_choices]
    size = int(10 ** source.uniform(0, 4)) + 1
    sensitivity = size * 10 ** source.uniform(0, 2)
    choices = []
    for bit in bits:
        loss = 0 if bit == 16 else round(sensitivity * 4 ** (5 - bit) * source.uniform(0.7, 1.3))
        time = round(size * (bit / 16 + 0.2) * source.uniform(0.9, 1.1))
        choices.append([loss] + [2 * size * int(bit) + (size if bit == 4.5 else 0), time][:n_constraints])
    return choices


def budgets_at(groups, share):
    """`share` of the way from the least to the largest sum of each cost."""
    budgets = []
    for constraint in range(1, len(groups[0][0])):
        costs = [[choice[constraint] for choice in group] for group in groups]
        least, most = sum(map(min, costs)), sum(map(max, costs))
        budgets.append(least + int((most - least) * share))
    return budgets


def least_loss(groups, budgets):
    """The least loss, None where no choices keep the budgets."""
    starts = numpy.cumsum([0] + [len(group) for group in groups])
    choices = numpy.array([choice for group in groups for choice in group], dtype=float)
    one_each = csr_array(
        (numpy.ones(starts[-1]), numpy.arange(starts[-1]), starts), shape=(len(groups), starts[-1])
    )
    answer = milp(
        choices[:, 0],
        integrality=numpy.ones(starts[-1]),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(choices[:, 1:].T, ub=budgets)],
        options={"mip_rel_gap": 0, "time_limit": 60},
    )
    if answer.status == 2:
        return None
    if answer.status != 0:
        raise RuntimeError(answer.message)
    sums = [0] * (1 + len(budgets))
    for group, start in zip(groups, starts):
        chosen = int(numpy.argmax(answer.x[start : start + len(group)]))
        sums = [total + value for total, value in zip(sums, group[chosen])]
    if any(cost > budget for cost, budget in zip(sums[1:], budgets)):
        raise RuntimeError("the choices break a budget by less than the tolerance")
    if abs(sums[0] - answer.fun) > 0.5 or answer.mip_dual_bound < sums[0] - 0.5:
        raise RuntimeError("not proven to be the least: %s, bound %s" % (sums[0], answer.mip_dual_bound))
    return sums[0]


# Kind, groups, choices, constraints, shares of the budgets.
CASES = [
    (uncorrelated, 500, 8, 1, [0.03, 0.1, 0.3]),
    (strongly_correlated, 50, 8, 1, [0.1, 0.3, 0.7]),
    (realistic, 500, 8, 1, [0.02, 0.1, 0.3, 0.6]),
    (uncorrelated, 60, 5, 2, [0.05, 0.3, 0.6]),
    (strongly_correlated, 60, 5, 2, [0.4]),
    (realistic, 60, 5, 2, [0.1, 0.3]),
    (uncorrelated, 20, 5, 3, [0.1, 0.4]),
    (realistic, 25, 4, 2, [0, 0.2, 0.5]),
]


def main():
    output = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/knapsack.json")
    source = random.Random(20)
    cases = []
    for make, n_groups, n_choices, n_constraints, shares in CASES:
        groups = [make(source, n_choices, n_constraints) for _ in range(n_groups)]
        optima = []
        for share in shares:
            budgets = budgets_at(groups, share)
            loss = least_loss(groups, budgets)
            print("%s, %d groups, share %g: %s" % (make.__name__, n_groups, share, loss), flush=True)
            optima.append({"budgets": budgets, "loss": loss})
        cases.append({"kind": make.__name__, "optima": optima, "groups": groups})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    oracle = "scipy.optimize.milp of scipy %s (HiGHS), mip_rel_gap 0" % scipy.__version__
    output.write_text('{"oracle": "%s",\n"choice": "[loss, costs...]",\n"cases": [\n%s\n]}\n' % (oracle, lines))


if __name__ == "__main__":
    main()
