#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# What a quantized KV cache costs models/tiny, computed without any of our code: Hugging Face's modules in FP32, keys and values,
# with FP8 queries too, rounded by the formulas of docs/formats.md in PyTorch. README.md beside this file says how to build the
# environment.
"""Usage: kv_oracle.py OUT.json, from the root of the repository. About a minute on two cores.

Scales come from 16 windows of 512 tokens of calibration.txt, figures from as many of evaluation.txt: perplexity (511 predictions
a window), KL(BF16 || quantized cache) in nats and the share of equal likeliest tokens (512 positions a window).
"""
import json
import os
import pathlib
import platform
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import safetensors  # noqa: E402
import tokenizers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from transformers.models.nemotron_h import modeling_nemotron_h as hf  # noqa: E402

MODEL = pathlib.Path("models/tiny")
CALIBRATION = MODEL / "data/calibration.txt"
EVALUATION = MODEL / "data/evaluation.txt"
WINDOWS, WINDOW = 16, 512

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E2M1_MIDDLES = (E2M1[1:] + E2M1[:-1]) / 2


# ---- the modules' Mamba-2 layer, with a plain scan for its chunked one, which is wrong beyond a chunk, and no floor under dt

def scan(x, dt, a, b, c, d):
    """The Mamba-2 recurrence in FP64. x [batch, time, head, p], dt [batch, time, head], a, d [head], b, c [batch, time, head, n]."""
    x, dt, a, b, c, d = (t.double() for t in (x, dt, a, b, c, d))
    state = x.new_zeros(x.shape[0], x.shape[2], x.shape[3], b.shape[3])
    decay = torch.exp(dt * a)
    scaled = x * dt[..., None]
    y = torch.empty_like(x)
    for t in range(x.shape[1]):
        state = state * decay[:, t, :, None, None] + scaled[:, t, :, :, None] * b[:, t, :, None, :]
        y[:, t] = torch.matmul(state, c[:, t, :, :, None])[..., 0]
    return y + d[:, None] * x


