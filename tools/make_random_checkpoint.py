#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Writes a seeded random BF16 nemotron_h checkpoint of a chosen shape, as sharded safetensors with the published tensor names.
# It exists for tests and benchmarks that need weights of a real model's size; it needs numpy and the standard library only.
"""Examples:
  make_random_checkpoint.py OUT --preset nano-30b --bytes 8e9     # as many leading layers as fit in 8 GB of tensors
  make_random_checkpoint.py OUT --preset super-120b --layers 3 --experts 64
  make_random_checkpoint.py OUT --preset mini                      # all 12 layers of a 0.2 GB model

By default every tensor is a slice of one pool of random numbers, at an offset of its own, so that the disk is the limit.
The values then repeat: two tensors (or two parts of a large one) may hold the same run of numbers. --fresh draws each
tensor anew from its own seeded stream; it is several times slower.
"""
import argparse
import json
import multiprocessing
import os
import struct
import sys
import time
import zlib

import numpy as np

COMMON = dict(vocab_size=131072, conv_kernel=4, n_groups=8, ssm_state_size=128, chunk_size=128, head_dim=128,
              moe_latent_size=None, routed_scaling_factor=2.5, max_position_embeddings=262144)

# Shapes of the public models. `pattern` is one letter a layer: M Mamba-2, E mixture of experts, * attention, - dense MLP.
PRESETS = {
    "mini": dict(
        pattern="MEMEM*EMEM*E", vocab_size=8192, hidden_size=512, num_attention_heads=8, num_key_value_heads=2,
        head_dim=64, mamba_num_heads=16, mamba_head_dim=64, n_groups=4, ssm_state_size=64, n_routed_experts=32,
        num_experts_per_tok=4, moe_intermediate_size=448, moe_shared_expert_intermediate_size=896,
        intermediate_size=1024, max_position_embeddings=8192),
    "nano-30b": dict(
        pattern="MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", hidden_size=2688, num_attention_heads=32,
        num_key_value_heads=2, mamba_num_heads=64, mamba_head_dim=64, n_routed_experts=128, num_experts_per_tok=6,
        moe_intermediate_size=1856, moe_shared_expert_intermediate_size=3712, intermediate_size=1856),
    "super-120b": dict(
        pattern="MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME",
        hidden_size=4096, num_attention_heads=32, num_key_value_heads=2, mamba_num_heads=128, mamba_head_dim=64,
        n_routed_experts=512, num_experts_per_tok=22, moe_intermediate_size=2688, moe_latent_size=1024,
        moe_shared_expert_intermediate_size=5376, intermediate_size=2688, routed_scaling_factor=5.0),
    "ultra-550b": dict(
        pattern="MEMEMEM*EMEMEM*EMEMEMEM*EMEMEMEM*EMEMEM*EMEMEMEM*EMEMEMEM*EMEMEM*EMEMEMEM*EMEMEMEM*EMEMEM*EMEMEMEM*"
                "EMEMEMEME",
        hidden_size=8192, num_attention_heads=64, num_key_value_heads=2, mamba_num_heads=256, mamba_head_dim=64,
        n_routed_experts=512, num_experts_per_tok=22, moe_intermediate_size=5120, moe_latent_size=2048,
        moe_shared_expert_intermediate_size=10240, intermediate_size=5120, routed_scaling_factor=5.0),
    "nano-4b": dict(
        pattern="M-M-M-MM-M-M*-M-M*-M-M-M*-M-M-MM*-MMM-M-M-", hidden_size=3136, num_attention_heads=40,
        num_key_value_heads=8, mamba_num_heads=96, mamba_head_dim=80, intermediate_size=12544, chunk_size=256),
    "h-8b": dict(
        pattern="M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-", hidden_size=4096, num_attention_heads=32,
        num_key_value_heads=8, mamba_num_heads=128, mamba_head_dim=64, intermediate_size=21504),
}

ITEM = {"BF16": 2, "F32": 4}


