#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Runs NVIDIA Model Optimizer on the CPU and writes what it produces as small golden files (tests/golden/modelopt).
# README.md beside this file says how to build the environment and what each file holds.
"""Usage: modelopt_goldens.py OUT [--checkpoints DIR] [--only weights,activations,exclude,convert,models] [--runs NAME,...]

DIR holds latent/ and grouped/, each with checkpoint/ and golden.safetensors (tests/golden of the repository).
"""
import argparse
import contextlib
import copy
import gc
import hashlib
import importlib
import json
import os
import struct
import sys
import tempfile
import types
import warnings

# The search over block scales calls one Triton kernel, which needs a GPU. The interpreter lets the same kernel source run
# here, where it checks the stand-in below. The variable must be set before the kernel's module is imported.
os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

import modelopt  # noqa: E402
import modelopt.torch.kernels.quantization.gemm as gemm  # noqa: E402
import modelopt.torch.quantization as mtq  # noqa: E402
from modelopt.recipe import load_recipe  # noqa: E402
from modelopt.recipe.presets import KV_QUANT_CFG_CHOICES, QUANT_CFG_CHOICES  # noqa: E402
from modelopt.torch.export import export_hf_checkpoint  # noqa: E402
from modelopt.torch.export import quant_utils, unified_export_hf  # noqa: E402
from modelopt.torch.export.convert_hf_config import convert_hf_quant_config_format  # noqa: E402
from modelopt.torch.quantization.utils.core_utils import update_quant_cfg_with_kv_cache_quant  # noqa: E402

BF16 = torch.bfloat16
FP8 = {"num_bits": (4, 3), "axis": None}
NVFP4 = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}
STATIC = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "static", "scale_bits": (4, 3)}}
FOUR_SIX = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "static", "scale_bits": (4, 3), "four_over_six": True}}
GRID_46 = {"method": "mse", "fp8_scale_sweep": False, "start_multiplier": 1.0, "stop_multiplier": 1.5, "step_size": 0.5}

# variant -> (weight quantizer, input quantizer, algorithm)
VARIANTS = {
    "fp8": (FP8, FP8, "max"),
    "fp8_mse_grid": (FP8, FP8, {"method": "mse"}),
    "fp8_mse_4o6_grid": (FP8, FP8, GRID_46),
    "nvfp4_max": (NVFP4, NVFP4, "max"),
    "nvfp4_static_max": (STATIC, NVFP4, "max"),
    "nvfp4_sweep": (STATIC, NVFP4, {"method": "mse", "fp8_scale_sweep": True}),
    "nvfp4_mse_grid": (STATIC, NVFP4, {"method": "mse"}),
    "nvfp4_four_over_six": (FOUR_SIX, NVFP4, GRID_46),
    "nvfp4_local_hessian": (STATIC, None, {"method": "local_hessian", "fp8_scale_sweep": True}),
    "w4a16_nvfp4": (NVFP4, None, "max"),
}


# ---- the one kernel without a CPU path -------------------------------------------------------------------------------

