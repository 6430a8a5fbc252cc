#!/usr/bin/env python3
"""What palu-bench simulate foretells, beside what the daemon then does.

  tests/simulation/check.py --build-dir build/release [--trace FILE --trace-tokens F] [--json FILE]

Each case: a fresh daemon with the bundled model and a pool of so many tokens, a load of so large a
share of what it can carry (found first with a few clients in a closed loop), palu-bench serve. The
cost of a step is fitted to the daemon's own metrics of that run (least squares over its intervals),
the simulator is given that cost, the same trace and the same pool, and both are put side by side.
So a slow or busy machine does not decide. Needs no package.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))

from harness import Server  # noqa: E402

BLOCK_TOKENS = 16
MAX_SEQUENCES = 16
STEP_TOKENS = 256
CONTEXT = 512
# Name, tokens of the pool, share of what the daemon can carry.
CASES = [("half loaded", 8192, 0.5), ("nearly full", 8192, 0.9), ("tight pool", 1024, 0.9)]
FEATURES = ("steps", "tokens", "sequences", "attended")


def make_trace(path, requests, seed=1):
    """Poisson arrivals, one a second; half of the prompts begin with one of four prefixes."""
    noise = random.Random(seed)
    now = 0.0
    with open(path, "w", encoding="utf-8") as out:
        for index in range(requests):
            now += noise.expovariate(1)
            prefix = noise.randrange(4) if noise.random() < 0.5 else 100 + index
            length = noise.randint(80, 320)
            out.write(json.dumps({
                "timestamp": now * 1e3, "input_length": length * 8,
                "output_length": noise.randint(10, 60) * 8,
                "hash_ids": [prefix] + [1000 * index + 200 + i for i in range(length // 64)]})
                + "\n")


def bench(*args):
    binary = os.path.join(os.path.dirname(os.path.dirname(Server.binary)), "tools", "palu-bench")
    done = subprocess.run([binary, *map(str, args)], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"palu-bench {args[0]}: {done.stderr}")
    return json.loads(done.stdout)


def serve(server, *args):
    return bench("serve", "--url", f"http://127.0.0.1:{server.port}", "--quiet", "--json", "-",
                 "--ids", "10:8000", "--ignore-eos", *args)


class Sampler:
    """The daemon's counters, several times a second."""

    def __init__(self, server):
        self.server, self.rows, self.stop = server, [], threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def _run(self):
        while not self.stop.wait(0.2):
            self.rows.append(self.read())
        self.rows.append(self.read())

    def read(self):
        values = {}
        for key, value in self.server.metrics().items():
            values[key.split("{")[0]] = values.get(key.split("{")[0], 0) + value
            if 'phase="' in key and key.startswith("palu:step_phase_seconds_sum"):
                values[key.split('phase="')[1].split('"')[0]] = value
        return {"time": time.monotonic(), "steps": values["palu:batch_tokens_count"],
                "tokens": values["palu:batch_tokens_sum"],
                "sequences": values["palu:batch_sequences_sum"],
                "attended": values["palu:attended_tokens_total"],
                "seconds": sum(values.get(phase, 0) for phase in ("upload", "forward", "sample")),
                "gap": values["palu:step_gap_seconds_sum"],
                "busy": values["vllm:num_requests_running"],
                "hits": values["vllm:prefix_cache_hits_total"],
                "queries": values["vllm:prefix_cache_queries_total"],
                "preemptions": values["vllm:num_preemptions_total"]}

    def change(self, name):
        return self.rows[-1][name] - self.rows[0][name]


def solve(matrix, right):
    """Gauss with pivots; None if singular."""
    size = len(right)
    rows = [list(row) + [value] for row, value in zip(matrix, right)]
    for i in range(size):
        pivot = max(range(i, size), key=lambda r: abs(rows[r][i]))
        if abs(rows[pivot][i]) < 1e-12:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(size):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i])]
    return [rows[i][size] / rows[i][i] for i in range(size)]


def fit(samples):
    """Seconds per step, token, sequence and attended token, none negative: least squares."""
    intervals = []
    for before, after in zip(samples, samples[1:]):
        delta = {key: after[key] - before[key] for key in after}
        delta["both_busy"] = before["busy"] > 0 and after["busy"] > 0
        if delta["steps"] > 0 and delta["seconds"] > 0:
            intervals.append(delta)
    scale = {key: max(row[key] for row in intervals) or 1 for key in FEATURES}
    points = [([row[key] / scale[key] for key in FEATURES], row["seconds"]) for row in intervals]
    best, best_error = None, float("inf")
    for count in range(1, len(FEATURES) + 1):
        for chosen in itertools.combinations(range(len(FEATURES)), count):
            normal = [[sum(x[i] * x[j] for x, _ in points) for j in chosen] for i in chosen]
            found = solve(normal, [sum(x[i] * y for x, y in points) for i in chosen])
            if found is None or min(found) < 0:
                continue
            error = sum((y - sum(c * x[i] for c, i in zip(found, chosen))) ** 2
                        for x, y in points)
            if error < best_error:
                best_error = error
                best = {FEATURES[i]: c / scale[FEATURES[i]] for c, i in zip(found, chosen)}
    model = {key: best.get(key, 0.0) for key in FEATURES}
    # Between two steps of a daemon that has work; where it has none it is idle, not slow.
    loaded = [row for row in intervals if row["both_busy"] and row["gap"] < 0.5 * row["time"]]
    if loaded:
        model["steps"] += sum(r["gap"] for r in loaded) / sum(r["steps"] for r in loaded)
    return model