def mamba_forward(self, u, cache_params=None, attention_mask=None):
    groups = self.n_groups * self.ssm_state_size
    gate, conv_in, dt = self.in_proj(u).split([self.intermediate_size, self.conv_dim, self.num_heads], dim=-1)
    conv_out = F.silu(self.conv1d(conv_in.transpose(1, 2))[..., : u.shape[1]].transpose(1, 2))
    x, b, c = conv_out.split([self.intermediate_size, groups, groups], dim=-1)

    def of_heads(t):
        t = t.unflatten(-1, (self.n_groups, self.ssm_state_size))
        return t.repeat_interleave(self.num_heads // self.n_groups, dim=2)

    y = scan(x.unflatten(-1, (self.num_heads, self.head_dim)), F.softplus(dt + self.dt_bias), -torch.exp(self.A_log),
             of_heads(b), of_heads(c), self.D)
    return self.out_proj(self.norm(y.flatten(-2).float(), gate))


def load_model():
    hf.NemotronHMamba2Mixer.forward = mamba_forward
    config = transformers.AutoConfig.from_pretrained(MODEL)
    config.use_mamba_kernels = False
    model = hf.NemotronHForCausalLM.from_pretrained(MODEL, config=config, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def windows_of(path):
    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    ids = tokenizer.encode(path.read_text(), add_special_tokens=False).ids
    return torch.tensor(ids[: WINDOWS * WINDOW]).view(WINDOWS, WINDOW)


# ---- rounding, as docs/formats.md has it under "Activations"; amax is the tensor's calibrated maximum

def round_fp8(x, amax):
    scale = amax / 448
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


def round_e2m1(y):
    k = torch.searchsorted(E2M1_MIDDLES, y.abs().contiguous())  # of a tie the lower code,
    k = k + (torch.isin(y.abs(), E2M1_MIDDLES) & (k % 2 == 1))  # unless it is the odd one
    return E2M1[k].copysign(y)


def round_nvfp4(x, amax, divisor=2688):
    scale = amax / divisor
    blocks = x.unflatten(-1, (-1, 16))
    block_scale = (blocks.abs().amax(-1, keepdim=True) / (6 * scale)).clamp(max=448).to(torch.float8_e4m3fn).float()
    unit = block_scale * scale
    return torch.where(block_scale == 0, torch.zeros(()), round_e2m1(blocks / unit) * unit).flatten(-2)


def round_nvfp4_as_served(x, amax):
    """As vLLM and TensorRT-LLM do: the stored scale, amax/448, is the global one."""
    return round_nvfp4(x, amax, 448)


def round_query_fp8(q):
    """As servers with an FP8 cache do: with scale 1."""
    return round_fp8(q, 448)


# name: of keys and values, of queries
ROUNDINGS = {"fp8": (round_fp8, round_query_fp8), "fp8_unrounded_queries": (round_fp8, None), "nvfp4": (round_nvfp4, None),
             "nvfp4_as_served": (round_nvfp4_as_served, None)}


# ---- runs

CACHED = ("k_proj", "v_proj")  # the linears whose outputs a KV cache holds
QUERY = "q_proj"


def projections(model):
    """The linears whose outputs attention takes, by their names in the checkpoint."""
    return {name.replace("model.", "backbone.", 1): module for name, module in model.named_modules()
            if name.endswith((*CACHED, QUERY))}


@torch.no_grad()
def run(model, windows, on_output=None):
    """Logits [windows, tokens, vocabulary]; on_output(name, output) may replace what attention takes."""
    hooks = [] if on_output is None else [
        module.register_forward_hook(lambda _, __, output, name=name: on_output(name, output))
        for name, module in projections(model).items()]
    logits = model(windows, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return logits


def calibrate(model):
    amax = {}

    def observe(name, output):
        if name.endswith(CACHED):
            amax[name] = output.abs().max()

    run(model, windows_of(CALIBRATION), observe)
    return amax


def score(base, logits, windows):
    """Sums over windows in FP64, one at a time: a whole set of logits in FP64 is large."""
    nll = kl = agreeing = 0.0
    for base_row, row, ids in zip(base, logits, windows):
        p, q = F.log_softmax(base_row.double(), -1), F.log_softmax(row.double(), -1)
        nll -= q[:-1].gather(1, ids[1:, None]).sum().item()
        kl += (p.exp() * (p - q)).sum().item()
        agreeing += (base_row.argmax(-1) == row.argmax(-1)).sum().item()
    n_windows, n_tokens = windows.shape
    mean_nll = nll / (n_windows * (n_tokens - 1))
    return {"perplexity": float(torch.tensor(mean_nll, dtype=torch.float64).exp()), "mean_nll": mean_nll,
            "kl": kl / (n_windows * n_tokens), "top1_agreement": agreeing / (n_windows * n_tokens)}


def main(out):
    model = load_model()
    amax = calibrate(model)
    windows = windows_of(EVALUATION)
    base = run(model, windows)
    results = {"none": score(base, base, windows)}
    for name, (round_cached, round_query) in ROUNDINGS.items():
        def rounded(module, output):
            if module.endswith(CACHED):
                return round_cached(output, amax[module])
            return round_query(output) if round_query else None

        results[name] = score(base, run(model, windows, rounded), windows)
    scales = {name + (".k_scale" if name.endswith("k_proj") else ".v_scale"): float(value / 448) for name, value in amax.items()}
    golden = {
        "oracle": "tools/oracle/kv_oracle.py",
        "versions": {"python": platform.python_version(), "safetensors": safetensors.__version__,
                     "tokenizers": tokenizers.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "model": str(MODEL), "calibration_text": str(CALIBRATION), "evaluation_text": str(EVALUATION),
        "windows": WINDOWS, "window_tokens": WINDOW,
        "scales": scales, "results": results}
    pathlib.Path(out).write_text(json.dumps(golden, indent=2) + "\n")
    for name, result in results.items():
        print(f"{name:22} perplexity {result['perplexity']:.4f}  KL {result['kl']:.6f}  top-1 {result['top1_agreement']:.4f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
