#!/usr/bin/env python3
"""Our daemon beside llama-server on the same weights, in one run on one machine.

  tests/bench/llama_server.py --build-dir build/release --llama DIR \\
      --gguf bf16=M-bf16.gguf --gguf int8=M-q8_0.gguf --gguf int4=M-q4_0.gguf [--json FILE]

DIR holds llama-server. For each weight type and number of streams both servers run side by side and
palu-bench serve drives them in turn, so that whatever else the machine does meets both alike;
printed are medians over the repeats, the range of ours over theirs, and what it is compared with.
Needs no package.
"""

import argparse
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "simulation"))

from check import Server, serve  # noqa: E402

CONTEXT = 2048
# Name, streams, requests per stream, prompt and output tokens, figure, larger is better, mark.
LOADS = [
    ("TTFT, 1500 prompt tokens, ms", 1, 4, 1500, 1, "ttft", False, 1.0),
    ("1 stream, empty context, tokens/s", 1, 2, 8, 256, "decode", True, 1.0),
    ("1 stream, context of 1900, tokens/s", 1, 2, 1900, 128, "decode", True, 1.0),
    ("1 stream of 128 + 128, tokens/s", 1, 4, 128, 128, "output", True, 1.0),
    ("4 streams of 128 + 128, tokens/s", 4, 3, 128, 128, "output", True, None),
    ("16 streams of 128 + 128, tokens/s", 16, 2, 128, 128, "output", True, 1.5),
    ("32 streams of 128 + 128, tokens/s", 32, 2, 128, 128, "output", True, None),
]


class LlamaServer:
    """One llama-server process on a free port of the loopback."""

    def __init__(self, binary, gguf, streams, threads):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = []
        self.process = subprocess.Popen(
            [binary, "-m", gguf, "-t", str(threads), "-c", str(CONTEXT * streams), "-np",
             str(streams), "-fa", "on", "--host", "127.0.0.1", "--port", str(self.port)],
            stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True, errors="replace")
        threading.Thread(target=self._read, daemon=True).start()
        end = time.time() + 120
        while not self._ready():
            if self.process.poll() is not None or time.time() > end:
                raise RuntimeError("llama-server did not start: " + "\n".join(self.log[-20:]))
            time.sleep(0.1)

    def _read(self):
        for line in self.process.stdout:
            self.log.append(line.rstrip("\n"))

    def _ready(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def cache_bytes_per_token(self):
        """From its log: MiB of K and V over the cells."""
        for line in self.log:
            found = re.search(r"size =\s*([\d.]+) MiB \(\s*(\d+) cells", line)
            if found:
                streams = re.search(r"(\d+)/\s*(\d+) seqs", line)
                rows = int(found.group(2)) * int(streams.group(2) if streams else 1)
                return float(found.group(1)) * 2**20 / rows
        return None

    def kill(self):
        self.process.kill()
        self.process.wait()


def start_ours(model, weights, streams, args):
    bytes_per_token = 6144  # of the dense 16-bit cache of the bundled model
    return Server(model=model, args=[
        f"--model.weights={weights}", f"--engine.cpu_threads={args.threads}",
        f"--model.max_context_tokens={CONTEXT}", f"--engine.max_sequences={streams}",
        f"--cache.memory={CONTEXT * streams * bytes_per_token}", *args.ours])


def drive(server, load, repeat):
    """The figure of one run, and resident bytes after it."""
    _, streams, requests, prompt, output, kind, _, _ = load
    report = serve(server, "--concurrency", streams, "--requests", streams * requests,
                   "--input-tokens", prompt, "--output-tokens", output, "--seed", 100 + repeat,
                   "--pid", server.process.pid)
    if report["requests"]["failed"]:
        raise RuntimeError(f"{report['requests']['failed']} requests failed: {report['errors']}")
    if kind != "ttft" and report["tokens"]["completion"] != streams * requests * output:
        raise RuntimeError(f"tokens: {report['tokens']}")
    figure = {"ttft": report["ttft_ms"]["p50"],
              "decode": 1e3 / report["tpot_ms"]["p50"] if kind == "decode" else 0,
              "output": report["tokens"]["completion_per_s"]}[kind]
    return figure, report["process"]["resident_bytes"]


def measure(weights, gguf, streams, loads, args):
    ours = theirs = None
    rows = []
    try:
        ours = start_ours(args.model, weights, streams, args)
        theirs = LlamaServer(os.path.join(args.llama, "llama-server"), gguf, streams, args.threads)
        for load in loads:
            found = {"ours": [], "llama": []}
            resident = {}
            for repeat in range(args.repeats + 1):
                for name, server in (("ours", ours), ("llama", theirs)):
                    figure, resident[name] = drive(server, load, repeat)
                    if repeat > 0:  # the first warms up
                        found[name].append(figure)
            rows.append({"weights": weights, "load": load[0], "streams": streams,
                         "better": "larger" if load[6] else "smaller", "mark": load[7],
                         **found, "resident": resident, "cache_bytes_per_token": {
                             "ours": ours.metric("palu:kv_cache_bytes_per_token"),
                             "llama": theirs.cache_bytes_per_token()}})
            print(line(rows[-1]), flush=True)
        ours.stop()
    finally:
        for server in (ours, theirs):
            if server is not None:
                server.kill()
    return rows


def ratios(row):
    """Ours over theirs, above 1 where ours is better, of each repeat."""
    pairs = zip(row["ours"], row["llama"])
    return [a / b if row["better"] == "larger" else b / a for a, b in pairs]


def line(row):
    values = ratios(row)
    ours, llama = statistics.median(row["ours"]), statistics.median(row["llama"])
    ratio = ours / llama if row["better"] == "larger" else llama / ours
    mark = f"{row['mark']}" if row["mark"] else "-"
    resident = " / ".join(f"{row['resident'][name] / 2**20:.0f}" for name in ("ours", "llama"))
    return (f"| {row['weights']} | {row['load']} | {ours:.1f} | {llama:.1f} | {ratio:.2f} "
            f"({min(values):.2f} to {max(values):.2f}) | {mark} | {resident} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", required=True)
    parser.add_argument("--llama", required=True, help="folder with llama-server")
    parser.add_argument("--gguf", action="append", required=True, metavar="WEIGHTS=FILE",
                        help="bf16=, int8= (q8_0) or int4= (q4_0)")
    parser.add_argument("--model", default=os.path.join(ROOT, "models", "classics-14m"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--streams", default="1,4,16,32")
    parser.add_argument("--ours", action="append", default=[], metavar="--KEY=VALUE",
                        help="further setting of our daemon")
    parser.add_argument("--json", help="write every figure to this file")
    args = parser.parse_args()
    Server.binary = os.path.abspath(os.path.join(args.build_dir, "server", "palu-server"))
    print("| weights | load | ours | llama-server | ratio (range) | mark | resident MiB |\n"
          "|---|---|---|---|---|---|---|", flush=True)
    rows = []
    for pair in args.gguf:
        weights, gguf = pair.split("=", 1)
        for streams in map(int, args.streams.split(",")):
            loads = [load for load in LOADS if load[1] == streams]
            rows += measure(weights, gguf, streams, loads, args)
    cache = rows[0]["cache_bytes_per_token"]
    print(f"\nKV bytes per token: ours {cache['ours']}, llama-server {cache['llama']}")
    print(f"load average at the end: {os.getloadavg()}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(rows, out, indent=1)


if __name__ == "__main__":
    main()
