#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures that a job's results do not depend on how ranks are laid out: models/tiny in every layout of up to 8 ranks that it can
be cut by, on hosts over MPI, against one rank; and that a killed rank ends all, at random moments.

  tools/accuracy/ranks.py PROGRAM OUT [--most 8] [--kills 20] [--jobs 1]

Needs the standard library only. Everything is written below OUT; results.json holds the numbers of the table it prints.
"""
import argparse
import array
import concurrent.futures
import filecmp
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import time

MODEL = "models/tiny"
TENSOR_RANKS = (1, 2, 4)  # four Mamba groups and attention heads
N_LAYERS, N_EXPERTS = 14, 32
ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
               "OMPI_MCA_btl_vader_single_copy_mechanism": "none", "OMP_NUM_THREADS": "1"}
SEED = 20261125


def layouts(most):
    for tp in TENSOR_RANKS:
        for pp in range(1, min(most, N_LAYERS) + 1):
            for dp in range(1, most // (tp * pp) + 1):
                for ep in range(1, tp * dp + 1):
                    if (tp * dp) % ep == 0 and N_EXPERTS % ep == 0:
                        yield {"tp": tp, "pp": pp, "ep": ep, "dp": dp}


def n_ranks(layout):
    return layout["tp"] * layout["pp"] * layout["dp"]


def name_of(layout):
    return "_".join(f"{key}{value}" for key, value in layout.items())


class Bench:
    def __init__(self, flags):
        self.program = flags.program
        self.out = pathlib.Path(flags.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.environment = {**os.environ, **ENVIRONMENT}

    def command(self, layout, *arguments):
        flags = [part for key in ("tp", "pp", "ep") for part in (f"--{key}", str(layout[key]))]
        return ["mpirun", "--bind-to", "none", "-np", str(n_ranks(layout)), self.program, *arguments, "--device", "cpu", *flags]

    def run(self, layout, *arguments):
        return subprocess.run(self.command(layout, *arguments), check=True, capture_output=True, text=True, env=self.environment).stdout

    def quantize(self, recipe, kind, name):
        return ["quantize", "--hf-model-id", MODEL, "--export-quant-cfg", recipe, "--skip-generate", "--export-dir",
                str(self.out / f"{kind}_{name}"), "--report", str(self.out / f"{kind}_{name}.json")]

    def measure(self, layout):
        name = name_of(layout)
        self.run(layout, *self.quantize("w4a16_nvfp4", "weights", name))
        self.run(layout, *self.quantize("mamba_moe_nvfp4_aggressive", "calibrated", name), "--export-kv-cache-quant", "--calib-size", "8")
        text = self.run(layout, "generate", "--model", MODEL, "--prompts", "Once upon a time|The old king", "--osl", "24")
        text = [line for line in text.splitlines() if line.startswith(">")]
        evaluate = ["evaluate", "--model", MODEL, "--text", MODEL + "/data/evaluation.txt", "--window", "128", "--windows", "8", "--json",
                    str(self.out / f"evaluation_{name}.json")]
        if layout["dp"] == 1:
            evaluate += ["--dump-logits", str(self.out / f"logits_{name}.safetensors")]
        self.run(layout, *evaluate)
        self.run(layout, "search", "--hf-model-id", MODEL, "--calib-size", "8", "--calib-seq-length", "128", "--candidates", "nvfp4,fp8",
                 "--all-scores", "--validation-size", "0", "--auto-quantize-bits", "4.75", "--output-dir", str(self.out / f"search_{name}"))
        return text


def tensors(path):
    """Name -> (dtype, bytes) of a safetensors file."""
    data = path.read_bytes()
    n_header = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n_header])
    return {name: (entry["dtype"], data[8 + n_header + entry["data_offsets"][0]:8 + n_header + entry["data_offsets"][1]])
            for name, entry in header.items() if name != "__metadata__"}


def same_files(left, right):
    names = sorted(path.name for path in left.iterdir())
    return names == sorted(path.name for path in right.iterdir()) and not any(filecmp.cmpfiles(left, right, names, shallow=False)[1:])


def compare_calibrated(left, right):
    """How many planes differ, and the largest relative difference of a scale."""
    one, other = tensors(left / "model.safetensors"), tensors(right / "model.safetensors")
    assert one.keys() == other.keys()
    n_planes, worst = 0, 0.0
    for name in one:
        if one[name] == other[name]:
            continue
        if name.endswith(("input_scale", "k_scale", "v_scale")):
            worst = max(worst, abs(struct.unpack("<f", other[name][1])[0] / struct.unpack("<f", one[name][1])[0] - 1))
        else:
            n_planes += 1
    return n_planes, worst


def rerouted_pairs(left, right):
    """Pairs of token and expert routed otherwise, at least: half of what the experts' counts differ by. And all pairs."""
    counts = [[layer.get("expert_tokens") or [] for layer in json.loads(path.read_text())["layers"]] for path in (left, right)]
    differing = sum(abs(a - b) for one, other in zip(*counts) for a, b in zip(one, other))
    return differing // 2, sum(map(sum, counts[0]))


def worst_logit(left, right):
    one, other = (array.array("f", tensors(path)["logits"][1]) for path in (left, right))
    return max(abs(a - b) for a, b in zip(one, other))


def scores_of(directory):
    """(Group, candidate, kind) -> nats, of what was measured."""
    groups = json.loads((directory / "scores.json").read_text())["groups"]
    return {(group["name"], candidate, kind): nats for group in groups for candidate, kinds in group["scores"].items()
            for kind, nats in kinds.items() if nats != 0}