def layer_tensors(c, index, kind, prefix="backbone.layers"):
    """(name, shape, dtype, role) of one layer's tensors, in module order."""
    b = f"{prefix}.{index}"
    h = c["hidden_size"]
    out = [(f"{b}.norm.weight", (h,), "BF16", "one")]

    def linear(name, n, k):
        out.append((f"{b}.mixer.{name}.weight", (n, k), "BF16", "normal"))

    if kind == "M":
        heads, inner = c["mamba_num_heads"], c["mamba_num_heads"] * c["mamba_head_dim"]
        conv = inner + 2 * c["n_groups"] * c["ssm_state_size"]
        out += [(f"{b}.mixer.dt_bias", (heads,), "BF16", "dt_bias"),
                (f"{b}.mixer.A_log", (heads,), "BF16", "a_log"),
                (f"{b}.mixer.D", (heads,), "BF16", "one"),
                (f"{b}.mixer.conv1d.weight", (conv, 1, c["conv_kernel"]), "BF16", "conv"),
                (f"{b}.mixer.conv1d.bias", (conv,), "BF16", "normal")]
        linear("in_proj", inner + conv + heads, h)
        out.append((f"{b}.mixer.norm.weight", (inner,), "BF16", "one"))
        linear("out_proj", h, inner)
    elif kind == "*":
        q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
        linear("q_proj", q, h), linear("k_proj", kv, h), linear("v_proj", kv, h), linear("o_proj", h, q)
    elif kind == "-":
        linear("up_proj", c["intermediate_size"], h), linear("down_proj", h, c["intermediate_size"])
    elif kind == "E":
        e, i, s = c["n_routed_experts"], c["moe_intermediate_size"], c["moe_shared_expert_intermediate_size"]
        latent = c["moe_latent_size"] or h
        linear("gate", e, h)
        out.append((f"{b}.mixer.gate.e_score_correction_bias", (e,), "F32", "router_bias"))
        if c["moe_latent_size"]:
            linear("fc1_latent_proj", latent, h), linear("fc2_latent_proj", h, latent)
        for x in range(e):
            linear(f"experts.{x}.up_proj", i, latent), linear(f"experts.{x}.down_proj", latent, i)
        linear("shared_experts.up_proj", s, h), linear("shared_experts.down_proj", h, s)
    else:
        raise SystemExit(f"unknown layer letter {kind!r}")
    return out


def mtp_tensors(c):
    """One prediction depth: an attention layer behind the fusion projection, then a mixture of experts."""
    h = c["hidden_size"]
    first = [("mtp.layers.0.enorm.weight", (h,), "BF16", "one"), ("mtp.layers.0.hnorm.weight", (h,), "BF16", "one"),
             ("mtp.layers.0.eh_proj.weight", (h, 2 * h), "BF16", "normal")]
    last = [("mtp.layers.1.final_layernorm.weight", (h,), "BF16", "one")]
    return first + layer_tensors(c, 0, "*", "mtp.layers") + layer_tensors(c, 1, "E", "mtp.layers") + last


def nbytes(tensors):
    return sum(int(np.prod(t[1], dtype=np.int64)) * ITEM[t[2]] for t in tensors)