def install_static_fake_quant():
    """Replaces the Triton launch for static NVFP4 fake quantization, after checking the replacement against the kernel."""
    kernel = importlib.import_module("modelopt.torch.kernels.quantization.gemm.fp4_kernel")
    common = importlib.import_module("modelopt.torch.kernels.quantization.common.nvfp4_quant")
    bounds = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    values = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])

    def stand_in(x, amax, global_amax=None, quantize_block_scales=True, fp8_max_for_normalization=448.0, out_dtype=None):
        # Block scales come from the package's own function; only the element-wise rounding is done here.
        scale = kernel.compute_fp4_scales(amax, global_amax, quantize_block_scales, fp8_max_for_normalization)
        scale = scale.reshape(-1, 1)
        zero = scale == 0
        safe = torch.where(zero | ~torch.isfinite(scale), torch.ones_like(scale), scale)
        flat = x.reshape(amax.numel(), -1).float()
        m = flat.abs() / safe
        k = torch.searchsorted(bounds, m) + ((m == 0.75) | (m == 1.75) | (m == 3.5))
        q = values[k] * safe
        q = torch.where(flat >= 0, q, -q)
        return torch.where(zero, torch.zeros_like(q), q).to(out_dtype or x.dtype).reshape(x.shape)

    # The interpreter knows neither the device library's isnan nor a CUDA device guard.
    saved = common.libdevice, torch.cuda.device
    common.libdevice = types.SimpleNamespace(isnan=lambda t: t != t)
    torch.cuda.device = lambda _: contextlib.nullcontext()
    try:
        g = torch.Generator().manual_seed(5)
        x = torch.randn(192, 16, generator=g)
        x[64:128] = torch.randint(-24, 25, (64, 16), generator=g) / 4.0     # exact ties when the scale is a power of two
        x[128] = 0
        amax = x.abs().amax(1)
        amax[64:96] = 6.0
        for ga, f in ((amax.max(), 448.0), (torch.tensor(6.0), 448.0), (amax.max(), 256.0)):
            want = kernel.static_blockwise_fp4_fake_quant(x, amax, ga, True, f, torch.float32)
            assert torch.equal(stand_in(x, amax, ga, True, f, torch.float32), want)
    finally:
        common.libdevice, torch.cuda.device = saved
    gemm.static_blockwise_fp4_fake_quant = stand_in
    gemm.IS_AVAILABLE = True


# ---- bare weights ----------------------------------------------------------------------------------------------------

def weight_cases():
    g = torch.Generator().manual_seed(20260101)

    def randn(*s):
        return torch.randn(*s, generator=g)

    cases = {"gauss": randn(64, 128) * 0.02}
    # Student's t with 2.5 degrees of freedom: a normal over the root of a chi-square mean.
    chi = torch._standard_gamma(torch.full((48, 256), 1.25), generator=g) * 2
    cases["heavy"] = randn(48, 256) * 0.01 / (chi / 2.5).sqrt()
    cases["tiny"] = randn(32, 64) * 1e-6
    z = randn(32, 128) * 0.05
    z[:, 16:32] = 0                                   # a column of zero blocks
    z[3] = 0                                          # a zero row
    z[4] = 0.03125                                    # constant blocks
    z[5] = -0.0703125
    z[6] = 0
    z[6, 5] = 0.4                                     # one value in an otherwise zero row, which also owns the maximum
    z[7] = z[7] * 1e-5                                # block scales below the smallest E4M3 value
    cases["zeros"] = z
    m = randn(32, 64) * torch.exp2(torch.rand(32, 64, generator=g) * 24 - 20)
    m[torch.rand(32, 64, generator=g) < 0.1] = -0.0
    m[torch.rand(32, 64, generator=g) < 0.1] = 0.0
    cases["mixed"] = m
    # The tensor maximum is 1.5 and a block of maximum 0.375 gets the scale 112/1792 = 1/16, so that multiples of 1/64 meet
    # every tie of the 4-bit format. Row 0 is the worked block of the format notes.
    t = torch.randint(-24, 25, (16, 64), generator=g) / 64.0
    t[:, 0::16] = 24 / 64.0
    t[0, :16] = torch.tensor([8, -4, 2, -1, 0, 3, -12, 24, 1, -2, 5, -7, 20, -20, 9, -24]) / 64.0
    t[15, 63] = -1.5
    cases["ties"] = t
    b = torch.tensor([0xbba8, 0x3c28, 0xbb94, 0xbbce, 0xbc98, 0xbb8c, 0x3cb6, 0x3c0b,
                      0x3caa, 0x3ba3, 0x3c01, 0x3b73, 0xbd08, 0x3c8c, 0x3c26, 0x3c23], dtype=torch.int32)
    pair = torch.zeros(1, 32)
    pair[0, :16] = b.to(torch.int16).view(BF16).float()
    pair[0, 16] = 0.2373046875
    cases["worked_b"] = pair
    big = randn(16, 64) * 3
    big[2, 16:32] = 0                                 # a zero block where the tensor maximum exceeds 6
    big[9, 9] = 12.0
    cases["large"] = big.clamp(-12, 12)
    one = randn(1, 16) * 0.02                         # a single block
    cases["single"] = one
    return {k: v.to(BF16).contiguous() for k, v in cases.items()}


