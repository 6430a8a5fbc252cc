#!/usr/bin/env python3
"""The same KV memory, compressed against dense, on recorded traces against the real daemon.

  tests/simulation/traces.py --build-dir build/release --compressed build/quickstart/classics-14m \\
      --traces ../shared/fixtures/traces [--only Azure] [--rates 0.5,1] [--json FILE]

For each trace (lengths scaled and cut to what the bundled model can be asked, prefix hashes turned
into shared prefixes) and each multiple of its recorded rate, palu-bench serve drives a daemon with
the dense model and one with the compressed, one after the other, each fresh and with the same bytes
for its cache: by default as many as one request of full length needs dense. Counted: requests
within the objectives, refused ones, preemptions, prefix hits. Needs no package.
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from check import Counted, Server, serve  # noqa: E402
from harness import MODEL  # noqa: E402

CONTEXT = 384
# File, requests, multiple of its lengths, longest input and output, multiples of its rate.
TRACES = {"Azure": ("azure_conv_2023.csv", 120, 0.25, 200, 180, "0.5,1,1.5"),
          "Mooncake": ("mooncake_conversation_3000.jsonl", 500, 0.02, 320, 60, "4,5,6")}


def start(model, args):
    return Server(model=model, args=[
        f"--cache.memory={args.memory}", "--engine.max_sequences=32", "--engine.step_tokens=256",
        "--engine.cpu_threads=1", f"--model.max_context_tokens={CONTEXT}",
        f"--engine.target_inter_token_ms={args.target_inter_token_ms}"])


def drive(model, trace, path, rate, args):
    _, requests, tokens, max_input, max_output, _ = TRACES[trace]
    server = start(model, args)
    try:
        capacity_tokens = server.metric("palu:kv_cache_capacity_tokens")
        with Counted(server) as counted:
            report = serve(server, "--trace", path, "--trace-tokens", tokens, "--trace-speed", rate,
                           "--requests", args.requests or requests, "--max-input", max_input,
                           "--max-output", max_output, "--slo-ttft-ms", args.slo_ttft_ms,
                           "--slo-tpot-ms", args.slo_tpot_ms)
        server.stop()
    finally:
        server.kill()
    queries, steps = counted.rise["queries"], counted.rise["steps"]
    return {"capacity_tokens": int(capacity_tokens), "sent": report["requests"]["sent"],
            "requests_per_s": report["requests"]["sent"] / report["seconds"],
            "within": report["goodput"]["requests"], "failed": report["requests"]["failed"],
            "preemptions": int(counted.rise["preemptions"]),
            "hit_rate": counted.rise["hits"] / queries if queries else 0.0,
            "device_busy": counted.rise["device_s"] / report["seconds"],
            "tokens_per_step": counted.rise["tokens"] / steps if steps else 0.0,
            "ttft_p50_ms": report["ttft_ms"]["p50"], "ttft_p99_ms": report["ttft_ms"]["p99"],
            "tpot_p50_ms": report["tpot_ms"]["p50"], "tpot_p99_ms": report["tpot_ms"]["p99"]}


def show(row):
    print("  " + " ".join(f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
                          for key, value in row.items()), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", required=True)
    parser.add_argument("--compressed", required=True, help="folder of the compressed model")
    parser.add_argument("--traces", required=True, help="folder of the traces")
    parser.add_argument("--requests", type=int, default=0, help="0: as the trace's row says")
    parser.add_argument("--memory", type=int, default=CONTEXT * 6144, help="bytes of the cache")
    parser.add_argument("--rates", help="multiples of the recorded rate; default: the trace's row")
    parser.add_argument("--slo-ttft-ms", type=float, default=1000)
    parser.add_argument("--slo-tpot-ms", type=float, default=100)
    parser.add_argument("--target-inter-token-ms", type=int, default=0)
    parser.add_argument("--only", default="", help="one of the traces")
    parser.add_argument("--json", help="write the results to this file")
    args = parser.parse_args()
    Server.binary = os.path.abspath(os.path.join(args.build_dir, "server", "palu-server"))
    rows = []
    for trace in [name for name in TRACES if args.only in name]:
        path = os.path.join(args.traces, TRACES[trace][0])
        for rate in (args.rates or TRACES[trace][-1]).split(","):
            pair = {}
            for name, model in (("dense", MODEL), ("compressed", args.compressed)):
                pair[name] = {"trace": trace, "rate": float(rate), "cache": name,
                              **drive(model, trace, path, rate, args)}
                show(pair[name])
                rows.append(pair[name])
            if pair["dense"]["within"]:
                print(f"  {trace} x {rate}: {pair['compressed']['within'] / pair['dense']['within']:.2f}"
                      " times the requests within the objectives", flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(rows, out, indent=1)


if __name__ == "__main__":
    main()