def to_bf16(x):
    """Round-to-nearest-even on the bit pattern; the inputs are finite."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + (np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)).astype(np.uint16)


class Source:
    def __init__(self, seed, std, fresh, pool_items):
        self.seed, self.std, self.fresh = seed, np.float32(std), fresh
        if not fresh:
            rng = np.random.Generator(np.random.SFC64(seed))
            self.pool = np.empty(pool_items, np.uint16)
            for at in range(0, pool_items, 1 << 20):
                part = rng.standard_normal(min(1 << 20, pool_items - at), np.float32)
                self.pool[at:at + part.size] = to_bf16(part * self.std)

    def rng(self, name):
        # The name, not the order of writing, picks the stream: a tensor keeps its values when the layer count changes.
        return np.random.Generator(np.random.SFC64([self.seed, zlib.crc32(name.encode())]))

    def chunks(self, name, shape, dtype, role):
        n = int(np.prod(shape, dtype=np.int64))
        rng = self.rng(name)
        if role == "normal":
            if self.fresh:
                for at in range(0, n, 1 << 20):
                    yield to_bf16(rng.standard_normal(min(1 << 20, n - at), np.float32) * self.std)
                return
            at = int(rng.integers(self.pool.size))
            while n:
                take = min(n, self.pool.size - at)
                yield self.pool[at:at + take]
                n, at = n - take, 0
            return
        if role == "one":
            x = np.ones(n, np.float32)
        elif role == "conv":     # uniform with the bound that a K-tap depthwise convolution is initialised with
            bound = shape[-1] ** -0.5
            x = rng.uniform(-bound, bound, n)
        elif role == "a_log":    # A in [-16, -1]
            x = np.log(rng.uniform(1.0, 16.0, n))
        elif role == "dt_bias":  # the inverse softplus of a step that is log-uniform in [0.001, 0.1]
            dt = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), n))
            x = dt + np.log(-np.expm1(-dt))
        elif role == "router_bias":
            x = rng.standard_normal(n) * 0.02
        else:
            raise AssertionError(role)
        yield x.astype(np.float32) if dtype == "F32" else to_bf16(x)


def write_shard(path, tensors, source):
    # Order of the official writer: wider dtype first, then the name's bytes, so every tensor is naturally aligned.
    order = sorted(tensors, key=lambda t: (-ITEM[t[2]], t[0].encode()))
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for t in order:
        size = nbytes([t])
        header[t[0]] = {"dtype": t[2], "shape": list(t[1]), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb", buffering=1 << 22) as f:
        f.write(struct.pack("<Q", len(text)))
        f.write(text)
        for t in order:
            for part in source.chunks(*t):
                f.write(memoryview(part).cast("B"))
    return at


WORK = []


def write_shard_number(index):
    return write_shard(*WORK[index])


def config_of(c, pattern, std, mtp):
    moe = "E" in c["pattern"]
    config = {
        "architectures": ["NemotronHForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
        "chunk_size": c["chunk_size"], "conv_kernel": c["conv_kernel"], "eos_token_id": 2, "expand": 2,
        "head_dim": c["head_dim"], "hidden_dropout": 0.0, "hidden_size": c["hidden_size"],
        "hybrid_override_pattern": pattern, "initializer_range": std, "intermediate_size": c["intermediate_size"],
        "layer_norm_epsilon": 1e-05, "mamba_head_dim": c["mamba_head_dim"], "mamba_hidden_act": "silu",
        "mamba_num_heads": c["mamba_num_heads"], "mamba_proj_bias": False, "mamba_ssm_cache_dtype": "float32",
        "max_position_embeddings": c["max_position_embeddings"], "mlp_bias": False, "mlp_hidden_act": "relu2",
        "model_type": "nemotron_h", "n_groups": c["n_groups"], "num_attention_heads": c["num_attention_heads"],
        "num_hidden_layers": len(pattern), "num_key_value_heads": c["num_key_value_heads"], "num_logits_to_keep": 1,
        "pad_token_id": 0, "rescale_prenorm_residual": True, "residual_in_fp32": False,
        "ssm_state_size": c["ssm_state_size"], "tie_word_embeddings": False, "time_step_floor": 0.0001,
        "time_step_max": 0.1, "time_step_min": 0.001, "torch_dtype": "bfloat16", "use_bias": False, "use_cache": True,
        "use_conv_bias": True, "vocab_size": c["vocab_size"],
    }
    if moe:
        config.update({
            "moe_intermediate_size": c["moe_intermediate_size"], "moe_latent_size": c["moe_latent_size"],
            "moe_shared_expert_intermediate_size": c["moe_shared_expert_intermediate_size"], "n_group": 1,
            "n_routed_experts": c["n_routed_experts"], "n_shared_experts": 1, "norm_topk_prob": True,
            "num_experts_per_tok": min(c["num_experts_per_tok"], c["n_routed_experts"]),
            "routed_scaling_factor": c["routed_scaling_factor"], "topk_group": 1})
    if mtp:
        config.update({"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E"})
    return dict(sorted(config.items()))


def dump(path, value, **kw):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2, **kw)
        f.write("\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", help="directory to write; created if missing")
    p.add_argument("--preset", choices=sorted(PRESETS), default="nano-30b")
    cut = p.add_mutually_exclusive_group()
    cut.add_argument("--layers", type=int, help="keep this many leading layers")
    cut.add_argument("--bytes", type=float, help="keep the leading layers that fit in this many bytes of tensors")
    p.add_argument("--pattern", help="replace the preset's layer pattern")
    p.add_argument("--experts", type=int, help="replace the number of routed experts")
    p.add_argument("--vocab-size", type=int, help="replace the vocabulary size")
    p.add_argument("--mtp", action="store_true", help="add one multi-token prediction depth (mixture-of-experts presets)")
    p.add_argument("--shard-bytes", type=float, default=5e9, help="start a new shard past this size (default 5e9)")
    p.add_argument("--std", type=float, default=0.02)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--jobs", type=int, default=1, help="shards written at a time, by a process each (default 1)")
    p.add_argument("--fresh", action="store_true", help="draw every number anew instead of reusing one pool")
    a = p.parse_args()

    c = {**COMMON, **PRESETS[a.preset]}
    if a.pattern:
        c["pattern"] = a.pattern
    if a.experts:
        c["n_routed_experts"] = a.experts
    if a.vocab_size:
        c["vocab_size"] = a.vocab_size
    if ("E" in c["pattern"] or a.mtp) and "n_routed_experts" not in c:
        p.error(f"preset {a.preset} has no experts")

    h, v = c["hidden_size"], c["vocab_size"]
    head = [("backbone.embeddings.weight", (v, h), "BF16", "normal")]
    tail = [("backbone.norm_f.weight", (h,), "BF16", "one"), ("lm_head.weight", (v, h), "BF16", "normal")]
    tail += mtp_tensors(c) if a.mtp else []
    layers = [layer_tensors(c, i, kind) for i, kind in enumerate(c["pattern"])]
    keep = len(layers)
    if a.layers is not None:
        if not 1 <= a.layers <= keep:
            p.error(f"--layers must be 1 to {keep}")
        keep = a.layers
    elif a.bytes is not None:
        used, keep = nbytes(head + tail), 0
        while keep < len(layers) and used + nbytes(layers[keep]) <= a.bytes:
            used, keep = used + nbytes(layers[keep]), keep + 1
        if not keep:
            p.error(f"{a.bytes:.3g} bytes do not hold the embeddings and one layer ({nbytes(head + tail + layers[0])} bytes): "
                    "use a smaller --vocab-size, or --preset mini")
    pattern = c["pattern"][:keep]

    shards, room = [[]], 0.0
    for t in head + [t for layer in layers[:keep] for t in layer] + tail:
        size = nbytes([t])
        if shards[-1] and room + size > a.shard_bytes:
            shards.append([])
            room = 0.0
        shards[-1].append(t)
        room += size

    start = time.time()
    os.makedirs(a.out, exist_ok=True)
    stale = [f for f in os.listdir(a.out) if f.endswith((".safetensors", ".safetensors.index.json"))]
    if stale:
        sys.exit(f"{a.out} already holds {stale[0]}; give an empty directory")
    source = Source(a.seed, a.std, a.fresh, 32_000_011)
    names = ["model.safetensors"] if len(shards) == 1 else \
            [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    work = [(os.path.join(a.out, name), tensors, source) for name, tensors in zip(names, shards)]
    if a.jobs > 1:
        # Forked processes share the pool of numbers and the list of work; only its indexes travel.
        global WORK
        WORK = work
        with multiprocessing.get_context("fork").Pool(a.jobs) as pool:
            total = sum(pool.map(write_shard_number, range(len(work)), chunksize=1))
    else:
        total = sum(write_shard(*item) for item in work)
    weight_map = {t[0]: name for name, tensors in zip(names, shards) for t in tensors}
    params = sum(int(np.prod(t[1], dtype=np.int64)) for tensors in shards for t in tensors)
    if len(shards) > 1:
        dump(os.path.join(a.out, "model.safetensors.index.json"),
             {"metadata": {"total_parameters": params, "total_size": total}, "weight_map": weight_map}, sort_keys=True)
    dump(os.path.join(a.out, "config.json"), config_of(c, pattern, a.std, a.mtp))
    dump(os.path.join(a.out, "generation_config.json"),
         {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": [2, 11], "pad_token_id": 0})
    took = time.time() - start
    print(f"{a.out}: {pattern} ({keep} layers), {len(weight_map)} tensors, {params} values, {total} bytes, "
          f"{len(shards)} shard(s), {took:.1f} s, {total / took / 1e6:.0f} MB/s")


if __name__ == "__main__":
    main()