def quantize_linears(weights, variant, acts):
    w_cfg, x_cfg, algorithm = VARIANTS[variant]
    model = nn.ModuleDict()
    for name, w in weights.items():
        linear = nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=BF16)
        linear.weight.data.copy_(w)
        model[name] = linear
    rules = [{"quantizer_name": "*", "enable": False}, {"quantizer_name": "*weight_quantizer", "cfg": w_cfg}]
    if x_cfg:
        rules.append({"quantizer_name": "*input_quantizer", "cfg": x_cfg})

    def forward(m):
        for name in weights:
            m[name](acts[name])

    return mtq.quantize(model, copy.deepcopy({"quant_cfg": rules, "algorithm": algorithm}), forward)


def exported(linear):
    out = {}
    quantizer = linear.weight_quantizer
    if quantizer.is_enabled and (quantizer.block_sizes or {}).get("type") == "static":
        # The result of the search, which the block scales are made from: one maximum a block.
        out["block_amax"] = quantizer._amax.float().reshape(linear.weight.shape[0], -1).clone()
    unified_export_hf._export_quantized_weight(linear, BF16)
    for key in ("weight", "weight_scale", "weight_scale_2", "input_scale"):
        value = getattr(linear, key, None)
        if value is not None:
            out[key] = quant_utils._maybe_squeeze_scale(key, value.detach()).clone().contiguous()
    return out


def run_weights(out):
    weights = weight_cases()
    g = torch.Generator().manual_seed(7)
    acts = {n: (torch.randn(24, w.shape[1], generator=g) * torch.exp(torch.randn(w.shape[1], generator=g))).to(BF16)
            for n, w in weights.items()}
    tensors = {f"{n}/input": w for n, w in weights.items()}
    tensors |= {f"{n}/activation": a for n, a in acts.items()}
    for variant in VARIANTS:
        model = quantize_linears(weights, variant, acts)
        for name in weights:
            for key, value in exported(model[name]).items():
                tensors[f"{name}/{variant}/{key}"] = value
    from modelopt.torch.kernels.quantization.gemm._fp8_scale_candidates import fp8_scale_candidates
    from modelopt.torch.quantization.calib.mse import MseCalibrator
    tensors["candidates/default_grid"] = MseCalibrator(torch.ones(1))._generate_candidates("cpu")
    tensors["candidates/four_over_six"] = MseCalibrator(
        torch.ones(1), step_size=0.5, start_multiplier=1.0, stop_multiplier=1.5)._generate_candidates("cpu")
    tensors["candidates/fp8_sweep"] = fp8_scale_candidates("cpu")
    save_file(tensors, os.path.join(out, "weights.safetensors"), metadata=META)
    os.chmod(os.path.join(out, "weights.safetensors"), 0o644)

    # What the exporter makes of a tensor that is zero everywhere, where no scale is defined.
    report = {}
    for variant in VARIANTS:
        w = torch.zeros(4, 32, dtype=BF16)
        try:
            model = quantize_linears({"w": w}, variant, {"w": acts["worked_b"]})
            report[variant] = {k: [str(v.dtype).removeprefix("torch."), sorted(set(v.contiguous().view(torch.uint8).flatten().tolist()))
                                   if v.dim() else float_bits(v)] for k, v in exported(model["w"]).items()}
        except Exception as e:  # the kind of failure is the result
            report[variant] = {"error": f"{type(e).__name__}: {str(e).splitlines()[0][:160]}"}
    dump(os.path.join(out, "all_zero_weight.json"), report)


