#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what vernier search promises, on models/tiny: the KL of its recipes on a text that it has not seen, against uniform and
named recipes and against the search by Fisher scores alone; and prediction against measurement of random assignments.

  tools/accuracy/search.py PROGRAM OUT --calib TEXT --text TEXT [--where "--device cuda --compute-dtype float32"]

Needs the standard library only. Everything is written below OUT; results.json holds the numbers of the tables it prints.
"""
import argparse
import json
import pathlib
import random
import subprocess

BUDGETS = ["4.75", "5", "5.5", "6", "7", "8"]
UNIFORM = ["nvfp4", "nvfp4_sweep", "nvfp4_four_over_six", "fp8"]
NAMED = ["mamba_moe_nvfp4_aggressive", "mamba_moe_nvfp4_conservative", "mamba_moe_fp8_aggressive", "mamba_moe_fp8_conservative",
         "nvfp4", "nvfp4_sweep", "nvfp4_four_over_six", "fp8", "nemotron_3_super_nvfp4"]
# As src/search/candidates.cc writes a candidate's rules.
RULES = {
    "fp8": ("fp8_e4m3", "fp8_e4m3", "max"),
    "nvfp4": ("nvfp4", "nvfp4", "max"),
    "nvfp4_sweep": ("nvfp4_static", "nvfp4", "{method: mse, fp8_scale_sweep: true}"),
    "nvfp4_four_over_six": ("nvfp4_four_over_six", "nvfp4",
                            "{method: mse, start_multiplier: 1.0, stop_multiplier: 1.5, step_size: 0.5}"),
}
SEED = 20261125


class Bench:
    def __init__(self, flags):
        self.flags = flags
        self.model = "models/tiny"
        self.out = pathlib.Path(flags.out)
        self.out.mkdir(parents=True, exist_ok=True)

    def vernier(self, *arguments):
        subprocess.run([self.flags.program, *arguments, *self.flags.where.split()], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def search(self, name, *arguments):
        target = self.out / name
        if not target.exists():
            self.vernier("search", "--auto-quantize-bits", ",".join(BUDGETS), "--output-dir", str(target), *arguments)
        return target

    def quantize(self, name, recipe):
        target = self.out / name
        if not target.exists():
            self.vernier("quantize", "--hf-model-id", self.model, "--recipe", str(recipe), "--calib-dataset", self.flags.calib,
                         "--calib-size", "128", "--kv-cache-format", "none", "--skip-generate", "--export-dir", str(target))
        return str(target)

    def evaluate(self, directories, windows):
        results = self.out / "evaluated.json"
        models = [part for directory in [self.model, *directories] for part in ("--model", directory)]
        self.vernier("evaluate", *models, "--text", self.flags.text, "--windows", str(windows), "--json", str(results))
        return json.loads(results.read_text())["results"][1:]

    def uniform_recipe(self, candidate):
        return self.recipe(f"uniform_{candidate}", {"*": candidate}, ["'*conv1d*'", "'*embeddings*'"])

    def recipe(self, name, chosen, off=()):
        lines = ["imports:", "  base_disable_all: units/base_disable_all", "metadata:", "  recipe_type: ptq", "quantize:",
                 "  algorithm: max", "  quant_cfg:", "    - $import: base_disable_all"]
        for pattern, candidate in chosen.items():
            if candidate == "bf16":
                continue
            weight, inputs, algorithm = RULES[candidate]
            lines += [f"    - quantizer_name: '{pattern}weight_quantizer'", f"      cfg: {weight}", f"      algorithm: {algorithm}",
                      f"    - quantizer_name: '{pattern}input_quantizer'", f"      cfg: {inputs}"]
        for pattern in off:
            lines += [f"    - quantizer_name: {pattern}", "      enable: false"]
        path = self.out / f"{name}.yaml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def random_assignments(self, scores):
        """Each with its own share of formats, so that losses spread over a wide range."""
        generator = random.Random(SEED)
        for index in range(self.flags.assignments):
            weights = [generator.random() ** 3 for _ in range(5)]
            chosen, predicted = {}, 0.0
            for group in scores["groups"]:
                candidate = generator.choices(["bf16", *UNIFORM], weights)[0]
                patterns = [group["name"] + ".*"] if group["routed"] else [module + "." for module in group["modules"]]
                chosen.update({pattern: candidate for pattern in patterns})
                predicted += 0 if candidate == "bf16" else group["scores"][candidate]["gauss_newton"]
            yield self.recipe(f"random_{index}", chosen), predicted


def ranks(values):
    order = sorted(range(len(values)), key=values.__getitem__)
    result = [0] * len(values)
    for rank, index in enumerate(order):
        result[index] = rank
    return result


def rank_correlation(left, right):
    n = len(left)
    squares = sum((a - b) ** 2 for a, b in zip(ranks(left), ranks(right)))
    return 1 - 6 * squares / (n * (n * n - 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("out")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--assignments", type=int, default=30)
    parser.add_argument("--random-windows", type=int, default=16)
    parser.add_argument("--where", default="--device cpu", help="flags of every command")
    parser.add_argument("--refine", default="", help="flags of the search: --refine-trials 32 --validation-size 128")
    bench = Bench(parser.parse_args())

    measured = ["--hf-model-id", bench.model, "--calib-dataset", bench.flags.calib, "--calib-size", "128"]
    searches = {"search": bench.search("search", *measured, "--all-scores", *bench.flags.refine.split())}
    scores = str(searches["search"] / "scores.json")
    searches["fisher"] = bench.search("fisher", *measured, "--scores", scores, "--method", "fisher", "--refine-trials", "0")

    names, directories = [], []
    for kind, folder in searches.items():
        for bits in BUDGETS:
            names.append(f"{kind}, {bits} bits")
            directories.append(bench.quantize(f"{kind}_{bits}", folder / f"recipe_{bits}_bits.yaml"))
    for candidate in UNIFORM:
        names.append(f"{candidate} everywhere")
        directories.append(bench.quantize(f"uniform_{candidate}", bench.uniform_recipe(candidate)))
    for recipe in NAMED:
        names.append(recipe)
        directories.append(bench.quantize(f"named_{recipe}", recipe))
    rows = [{"name": name, **result} for name, result in zip(names, bench.evaluate(directories, 64))]
    for row in sorted(rows, key=lambda row: (row["bits_per_weight"], row["kl"])):
        print(f"{row['name']:32} {row['bits_per_weight']:6.3f} bits  KL {row['kl']:.5f} +- {row['kl_standard_error']:.5f}")

    assignments = list(bench.random_assignments(json.loads(pathlib.Path(scores).read_text())))
    predicted = [kl for _, kl in assignments]
    kls = [row["kl"] for row in bench.evaluate(
        [bench.quantize(f"random_{index}", recipe) for index, (recipe, _) in enumerate(assignments)], bench.flags.random_windows)]
    correlation = rank_correlation(predicted, kls)
    print(f"{len(kls)} random assignments: KL {min(kls):.4f} to {max(kls):.4f}, predicted {min(predicted):.4f} to "
          f"{max(predicted):.4f}; rank correlation {correlation:.4f}")
    (bench.out / "results.json").write_text(json.dumps(
        {"rows": rows, "random": {"predicted": predicted, "measured": kls, "rank_correlation": correlation}}, indent=1))


if __name__ == "__main__":
    main()
