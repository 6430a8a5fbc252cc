#!/usr/bin/env python3
"""Our engine beside llama-bench on the same weights or shapes, without servers.

  tests/bench/llama_bench.py --build-dir build/release --llama DIR --model models/classics-14m \\
      --gguf bf16=M-bf16.gguf --gguf int8=M-q8_0.gguf --gguf int4=M-q4_0.gguf
  tests/bench/llama_bench.py --build-dir build/release --llama DIR --dummy-weights llama-1b \\
      --gguf bf16=1B-bf16.gguf --gguf int4=1B-q4_0.gguf --prompts 128 --contexts 1,512

DIR holds llama-bench. palu-bench engine and llama-bench run in turn; printed are medians over the
repeats of tokens/s (each a mean over its run) and the range of ours over theirs. Needs no package.
"""

import argparse
import json
import os
import statistics
import subprocess


def numbers(text):
    return [int(part) for part in text.split(",")]


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True,
                          timeout=3600)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def ours(args, weights):
    source = ["--model", args.model] if args.model else ["--dummy-weights", args.dummy_weights]
    # The longest context first, so that decoding reads a cache that was written.
    longest = max(numbers(args.contexts))
    report = run([os.path.join(args.build_dir, "tools", "palu-bench"), "engine", *source,
                  "--weights", weights, "--threads", args.threads, "--device", "cpu",
                  "--prompts", f"{longest},{args.prompts}", "--contexts", args.contexts,
                  "--batches", "1", "--steps", args.steps, "--repetitions", 1, "--json",
                  "--max-context", longest + args.steps + max(numbers(args.prompts)),
                  "--cache-bytes", args.cache_bytes])
    figures = {f"prompt {row['prompt_tokens']}": row["tokens_per_s"]
               for row in report["prefill"][1:]}
    figures.update({f"decode at {row['context_tokens']}": row["mean_tokens_per_s"]
                    for row in report["decode"]})
    return figures


def theirs(args, gguf):
    binary = os.path.join(args.llama, "llama-bench")
    common = [binary, "-m", gguf, "-t", args.threads, "-fa", 1, "-r", 1, "-o", "json"]
    figures = {f"prompt {row['n_prompt']}": row["avg_ts"]
               for row in run([*common, "-p", args.prompts, "-n", 0])}
    for context in numbers(args.contexts):
        depth = 0 if context == 1 else context
        row = run([*common, "-p", 0, "-n", args.steps, "-d", depth])[0]
        figures[f"decode at {context}"] = row["avg_ts"]
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", required=True)
    parser.add_argument("--llama", required=True, help="folder with llama-bench")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model")
    source.add_argument("--dummy-weights")
    parser.add_argument("--gguf", action="append", required=True, metavar="WEIGHTS=FILE")
    parser.add_argument("--prompts", default="512,1500")
    parser.add_argument("--contexts", default="1,1024,1900", help="1: empty")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cache-bytes", type=int, default=500_000_000)
    args = parser.parse_args()
    print("| weights | tokens/s | ours | llama-bench | ratio (range) |\n|---|---|---|---|---|",
          flush=True)
    for pair in args.gguf:
        weights, gguf = pair.split("=", 1)
        found = [(ours(args, weights), theirs(args, gguf)) for _ in range(args.repeats)]
        for name in found[0][0]:
            pairs = [(a[name], b[name]) for a, b in found]
            ratios = [a / b for a, b in pairs]
            mine, peer = (statistics.median(column) for column in zip(*pairs))
            print(f"| {weights} | {name} | {mine:.1f} | {peer:.1f} | {mine / peer:.2f} "
                  f"({min(ratios):.2f} to {max(ratios):.2f}) |", flush=True)
    print(f"load average at the end: {os.getloadavg()}")


if __name__ == "__main__":
    main()