def run_activations(out):
    """input_scale of both formats for chosen activation maxima, with a second batch that may raise them."""
    cases = []
    weights = {"w": torch.eye(32, dtype=BF16)}
    for values in ([0.5], [17.5], [448.0], [2688.0], [1e-3], [3.0e-5], [0.1, 0.30078125], [1.0, 0.25], [30000.0], [0.0]):
        x = torch.zeros(len(values), 32)
        for row, v in enumerate(values):
            x[row, 3 + row] = -v
        row = {"batch_maxima": [float(torch.tensor(v).to(BF16)) for v in values]}
        for variant in ("fp8", "nvfp4_max"):
            w_cfg, x_cfg, algorithm = VARIANTS[variant]
            linear = nn.Sequential(nn.Linear(32, 32, bias=False, dtype=BF16))
            linear[0].weight.data.copy_(weights["w"])
            rules = [{"quantizer_name": "*", "enable": False}, {"quantizer_name": "*weight_quantizer", "cfg": w_cfg},
                     {"quantizer_name": "*input_quantizer", "cfg": x_cfg}]

            def forward(m):
                for r in x.to(BF16):
                    m(r[None])

            try:
                m = mtq.quantize(linear, copy.deepcopy({"quant_cfg": rules, "algorithm": algorithm}), forward)
                row[variant] = float_bits(exported(m[0])["input_scale"])
            except Exception as e:
                row[variant] = {"error": f"{type(e).__name__}: {str(e).strip().splitlines()[0][:160]}"}
        cases.append(row)
    dump(os.path.join(out, "input_scales.json"), cases)


# ---- configuration files ---------------------------------------------------------------------------------------------

def run_exclude(out):
    b = "backbone.layers"
    experts = [f"{b}.1.mixer.experts.{e}.{p}_proj" for e in (0, 1, 10) for p in ("up", "down")]
    attention = [f"{b}.3.mixer.{p}_proj" for p in "qkvo"]
    mamba = [f"{b}.{i}.mixer.{p}_proj" for i in (0, 2) for p in ("in", "out")]
    shared = [f"{b}.1.mixer.shared_experts.{p}_proj" for p in ("up", "down")]
    cases = {
        "layer 1 out, layer 10 in": ([f"{b}.1.mixer.in_proj", f"{b}.1.mixer.out_proj", "lm_head"],
                                     [f"{b}.10.mixer.in_proj", f"{b}.10.mixer.out_proj"]),
        "layer 10 out, layer 1 in": ([f"{b}.10.mixer.in_proj"], [f"{b}.1.mixer.in_proj"]),
        "all but lm_head": (["lm_head"], experts + attention + mamba),
        "nothing quantized": (["lm_head", "backbone.embeddings"] + experts + mamba, []),
        "attention only out": (attention, experts + mamba + shared),
        "one projection of attention out": (attention[:3], attention[3:] + experts),
        "experts in, shared out": (mamba + attention + shared + [f"{b}.1.mixer.gate", "lm_head"], experts),
        "expert 1 out, expert 10 in": (experts[2:4], experts[:2] + experts[4:]),
        "one of two projections of an expert out": ([experts[1]], [experts[0]] + experts[2:]),
        "nested prefix: module is a prefix of another": (["a.b", "a.bc", "a.b.d"], ["a.bc.e", "a.bd"]),
        "nested prefix: parent out, child in": (["a.b"], ["a.b.c"]),
        "nested prefix: child out, parent in": (["a.b.c", "a.b.d"], ["a.b"]),
        "same name on both sides": (["x.y"], ["x.y"]),
        "no dots": (["head", "head2"], ["head3"]),
        "nothing unquantized": ([], experts),
        "both empty": ([], []),
        "conv1d beside quantized in_proj": ([f"{b}.0.mixer.conv1d", "backbone.embeddings", "lm_head"], mamba),
        "order of names does not matter": (list(reversed(mamba + attention)), experts),
        "covered by the pair of an earlier name": ([f"{b}.1.mixer.in_proj", f"{b}.1.mixer.out_proj"], [f"{b}.10.mixer.in_proj", f"{b}.11"]),
    }
    rows = []
    for title, (off, on) in cases.items():
        result = quant_utils._prefix_wildcard_summarize_exclude_modules(off, on)
        rows.append({"title": title, "quantized": on, "unquantized": off, "exclude_modules": sorted(result)})
    dump(os.path.join(out, "exclude_modules.json"), rows)

    # The step above it: per-module formats to the "quantization" object, through the function that the exporter calls.
    rows = []
    for title, layers in {
        "uniform fp8": {"m.0.a": ("fp8", 0), "m.0.b": ("fp8", 0), "head": (None, 0)},
        "uniform nvfp4": {"m.0.a": ("nvfp4", 16), "m.1.a": (None, 0), "m.10.a": ("nvfp4", 16), "head": (None, 0)},
        "uniform w4a16_nvfp4": {"m.0.a": ("w4a16_nvfp4", 16), "head": (None, 0)},
        "mixed": {"m.0.a": ("nvfp4", 16), "m.0.b": ("fp8", 0), "m.1.a": (None, 0), "head": ("w4a16_nvfp4", 16)},
        "nothing": {"m.0.a": (None, 0)},
    }.items():
        flat = {}
        for name, (fmt, block) in layers.items():
            flat[name + ".quantization"] = fmt
            flat[name + ".awq_block_size"] = block
        rows.append({"title": title, "layers": layers, "quantization": quant_utils.process_layer_quant_config(flat)})
    dump(os.path.join(out, "layer_configs.json"), rows)


