#!/usr/bin/env python3
"""What palu-bench simulate foretells, beside what the daemon then does.

  tests/simulation/check.py --build-dir build/release [--model DIR]... [--loads 0.3,0.6,0.9]
      [--pool-tokens N] [--trace FILE --trace-tokens F] [--json FILE]

palu-bench costs measures what steps of the model take on this machine, and a few requests to an
idle daemon how long a request is under way outside of the engine. For each load, a share of what
the daemon carries in a closed loop, a fresh daemon gets a trace from palu-bench serve, and the
simulator the same trace, pool and settings. The last column is the simulator once more with all
times of steps multiplied by one factor, by which they then take as long in all as the daemon's
counters say: the machine may have become slower or faster since the table was made. Needs no
package.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))

from harness import MODEL, Server  # noqa: E402

MAX_SEQUENCES = 16
STEP_TOKENS = 256
CONTEXT = 512
MAX_INPUT, MAX_OUTPUT = CONTEXT - 128, 120
PHASES = ("upload", "forward", "sample")
COUNTERS = {"hits": "vllm:prefix_cache_hits_total", "queries": "vllm:prefix_cache_queries_total",
            "preemptions": "vllm:num_preemptions_total",
            "first_tokens": "vllm:time_to_first_token_seconds_count",
            "first_token_s": "vllm:time_to_first_token_seconds_sum",
            "steps": "palu:batch_tokens_count", "tokens": "palu:batch_tokens_sum"}


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


def palu_bench(*args):
    binary = os.path.join(os.path.dirname(os.path.dirname(Server.binary)), "tools", "palu-bench")
    done = subprocess.run([binary, *map(str, args)], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"palu-bench {args[0]}: {done.stderr}")
    return done.stdout


def serve(server, *args):
    return json.loads(palu_bench("serve", "--url", f"http://127.0.0.1:{server.port}", "--quiet",
                                 "--json", "-", "--ids", "10:8000", "--ignore-eos", *args))


def counters(server):
    """The daemon's, each summed over its labels; and the seconds that its device was busy."""
    values, device = {}, 0.0
    for key, value in server.metrics().items():
        values[key.split("{")[0]] = values.get(key.split("{")[0], 0) + value
        if key.startswith("palu:step_phase_seconds_sum") and any(
                f'phase="{phase}"' in key for phase in PHASES):
            device += value
    return {"device_s": device,
            **{name: values.get(metric, 0) for name, metric in COUNTERS.items()}}


class Counted:
    """How much the counters rose inside a with block."""

    def __init__(self, server):
        self.server, self.rise = server, {}

    def __enter__(self):
        self.before = counters(self.server)
        return self

    def __exit__(self, *_):
        after = counters(self.server)
        self.rise = {name: after[name] - self.before[name] for name in after}


def measure_costs(model, path, repetitions):
    """Writes the table of palu-bench costs; the table, and what was printed beside it."""
    text = palu_bench("costs", "--model", model, "--threads", 1, "--step-tokens", STEP_TOKENS,
                      "--max-sequences", MAX_SEQUENCES, "--max-context", CONTEXT, "--repetitions",
                      repetitions, "--out", path)
    with open(path, encoding="utf-8") as file:
        return json.load(file), text


def start(model, pool_bytes):
    return Server(model=model, args=[
        f"--cache.memory={pool_bytes}", f"--engine.max_sequences={MAX_SEQUENCES}",
        f"--engine.step_tokens={STEP_TOKENS}", "--engine.cpu_threads=1",
        f"--model.max_context_tokens={CONTEXT}"])


def probe(model, pool_bytes):
    """Requests a second in a closed loop, and the seconds of a request outside of the engine."""
    server = start(model, pool_bytes)
    try:
        report = serve(server, "--concurrency", MAX_SEQUENCES, "--requests", 2 * MAX_SEQUENCES,
                       "--input-tokens", 200, "--output-tokens", 35, "--seed", 77)
        with Counted(server) as alone:
            single = serve(server, "--concurrency", 1, "--requests", 15, "--input-tokens", 64,
                           "--output-tokens", 4, "--seed", 78)
        inside = alone.rise["first_token_s"] / alone.rise["first_tokens"]
        server.stop()
        return report["requests"]["per_s"], single["ttft_ms"]["mean"] / 1e3 - inside
    finally:
        server.kill()


def foretell(costs_path, costs, pool_bytes, outside, trace, tokens, speed, requests, factor=1.0):
    return json.loads(palu_bench(
        "simulate", "--json", "--costs", f"c={costs_path}", "--trace", trace, "--tokens", tokens,
        "--rates", speed, "--requests", requests, "--max-input", MAX_INPUT, "--max-output",
        MAX_OUTPUT, "--pool-gb", f"{(pool_bytes + 0.5 * costs['block_bytes']) / 1e9:.12f}",
        "--before-us", f"{1e6 * outside:.1f}", "--cost-factor", f"{factor:.4f}",
        "--max-context", CONTEXT,
        "--max-sequences", MAX_SEQUENCES, "--step-tokens", STEP_TOKENS))[0]


def device_seconds(told, costs, factor):
    """Of all steps, without the time between them, as the daemon counts it."""
    between = 1e-6 * costs["step"]["between_steps_us"] * factor
    return told["steps"] * (told["step_mean_s"] - between)


def at_the_runs_speed(simulate, costs, measured_seconds):
    """The factor with which the simulated device is busy as long as the daemon's, and the result."""
    low, high = 0.2, 5.0
    for _ in range(12):
        factor = (low * high) ** 0.5
        told = simulate(factor)
        if device_seconds(told, costs, factor) < measured_seconds:
            low = factor
        else:
            high = factor
    return factor, told


