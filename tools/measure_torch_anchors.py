#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# What PyTorch reaches on the same device for the work that Vernier's device benches measure; docs/results.md sets them
# side by side. Needs torch with CUDA. Medians of event-timed runs on random data.
import statistics
import sys

import torch


def seconds(work, n_runs=15):
    for _ in range(3):
        work()
    times = []
    for _ in range(n_runs):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def nvfp4_encode(w, global_scale):
    """Max block scales and E2M1 codes, packed: what an eager quantizer does."""
    blocks = w.float().view(w.shape[0], -1, 16)
    amax = blocks.abs().amax(-1)
    scales = (amax / (6 * global_scale)).clamp(2**-9, 448).to(torch.float8_e4m3fn)
    y = blocks / (scales.float() * global_scale).unsqueeze(-1)
    magnitude = y.abs()
    bounds = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], device=w.device)
    codes = torch.bucketize(magnitude, bounds, out_int32=True).to(torch.uint8) | ((y < 0).to(torch.uint8) << 3)
    codes = codes.view(w.shape[0], -1, 2)
    return codes[..., 0] | (codes[..., 1] << 4), scales


def main():
    if not torch.cuda.is_available():
        sys.exit("no CUDA device")
    n = 8192
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    big = torch.randn(1 << 29, device="cuda", dtype=torch.bfloat16)
    other = torch.empty_like(big)
    print(f"copy: {4 * big.numel() / seconds(lambda: other.copy_(big)) / 1e12:.2f} TB/s read and written")
    del big, other
    a = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
    print(f"BF16 product {n}^3: {2 * n**3 / seconds(lambda: a @ b.t()) / 1e12:.0f} TFLOP/s")
    one = torch.ones((), device="cuda")
    a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
    for fast in (False, True):
        time = seconds(lambda: torch._scaled_mm(a8, b8.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=fast))
        print(f"FP8 product {n}^3, fast accumulation {fast}: {2 * n**3 / time / 1e12:.0f} TFLOP/s")
    scale = a.abs().max().float() / 2688
    for name, encode in (("eager", nvfp4_encode), ("torch.compile", torch.compile(nvfp4_encode))):
        print(f"NVFP4 encode {n}x{n}, {name}: {2 * n * n / seconds(lambda: encode(a, scale)) / 1e9:.0f} GB/s of BF16")


if __name__ == "__main__":
    main()