def run_convert(out):
    def q(**kw):
        return {"producer": {"name": "modelopt", "version": "0.47.0"}, "quantization": kw}

    layers = {"backbone.layers.0.mixer.out_proj": {"quant_algo": "FP8"}, "backbone.layers.0.mixer.in_proj": {"quant_algo": "FP8"},
              "backbone.layers.1.mixer.experts.0.up_proj": {"quant_algo": "NVFP4", "group_size": 16},
              "backbone.layers.1.mixer.experts.0.down_proj": {"quant_algo": "NVFP4", "group_size": 16}}
    cases = {
        "uniform fp8": q(quant_algo="FP8", kv_cache_quant_algo=None, exclude_modules=["lm_head"]),
        "uniform nvfp4, kv fp8": q(quant_algo="NVFP4", kv_cache_quant_algo="FP8", group_size=16,
                                   exclude_modules=["backbone.layers.1.*", "lm_head"]),
        "uniform nvfp4, kv nvfp4": q(quant_algo="NVFP4", kv_cache_quant_algo="NVFP4", group_size=16, exclude_modules=[]),
        "uniform nvfp4 without group_size or exclusions": q(quant_algo="NVFP4", kv_cache_quant_algo=None),
        "weight only": q(quant_algo="W4A16_NVFP4", kv_cache_quant_algo=None, group_size=16, exclude_modules=["lm_head"]),
        "mixed": q(quant_algo="MIXED_PRECISION", kv_cache_quant_algo="FP8", quantized_layers=layers),
        "mixed with mtp exclusions": q(quant_algo="MIXED_PRECISION", kv_cache_quant_algo=None, quantized_layers=layers,
                                       exclude_modules=["mtp*", "mtp.layers.0*"]),
        "mixed, three formats": q(quant_algo="MIXED_PRECISION", kv_cache_quant_algo=None, quantized_layers={
            **layers, "lm_head": {"quant_algo": "W4A16_NVFP4", "group_size": 16}}),
        "kv only": q(quant_algo=None, kv_cache_quant_algo="FP8", quantized_layers={}),
        "kv only, nvfp4": q(quant_algo=None, kv_cache_quant_algo="NVFP4", quantized_layers={}),
        "fp8 per channel": q(quant_algo="FP8_PER_CHANNEL_PER_TOKEN", kv_cache_quant_algo=None, exclude_modules=["lm_head"]),
    }
    dump(os.path.join(out, "quantization_config.json"),
         [{"title": t, "hf_quant_config": c, "quantization_config": convert_hf_quant_config_format(copy.deepcopy(c))}
          for t, c in cases.items()])