def capacity(server):
    """Requests of this kind a second, from as many clients as sequences may run."""
    report = serve(server, "--concurrency", MAX_SEQUENCES, "--requests", 3 * MAX_SEQUENCES,
                   "--input-tokens", 200, "--output-tokens", 35, "--seed", 77)
    return report["requests"]["per_s"]


def simulate(trace, tokens, speed, requests, pool_blocks, bytes_per_token, model):
    return bench(
        "simulate", "--json", "--trace", trace, "--tokens", tokens, "--rates", speed,
        "--requests", requests, "--max-input", CONTEXT - 128, "--max-output", 120,
        "--cache", f"c:{bytes_per_token}:{model['attended'] * 1e9:.6f}",
        "--pool-gb", f"{(pool_blocks + 0.5) * BLOCK_TOKENS * bytes_per_token / 1e9:.12f}",
        "--fixed-us", model["steps"] * 1e6, "--token-us", model["tokens"] * 1e6,
        "--sequence-us", model["sequences"] * 1e6, "--max-context", CONTEXT,
        "--max-sequences", MAX_SEQUENCES, "--step-tokens", STEP_TOKENS)[0]


def run_case(name, pool_tokens, share, trace, tokens, requests):
    """Measured and foretold figures of one case."""
    bytes_per_token = 6144  # of the bundled model, uncompressed; checked below
    server = Server(args=[f"--cache.memory={pool_tokens * bytes_per_token}",
                          f"--engine.max_sequences={MAX_SEQUENCES}",
                          f"--engine.step_tokens={STEP_TOKENS}", "--engine.cpu_threads=1",
                          f"--model.max_context_tokens={CONTEXT}"])
    try:
        if server.metric("palu:kv_cache_capacity_tokens") != pool_tokens:
            raise RuntimeError("the daemon's pool is not what was asked for")
        with open(trace, encoding="utf-8") as file:
            last = json.loads(file.read().splitlines()[requests - 1])
        speed = share * capacity(server) * last["timestamp"] / 1e3 / requests
        with Sampler(server) as sampler:
            report = serve(server, "--trace", trace, "--trace-tokens", tokens, "--trace-speed",
                           f"{speed:.6f}", "--requests", requests, "--max-input", CONTEXT - 128,
                           "--max-output", 120)
        server.stop()
    finally:
        server.kill()
    model = fit(sampler.rows)
    told = simulate(trace, tokens, f"{speed:.6f}", requests, pool_tokens // BLOCK_TOKENS,
                    bytes_per_token, model)
    rows = {
        "served": (report["requests"]["ok"], told["served"]),
        "prompt tokens": (report["tokens"]["prompt"], told["prompt_tokens"]),
        "output tokens": (report["tokens"]["completion"], told["output_tokens"]),
        "output tokens/s": (report["tokens"]["completion_per_s"],
                            told["output_tokens_per_second"]),
        "prefix hit tokens": (sampler.change("hits"), told["prefix_hit_tokens"]),
        "preemptions": (sampler.change("preemptions"), told["preemptions"]),
        "first token, mean ms": (report["ttft_ms"]["mean"], 1e3 * told["first_token_mean_s"]),
        "first token, p50 ms": (report["ttft_ms"]["p50"], 1e3 * told["first_token_p50_s"]),
        "first token, p99 ms": (report["ttft_ms"]["p99"], 1e3 * told["first_token_p99_s"]),
        "between tokens, mean ms": (report["tpot_ms"]["mean"], 1e3 * told["inter_token_mean_s"]),
        "between tokens, p99 ms": (report["tpot_ms"]["p99"], 1e3 * told["inter_token_p99_s"]),
    }
    return {"case": name, "pool_tokens": pool_tokens, "share": share, "speed": speed,
            "model_us": {key: 1e6 * value for key, value in model.items()}, "rows": rows}


def run(cases, requests, trace=None, tokens=0.125, verbose=False):
    with tempfile.TemporaryDirectory(prefix="palu-simulation-") as folder:
        if trace is None:
            trace = os.path.join(folder, "trace.jsonl")
            make_trace(trace, requests)
        results = []
        for case in cases:
            results.append(run_case(*case, trace, tokens, requests))
            if verbose:
                show(results[-1])
        return results


def show(result):
    print(f"{result['case']}: pool of {result['pool_tokens']} tokens, {result['share']:.0%} of what "
          f"the daemon can carry; fitted: " +
          ", ".join(f"{value:.2f} us/{key}" for key, value in result["model_us"].items()))
    print(f"  {'':26}{'measured':>12}{'foretold':>12}{'ratio':>8}")
    for key, (measured, told) in result["rows"].items():
        ratio = f"{told / measured:8.2f}" if measured else "       -"
        print(f"  {key:26}{measured:12.1f}{told:12.1f}{ratio}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", required=True)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--trace", help="Mooncake's form, .jsonl; default: one made up")
    parser.add_argument("--trace-tokens", type=float, default=0.125)
    parser.add_argument("--json", help="write the results to this file")
    args = parser.parse_args()
    Server.binary = os.path.abspath(os.path.join(args.build_dir, "server", "palu-server"))
    results = run(CASES, args.requests, args.trace, args.trace_tokens, verbose=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(results, out, indent=1)


if __name__ == "__main__":
    main()
