"""palu-bench serve against the daemon."""

import json
import os
import re
import subprocess
import sys
import tempfile

from harness import MODEL, ROOT, Server, Skip, case, check, equal, seconds

sys.path.insert(0, os.path.join(ROOT, "tests", "simulation"))

import check as check_simulation  # noqa: E402


def bench(server, *args, code=0):
    """Runs palu-bench serve; the report, or what it wrote to stderr."""
    root = os.path.dirname(os.path.dirname(Server.binary))
    binary = os.path.join(root, "tools", "palu-bench")
    if not os.path.exists(binary):
        raise Skip(f"{binary} is not there")
    done = subprocess.run([binary, "serve", "--url", f"http://127.0.0.1:{server.port}", "--quiet",
                           "--json", "-", *args], capture_output=True, text=True,
                          timeout=seconds(120))
    equal(done.returncode, code, f"exit code; {done.stderr}")
    return json.loads(done.stdout) if code == 0 else done.stderr


@case("bench")
def closed_loop_counts_every_token(server):
    before = server.metric("vllm:generation_tokens_total")
    report = bench(server, "--concurrency", "4", "--requests", "12", "--ids", "10:8000",
                   "--input-tokens", "64", "--output-tokens", "20", "--ignore-eos",
                   "--slo-ttft-ms", "60000")
    equal(report["requests"]["ok"], 12, "requests")
    equal(report["requests"]["peak_concurrency"], 4, "concurrency")
    equal(report["tokens"]["prompt"], 12 * 64, "prompt tokens")
    equal(report["tokens"]["completion"], 12 * 20, "completion tokens")
    equal(server.metric("vllm:generation_tokens_total") - before, 240.0, "tokens by the server")
    check(0 < report["ttft_ms"]["p50"] <= report["e2e_ms"]["p50"], "times are in order")
    equal(report["goodput"]["fraction"], 1.0, "goodput")


@case("bench")
def a_line_tells_how_far_it_is(server):
    binary = os.path.join(os.path.dirname(os.path.dirname(Server.binary)), "tools", "palu-bench")
    if not os.path.exists(binary):
        raise Skip(f"{binary} is not there")
    done = subprocess.run([binary, "serve", "--url", f"http://127.0.0.1:{server.port}", "--rate",
                           "8", "--arrivals", "fixed", "--requests", "10", "--ids", "10:8000",
                           "--output-tokens", "2"], capture_output=True, text=True,
                          timeout=seconds(60))
    equal(done.returncode, 0, done.stderr)
    lines = re.findall(r"([\d.]+) s  (\d+) of 10 done, \d+ in flight, 0 failed", done.stderr)
    check(len(lines) >= 2, done.stderr)
    equal(lines[-1][1], "10", "done at the end")
    check("first token" in done.stdout and "p99" in done.stdout, done.stdout)


@case("bench")
def text_prompts_have_about_the_length_asked(server):
    report = bench(server, "--rate", "50", "--requests", "8", "--input-tokens", "100",
                   "--output-tokens", "4")
    check(600 < report["tokens"]["prompt"] < 1000, f"prompt tokens {report['tokens']}")
    chat = bench(server, "--endpoint", "chat", "--concurrency", "2", "--requests", "4",
                 "--output-tokens", "4")
    equal(chat["requests"]["ok"], 4, "chat requests")


@case("bench")
def trace_prefixes_hit_the_cache(server):
    lines = [{"timestamp": 300 * i, "input_length": 205 + i, "output_length": 30,
              "hash_ids": list(range(200 // 50 + 1))} for i in range(6)]
    with tempfile.TemporaryDirectory() as folder:
        trace = os.path.join(folder, "trace.jsonl")
        with open(trace, "w", encoding="utf-8") as out:
            for line in lines:
                scaled = {**line, "input_length": line["input_length"] * 512 // 50}
                out.write(json.dumps(scaled) + "\n")
        svg = os.path.join(folder, "load.svg")
        report = bench(server, "--trace", trace, "--trace-tokens", str(50 / 512),
                       "--ids", "10:8000", "--svg", svg)
        check(os.path.getsize(svg) > 1000, "a picture")
    equal(report["requests"]["ok"], 6, "requests")
    # Four shared blocks of 50 tokens, in whole cache blocks of 16, five times.
    check(report["tokens"]["cached"] >= 5 * 192, f"cached tokens {report['tokens']}")


@case("bench")
def cancelled_requests_free_their_blocks(server):
    report = bench(server, "--concurrency", "8", "--requests", "24", "--ids", "10:8000",
                   "--output-tokens", "60", "--ignore-eos", "--cancel", "0.5")
    counts = report["requests"]
    equal(counts["ok"] + counts["cancelled"], 24, f"{counts} {report['errors']}")
    check(counts["cancelled"] >= 4, f"{counts}")
    server.wait_idle()


@case("bench")
def wrong_arguments_and_failures_are_told(server):
    check("--concurrency, --rate and --trace" in bench(server, code=2), "no mode")
    check("LOW:HIGH" in bench(server, "--rate", "1", "--ids", "x", code=2), "ids")
    check("every request failed" in bench(server, "--concurrency", "1", "--requests", "2",
                                          "--ids", "1:9", "--model", "other", code=2), "404")


@case("bench", own_server=True)
def what_is_simulated_is_what_happens():
    """Counts closely; times loosely, at the speed that the machine had and one time in three: it may
    be busy with something else during a part of the measurement only."""
    if not os.path.exists(os.path.join(os.path.dirname(os.path.dirname(Server.binary)), "tools",
                                       "palu-bench")):
        raise Skip("palu-bench is not there")
    for _ in range(3):
        result = check_simulation.run(MODEL, [0.6], 1024, requests=30, repetitions=3)[0]
        rows = {name: (measured, told) for name, (measured, _, told) in result["rows"].items()}
        for name in ("served", "prompt tokens", "output tokens"):
            equal(rows[name][0], rows[name][1], f"{name} of {result}")
        far = [name for name, least, most in (
            ("output tokens/s", 0.67, 1.5), ("prefix hit tokens", 0.8, 1.25),
            ("between tokens, mean ms", 0.33, 3))
               if not rows[name][0] * least <= rows[name][1] <= rows[name][0] * most]
        if not far:
            return
    raise AssertionError(f"far off three times, at last {far}: {rows}")
