#!/usr/bin/env python3
"""What the daemon adds to the engine's own time, as 64 clients see it.

  tests/bench/front_end.py --build-dir build/release [--rounds 3] [--json FILE]

palu-bench serve in a closed loop against a fresh daemon with the bundled model. Beside what its
clients saw stands what /metrics says of the same time: the phases of a step, and the engine's own
times of tokens and whole requests, which end where the engine hands a token over. Server, engine
and clients share the machine's cores. Needs no package.
"""

import argparse
import json
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "simulation"))

from check import Server, serve  # noqa: E402

STREAMS = 64
INPUT_TOKENS = 16
OUTPUT_TOKENS = 100


class Change:
    """How far the daemon's counters went."""

    def __init__(self, server):
        self.server, self.before = server, server.metrics()

    def __call__(self, name):
        now = self.server.metrics()
        return sum(value - self.before.get(key, 0) for key, value in now.items()
                   if key.split("{")[0] == name)

    def mean_ms(self, histogram):
        return 1e3 * self(histogram + "_sum") / self(histogram + "_count")


def measure(args):
    server = Server(args=[f"--engine.max_sequences={STREAMS}", "--cache.memory=512MiB",
                          f"--engine.cpu_threads={args.threads}"])
    load = ("--concurrency", STREAMS, "--input-tokens", INPUT_TOKENS, "--output-tokens",
            OUTPUT_TOKENS)
    try:
        serve(server, *load, "--requests", STREAMS, "--seed", 1)
        change = Change(server)
        report = serve(server, *load, "--requests", 2 * STREAMS, "--seed", 2)
        result = {
            "tokens": change("vllm:generation_tokens_total"),
            "steps": change("palu:batch_tokens_count"),
            "step_ms": 1e3 * change("palu:step_phase_seconds_sum")
            / change("palu:batch_tokens_count"),
            "token_p50_ms": report["tpot_ms"]["p50"], "token_ms": report["tpot_ms"]["mean"],
            "engine_token_ms": change.mean_ms("vllm:request_time_per_output_token_seconds"),
            "first_ms": report["ttft_ms"]["mean"],
            "engine_first_ms": change.mean_ms("vllm:time_to_first_token_seconds"),
            "request_ms": report["e2e_ms"]["mean"],
            "engine_request_ms": change.mean_ms("vllm:e2e_request_latency_seconds"),
        }
        result["added_ms"] = result["token_ms"] - result["engine_token_ms"]
        server.stop()
        return result
    finally:
        server.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build-dir", default="build/release")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--json")
    args = parser.parse_args()
    Server.binary = os.path.abspath(os.path.join(args.build_dir, "server", "palu-server"))
    results = []
    for index in range(args.rounds):
        r = measure(args)
        results.append(r)
        print(f"round {index}: {r['tokens']:.0f} tokens in {r['steps']:.0f} steps of "
              f"{r['step_ms']:.2f} ms; ms per token: clients p50 {r['token_p50_ms']:.2f}, mean "
              f"{r['token_ms']:.2f}, engine's mean {r['engine_token_ms']:.2f}, added "
              f"{r['added_ms']:.2f}", flush=True)
        print(f"  mean ms, clients / engine: first token {r['first_ms']:.1f} / "
              f"{r['engine_first_ms']:.1f}, whole request {r['request_ms']:.1f} / "
              f"{r['engine_request_ms']:.1f}", flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(results, out, indent=1)


if __name__ == "__main__":
    main()