# ---- whole models ----------------------------------------------------------------------------------------------------

NEMOTRON = "models/nvidia/NVIDIA-Nemotron-3"
# run -> (model preset, KV preset) or a full recipe's path
RUNS = {name: (name, None) for name in (
    "mamba_moe_nvfp4_conservative", "mamba_moe_nvfp4_aggressive", "mamba_moe_fp8_conservative", "mamba_moe_fp8_aggressive",
    "fp8", "nvfp4", "w4a16_nvfp4", "nvfp4_experts_only", "nvfp4_four_over_six", "nvfp4_w4a4_weight_mse_fp8_sweep")}
RUNS |= {
    "mamba_moe_nvfp4_aggressive-kv_fp8": ("mamba_moe_nvfp4_aggressive", "fp8"),
    "mamba_moe_fp8_conservative-kv_fp8": ("mamba_moe_fp8_conservative", "fp8"),
    "nvfp4-kv_fp8_cast": ("nvfp4", "fp8_cast"),
    "nvfp4-kv_nvfp4": ("nvfp4", "nvfp4"),
    "kv_fp8_only": (None, "fp8"),
    "super_nvfp4-mse": f"{NEMOTRON}-Super-120B-A12B-BF16/ptq/nvfp4-mse",
    "super_nvfp4-max-calib": f"{NEMOTRON}-Super-120B-A12B-BF16/ptq/nvfp4-max-calib",
    "ultra_nvfp4-4o6": f"{NEMOTRON}-Ultra-550B-A55B-BF16/ptq/nvfp4-4o6",
    "lightning_w4a16_nvfp4_4o6": f"{NEMOTRON}.5-Lightning-30B-A3B-BF16/ptq/w4a16_nvfp4_4o6",
    "nano4b_nvfp4_w4a16": f"{NEMOTRON}-Nano-4B-BF16/ptq/nvfp4_w4a16",
}


def run_config(spec):
    if isinstance(spec, str):
        recipe = load_recipe(spec)
        return recipe.quantize.model_dump(exclude_unset=True)
    model, kv = spec
    cfg = copy.deepcopy(QUANT_CFG_CHOICES[model]) if model else {"quant_cfg": None, "algorithm": "max"}
    return update_quant_cfg_with_kv_cache_quant(cfg, KV_QUANT_CFG_CHOICES[kv]["quant_cfg"]) if kv else cfg


def run_model(out, checkpoint, golden, name, spec):
    from transformers import NemotronHForCausalLM

    torch.manual_seed(0)
    model = NemotronHForCausalLM.from_pretrained(checkpoint, dtype=BF16, use_safetensors=True).eval()
    with safe_open(golden, "pt") as f:
        ids = f.get_tensor("input_ids").long()

    def forward(m):
        for row in ids:
            m(row[None], use_cache=False)

    with torch.no_grad():
        model = mtq.quantize(model, run_config(spec), forward)
        with tempfile.TemporaryDirectory() as tmp:
            export_hf_checkpoint(model, export_dir=tmp)
            os.makedirs(out, exist_ok=True)
            repairs = {}
            for f in ("config.json", "hf_quant_config.json"):
                if os.path.exists(os.path.join(tmp, f)):
                    with open(os.path.join(tmp, f), encoding="utf-8") as src:
                        text = src.read()
                    repairs[f] = text.count(BROKEN_NAME)
                    with open(os.path.join(out, f), "w", encoding="utf-8") as dst:
                        dst.write(text.replace(BROKEN_NAME, ""))
            describe(tmp, checkpoint, os.path.join(out, "tensors.json"), repairs)
    del model
    gc.collect()


