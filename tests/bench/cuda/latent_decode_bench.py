"""Sets latent decode attention beside PyTorch's dense attention on one GPU, in one run.

usage: latent_decode_bench.py PATH_OF_latent_decode_bench [--quick] [--only TEXT]...
"""
import json
import subprocess
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
HEADS, HEAD_DIM = 32, 128


def time_dense(kv_heads, context, batch, backend):
    """Median microseconds of one call, inputs rotated so that none lives in the device's cache."""
    one = 2 * batch * kv_heads * context * HEAD_DIM * 2
    sets = max(1, -(-(384 << 20) // one))
    make = lambda heads, length: torch.randn(  # noqa: E731
        batch, heads, length, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
    q = make(HEADS, 1)
    kv = [(make(kv_heads, context), make(kv_heads, context)) for _ in range(sets)]
    with sdpa_kernel(backend):
        def run():
            for k, v in kv:
                torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, enable_gqa=kv_heads != HEADS)
        run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
    times = []
    for _ in range(15):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1000 / sets)
    return sorted(times)[len(times) // 2]


def best_dense(kv_heads, context, batch):
    best = (float("inf"), "none")
    for backend in BACKENDS:
        try:
            best = min(best, (time_dense(kv_heads, context, batch, backend), backend.name))
        except RuntimeError:
            continue
    torch.cuda.empty_cache()
    return best


def main():
    lines = subprocess.run(sys.argv[1:], check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in lines.splitlines()]
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, "
          f"copy {rows[0]['copy_gbps']} GB/s")
    dense = {}
    print("heads | K s,r | V s,r | format | context x batch | us | bound us | GB/s | % | dense us | x")
    for row in rows[1:]:
        key = (row["kv_heads"], row["context"], row["batch"])
        if key not in dense:
            dense[key] = best_dense(*key)
            print(f"# dense {key}: {dense[key]}")
        us, name = dense[key]
        print(f"{HEADS}/{row['kv_heads']} | {row['key'][0]},{row['key'][1]} | "
              f"{row['value'][0]},{row['value'][1]} | {row['format']} | "
              f"{row['context']} x {row['batch']} | {row['us']} | {row['bound_us']} | "
              f"{row['gbps']} | {row['percent']} | {us:.1f} | {us / row['us']:.2f}")


if __name__ == "__main__":
    main()