def figures(told, costs, factor):
    """The same of a simulation as of a run."""
    return {"served": told["served"], "prompt tokens": told["prompt_tokens"],
            "output tokens": told["output_tokens"],
            "output tokens/s": told["output_tokens_per_second"], "steps": told["steps"],
            "step on the device, ms": 1e3 * device_seconds(told, costs, factor) / told["steps"],
            "prefix hit tokens": told["prefix_hit_tokens"], "preemptions": told["preemptions"],
            "first token, p50 ms": 1e3 * told["first_token_p50_s"],
            "first token, mean ms": 1e3 * told["first_token_mean_s"],
            "first token, p99 ms": 1e3 * told["first_token_p99_s"],
            "between tokens, p50 ms": 1e3 * told["inter_token_p50_s"],
            "between tokens, mean ms": 1e3 * told["inter_token_mean_s"],
            "between tokens, p99 ms": 1e3 * told["inter_token_p99_s"]}


def measured_figures(report, rise):
    first, between = report["ttft_ms"], report["tpot_ms"]
    return {"served": report["requests"]["ok"], "prompt tokens": report["tokens"]["prompt"],
            "output tokens": report["tokens"]["completion"],
            "output tokens/s": report["tokens"]["completion_per_s"], "steps": rise["steps"],
            "step on the device, ms": 1e3 * rise["device_s"] / rise["steps"],
            "prefix hit tokens": rise["hits"], "preemptions": rise["preemptions"],
            "first token, p50 ms": first["p50"], "first token, mean ms": first["mean"],
            "first token, p99 ms": first["p99"], "between tokens, p50 ms": between["p50"],
            "between tokens, mean ms": between["mean"], "between tokens, p99 ms": between["p99"]}


def run_case(model, pool_bytes, load, speed, costs_path, costs, outside, trace, tokens, requests):
    """Measured and foretold figures of one load."""
    server = start(model, pool_bytes)
    try:
        with Counted(server) as counted:
            report = serve(server, "--trace", trace, "--trace-tokens", tokens, "--trace-speed",
                           f"{speed:.6f}", "--requests", requests, "--max-input", MAX_INPUT,
                           "--max-output", MAX_OUTPUT)
        server.stop()
    finally:
        server.kill()

    def simulate(factor):
        return foretell(costs_path, costs, pool_bytes, outside, trace, tokens, f"{speed:.6f}",
                        requests, factor)

    factor, fitted = at_the_runs_speed(simulate, costs, counted.rise["device_s"])
    measured = measured_figures(report, counted.rise)
    told, at_speed = figures(simulate(1.0), costs, 1.0), figures(fitted, costs, factor)
    rows = {name: (value, told[name], at_speed[name]) for name, value in measured.items()}
    return {"model": os.path.relpath(model, ROOT), "load": load, "pool_bytes": pool_bytes,
            "requests_per_s": report["requests"]["sent"] / report["seconds"],
            "cost_factor": factor, "rows": rows}


def arrival_seconds(trace, requests):
    with open(trace, encoding="utf-8") as file:
        return json.loads(file.read().splitlines()[requests - 1])["timestamp"] / 1e3


def run(model, loads, pool_tokens, requests, trace=None, tokens=0.125, repetitions=9,
        verbose=False):
    with tempfile.TemporaryDirectory(prefix="palu-simulation-") as folder:
        if trace is None:
            trace = os.path.join(folder, "trace.jsonl")
            make_trace(trace, requests)
        costs_path = os.path.join(folder, "costs.json")
        costs, text = measure_costs(model, costs_path, repetitions)
        pool_bytes = int(pool_tokens // costs["block_tokens"] * costs["block_bytes"])
        most, outside = probe(model, pool_bytes)
        if verbose:
            print(text + f"{model}: {most:.1f} requests/s in a closed loop, {1e3 * outside:.2f} ms of a "
                  "request outside of the engine", flush=True)
        results = []
        for load in loads:
            speed = load * most * arrival_seconds(trace, requests) / requests
            results.append(run_case(model, pool_bytes, load, speed, costs_path, costs, outside,
                                    trace, tokens, requests))
            if verbose:
                show(results[-1])
        return results


def show(result):
    print(f"{result['model']}, pool of {result['pool_bytes']} bytes, load {result['load']:.2f}, "
          f"{result['requests_per_s']:.2f} requests/s")
    print(f"  {'':26}{'measured':>12}{'foretold':>12}{'ratio':>8}"
          f"{'x ' + format(result['cost_factor'], '.2f'):>12}{'ratio':>8}")
    for name, (measured, *told) in result["rows"].items():
        line = f"  {name:26}{measured:12.1f}"
        for value in told:
            line += f"{value:12.1f}" + (f"{value / measured:8.2f}" if measured else "       -")
        print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", required=True)
    parser.add_argument("--model", action="append", help="checkpoint; default: the bundled one")
    parser.add_argument("--loads", default="0.3,0.6,0.9", help="shares of the closed loop's rate")
    parser.add_argument("--pool-tokens", type=int, default=8192)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--trace", help="Mooncake's form, .jsonl; default: one made up")
    parser.add_argument("--trace-tokens", type=float, default=0.125)
    parser.add_argument("--json", help="write the results to this file")
    args = parser.parse_args()
    Server.binary = os.path.abspath(os.path.join(args.build_dir, "server", "palu-server"))
    results = []
    for model in args.model or [MODEL]:
        results += run(os.path.abspath(model), [float(load) for load in args.loads.split(",")],
                       args.pool_tokens, args.requests, args.trace, args.trace_tokens,
                       verbose=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(results, out, indent=1)


if __name__ == "__main__":
    main()
