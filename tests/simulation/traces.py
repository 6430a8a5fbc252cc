#!/usr/bin/env python3
"""The same KV memory, compressed against dense, on recorded traces against the real daemon.

  tests/simulation/traces.py --build-dir build/release --compressed build/quickstart/classics-14m \\
      --traces ../shared/fixtures/traces [--json FILE]

For each trace (lengths scaled to the bundled model's context, prefix hashes turned into shared
prefixes) and each rate, palu-bench serve drives a daemon with the dense model and one with the
compressed, one after the other, several times in turn, each fresh and with the same bytes for its
cache. Rates are multiples of what the dense daemon can carry with room to spare, found first in a
closed loop, so that a slow machine does not decide. Counted: requests within the objectives,
refused ones, preemptions, prefix hits. Needs no package.
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from check import Sampler, Server, serve  # noqa: E402
from harness import MODEL  # noqa: E402

MAX_SEQUENCES = 32
# File, multiple of its lengths, longest input and output, tokens of a closed-loop request like it.
TRACES = {"Azure": ("azure_conv_2023.csv", 0.2, 600, 150, 230, 42),
          "Mooncake": ("mooncake_conversation_3000.jsonl", 0.03, 600, 60, 250, 11)}


def start(model, memory):
    return Server(model=model, args=[
        f"--cache.memory={memory}", f"--engine.max_sequences={MAX_SEQUENCES}",
        "--engine.step_tokens=256", "--engine.cpu_threads=1", "--model.max_context_tokens=1024"])


def capacity(trace):
    """Requests of the trace's kind a second where memory is no limit."""
    _, _, _, _, input_tokens, output_tokens = TRACES[trace]
    server = start(MODEL, 64 << 20)
    try:
        report = serve(server, "--concurrency", 16, "--requests", 48, "--seed", 77,
                       "--input-tokens", input_tokens, "--output-tokens", output_tokens)
        server.stop()
        return report["requests"]["per_s"]
    finally:
        server.kill()


def drive(model, memory, trace, path, speed, args):
    _, tokens, max_input, max_output, _, _ = TRACES[trace]
    server = start(model, memory)
    try:
        capacity_tokens = server.metric("palu:kv_cache_capacity_tokens")
        with Sampler(server) as sampler:
            report = serve(server, "--trace", path, "--trace-tokens", tokens, "--trace-speed",
                           f"{speed:.4f}", "--requests", args.requests, "--max-input", max_input,
                           "--max-output", max_output, "--slo-ttft-ms", args.slo_ttft_ms,
                           "--slo-tpot-ms", args.slo_tpot_ms)
        queries = sampler.change("queries")
        result = {"capacity_tokens": capacity_tokens, "sent": report["requests"]["sent"],
                  "within": report["goodput"]["requests"], "failed": report["requests"]["failed"],
                  "seconds": report["seconds"], "preemptions": sampler.change("preemptions"),
                  "hit_rate": sampler.change("hits") / queries if queries else 0.0,
                  "ttft_p50_ms": report["ttft_ms"]["p50"], "ttft_p99_ms": report["ttft_ms"]["p99"],
                  "tpot_p50_ms": report["tpot_ms"]["p50"], "tpot_p99_ms": report["tpot_ms"]["p99"]}
        server.stop()
        return result
    finally:
        server.kill()


def arrival_rate(path, requests):
    """Recorded requests a second over the first so many."""
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file.read().splitlines() if line and line[0] != "T"][:requests]
    if path.endswith(".jsonl"):
        times = [json.loads(line)["timestamp"] / 1e3 for line in lines]
    else:
        clocks = [line.split(",")[0].split(" ")[1].split(":") for line in lines]
        times = [3600 * float(h) + 60 * float(m) + float(s) for h, m, s in clocks]
    return len(times) / (times[-1] - times[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", required=True)
    parser.add_argument("--compressed", required=True, help="folder of the compressed model")
    parser.add_argument("--traces", required=True, help="folder of the traces")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--memory", type=int, default=6 << 20, help="bytes of the cache")
    parser.add_argument("--loads", default="0.4,0.7,1.0", help="shares of the closed loop's rate")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--slo-ttft-ms", type=float, default=2000)
    parser.add_argument("--slo-tpot-ms", type=float, default=100)
    parser.add_argument("--only", default="", help="one of the traces")
    parser.add_argument("--json", help="write the results to this file")
    args = parser.parse_args()
    Server.binary = os.path.abspath(os.path.join(args.build_dir, "server", "palu-server"))
    rows = []
    for trace in [name for name in TRACES if args.only in name]:
        path = os.path.join(args.traces, TRACES[trace][0])
        most = capacity(trace)
        recorded = arrival_rate(path, args.requests)
        print(f"{trace}: {most:.1f} requests/s in a closed loop, recorded {recorded:.2f}", flush=True)
        for load in map(float, args.loads.split(",")):
            for _ in range(args.repeats):
                for name, model in (("dense", MODEL), ("compressed", args.compressed)):
                    row = drive(model, args.memory, trace, path, load * most / recorded, args)
                    row.update(trace=trace, load=load, rate=load * most, cache=name)
                    rows.append(row)
                    print("  " + " ".join(f"{key}={value:.3g}" if isinstance(value, float)
                                          else f"{key}={value}" for key, value in row.items()),
                          flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(rows, out, indent=1)


if __name__ == "__main__":
    main()