# When the package maps module names back to the published ones it appends a marker segment, ".<NUL>modelopt_name_sentinel",
# and strips it afterwards. The mapping "model." -> "backbone." is an unanchored pattern whose dot matches any character, so it
# rewrites the marker too ("modelo" -> "backbone.") and the marker stays in the files. This is what it looks like there.
BROKEN_NAME = json.dumps(".\0backbone.pt_name_sentinel")[1:-1]


def describe(export_dir, checkpoint, path, repairs):
    """One line a tensor that differs from the source; the others are only counted."""
    source, result = {}, {}
    for f in sorted(os.listdir(checkpoint)):
        if f.endswith(".safetensors"):
            source |= load_file(os.path.join(checkpoint, f))
    files = sorted(f for f in os.listdir(export_dir) if f.endswith(".safetensors"))
    for f in files:
        result |= load_file(os.path.join(export_dir, f))
    lines, same = {}, 0
    for name in sorted(result):
        t = result[name].contiguous()
        if name in source and source[name].dtype == t.dtype and torch.equal(raw(source[name]), raw(t)):
            same += 1
            continue
        entry = {"dtype": DTYPES[t.dtype], "shape": list(t.shape)}
        if t.dim() == 0 and t.dtype == torch.float32:
            entry |= float_bits(t)
        else:
            entry["sha256"] = hashlib.sha256(raw(t).numpy().tobytes()).hexdigest()
        lines[name] = entry
    with open(path, "w", encoding="utf-8") as f:
        f.write('{"unchanged": %d, "missing": %s, "files": %s,\n"names_repaired": %s, "tensors": {\n'
                % (same, json.dumps(sorted(set(source) - set(result))), json.dumps(files), json.dumps(repairs)))
        f.write(",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in lines.items()))
        f.write("\n}}\n")


# ---- helpers ---------------------------------------------------------------------------------------------------------

DTYPES = {torch.uint8: "U8", torch.float8_e4m3fn: "F8_E4M3", BF16: "BF16", torch.float32: "F32", torch.float16: "F16"}
META = {"producer": f"nvidia-modelopt {modelopt.__version__}, torch {torch.__version__}, CPU"}


def raw(t):
    return t.contiguous().reshape(-1).view(torch.uint8)


def float_bits(t):
    """A 0-dim scale as its value and as the 32 bits of it (most significant digit first)."""
    return {"value": float(t.float()), "bits": f"{struct.unpack('<I', struct.pack('<f', float(t.float())))[0]:08x}"}


def dump(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1)
        f.write("\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--checkpoints", default="tests/golden")
    p.add_argument("--only", default="weights,activations,exclude,convert,models")
    p.add_argument("--runs", help="names of whole-model runs; all by default")
    a = p.parse_args()
    torch.set_num_threads(2)
    os.makedirs(a.out, exist_ok=True)
    install_static_fake_quant()
    parts = a.only.split(",")
    for part in ("weights", "activations", "exclude", "convert"):
        if part in parts:
            globals()[f"run_{part}"](a.out)
    failed = []
    if "models" in parts:
        for which in ("latent", "grouped"):
            d = os.path.join(a.checkpoints, which)
            for name, spec in RUNS.items():
                if a.runs and name not in a.runs.split(","):
                    continue
                try:
                    run_model(os.path.join(a.out, which, name), os.path.join(d, "checkpoint"),
                              os.path.join(d, "golden.safetensors"), name, spec)
                    print(f"== {which}/{name}: done", flush=True)
                except Exception as e:
                    import traceback
                    traceback.print_exc()
                    failed.append(f"{which}/{name}: {type(e).__name__}: {str(e)[:300]}")
                    print(f"== {failed[-1]}", flush=True)
    for f in failed:
        print("FAILED", f, file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