def worst_scores(left, right):
    """The largest relative difference of a score, by kind."""
    one, other = scores_of(left), scores_of(right)
    assert one.keys() == other.keys()
    worst = {}
    for key, nats in one.items():
        worst[key[2]] = max(worst.get(key[2], 0.0), abs(other[key] / nats - 1))
    return worst


def mean_nll(path):
    return json.loads(path.read_text())["results"][0]["mean_nll"]


def compare(bench, layout, text, expected_text, base):
    name, out = name_of(layout), bench.out
    n_planes, worst = compare_calibrated(out / f"calibrated_{base}", out / f"calibrated_{name}")
    rerouted, pairs = rerouted_pairs(out / f"calibrated_{base}.json", out / f"calibrated_{name}.json")
    logits = out / f"logits_{name}.safetensors"
    return {"layout": layout, "same_files_weights_alone": same_files(out / f"weights_{base}", out / f"weights_{name}"),
            "planes_differing": n_planes, "worst_scale": worst, "rerouted_pairs": rerouted, "pairs": pairs, "same_text": text == expected_text,
            "worst_logit": worst_logit(out / f"logits_{base}.safetensors", logits) if logits.exists() else None,
            "nll_difference": abs(mean_nll(out / f"evaluation_{name}.json") - mean_nll(out / f"evaluation_{base}.json")),
            "worst_scores": worst_scores(out / f"search_{base}", out / f"search_{name}"),
            "same_recipe": filecmp.cmp(out / f"search_{base}/recipe_4.75_bits.yaml", out / f"search_{name}/recipe_4.75_bits.yaml", False)}


def ranks_of(launcher):
    children = pathlib.Path(f"/proc/{launcher}/task/{launcher}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []


def kill_at_random(bench, n_kills):
    """A rank of four is killed at a random moment of a calibration; all must end, and what is there be absent or whole."""
    layout = {"tp": 2, "pp": 2, "ep": 2, "dp": 1}
    arguments = [*bench.quantize("mamba_moe_nvfp4_aggressive", "killed", "job"), "--calib-size", "64"]
    target = bench.out / "killed_job"
    start = time.time()
    bench.run(layout, *arguments)
    whole_s = time.time() - start
    shutil.move(target, bench.out / "killed_whole")
    random.seed(SEED)
    kills = []
    while len(kills) < n_kills:
        moment = random.uniform(0.1, whole_s)
        job = subprocess.Popen(bench.command(layout, *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=bench.environment)
        time.sleep(moment)
        ranks = ranks_of(job.pid)
        if not ranks:
            job.wait()
            if target.exists():
                shutil.rmtree(target)
            continue
        os.kill(random.choice(ranks), signal.SIGKILL)
        start = time.time()
        status = job.wait()
        kills.append({"moment_s": moment, "ended_s": time.time() - start, "status": status, "output": target.exists(),
                      "is_whole": not target.exists() or same_files(bench.out / "killed_whole", target)})
        if target.exists():
            shutil.rmtree(target)
    bench.run(layout, *arguments)
    return {"job_s": whole_s, "kills": kills, "same_in_the_end": same_files(bench.out / "killed_whole", target)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("out")
    parser.add_argument("--most", type=int, default=8, help="ranks of the largest layouts")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1, help="layouts measured at once")
    flags = parser.parse_args()
    bench = Bench(flags)
    one, *others = sorted(layouts(flags.most), key=n_ranks)
    expected_text = bench.measure(one)
    rows = []
    with concurrent.futures.ThreadPoolExecutor(flags.jobs) as pool:
        for layout, text in zip(others, pool.map(bench.measure, others)):
            row = compare(bench, layout, text, expected_text, name_of(one))
            print(name_of(layout), *(row[key] for key in row if key != "layout"), flush=True)
            rows.append(row)
    killed = kill_at_random(bench, flags.kills)
    logits = [row["worst_logit"] for row in rows if row["worst_logit"] is not None]
    summary = {"layouts": len(rows), "same_files": sum(row["same_files_weights_alone"] for row in rows),
               "planes_differing": sum(row["planes_differing"] for row in rows), "worst_scale": max(row["worst_scale"] for row in rows),
               "worst_scale_where_routing_agreed": max(row["worst_scale"] for row in rows if row["rerouted_pairs"] == 0),
               "rerouted_pairs": sum(row["rerouted_pairs"] for row in rows), "pairs": rows[0]["pairs"],
               "layouts_rerouting": sum(row["rerouted_pairs"] > 0 for row in rows), "same_text": sum(row["same_text"] for row in rows),
               "logits_measured": len(logits), "worst_logit": max(logits), "worst_nll_difference": max(row["nll_difference"] for row in rows),
               "worst_scores": {kind: max(row["worst_scores"][kind] for row in rows) for kind in rows[0]["worst_scores"]},
               "same_recipe": sum(row["same_recipe"] for row in rows),
               "kills": len(killed["kills"]), "slowest_end_s": max(kill["ended_s"] for kill in killed["kills"]),
               "kills_with_status_0": sum(kill["status"] == 0 for kill in killed["kills"]),
               "outputs_there": sum(kill["output"] for kill in killed["kills"]),
               "all_whole": all(kill["is_whole"] for kill in killed["kills"]), "same_in_the_end": killed["same_in_the_end"]}
    (bench.out / "results.json").write_text(json.dumps({"summary": summary, "layouts": rows, "killed": killed}, indent=2) + "\n")
    for key, value in summary.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
