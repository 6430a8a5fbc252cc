#!/usr/bin/env python3
"""Twice the load that the server can carry, for a long time, from clients that misbehave.

  tests/soak/soak.py --build-dir build/release [--seconds 1200] [--report FILE] [--log FILE]

A tight cache with a host tier, a short queue and fair shares; requests arrive at random at twice
the rate at which they came to an end in the last few seconds, so that a machine that becomes faster
or slower stays overloaded. Most clients read their answer, the others leave before, during or
after it, read slowly, or close their sending side. Checked: every request that is not refused is answered
once and in full; greedy answers equal those that the same prompt got alone; refusals say when to
come back; the server's counts add up to the clients'; afterwards all gauges are zero; resident
memory does not grow. Exit 1 and a line per finding otherwise. Needs no package.
"""

import argparse
import collections
import json
import os
import random
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

import harness  # noqa: E402
from harness import Server, post_bytes, read_all  # noqa: E402

OVERLOAD = 2.0
MOST_CLIENTS = 400
SERVER_ARGS = ["--cache.memory=3MiB", "--cache.host_memory=4MiB", "--cache.format=int8",
               "--model.max_context_tokens=256", "--engine.step_tokens=96",
               "--engine.max_sequences=24", "--engine.max_queue_requests=48",
               "--engine.max_queue_tokens=4000", "--engine.policy=fair",
               "--engine.target_inter_token_ms=30", "--engine.max_unread_tokens=64",
               "--http.write_timeout=5s", "--engine.cpu_threads=1"]
FATES = ["unary"] * 5 + ["stream"] * 5 + ["slow", "half_close", "leave_early", "leave_midway",
                                            "leave_at_once"]


class Tally:
    """What clients saw; thread-safe."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts = collections.Counter()
        self.findings = []

    def add(self, what):
        with self.lock:
            self.counts[what] += 1

    def finding(self, text):
        with self.lock:
            self.counts["findings"] += 1
            if len(self.findings) < 50:
                self.findings.append(text)


def make_body(noise, index):
    """A chat-like load: few beginnings, many ends; tenants of unequal greed."""
    subject = noise.choice(["whale", "sea", "garden", "letter", "winter", "mother"])
    prompt = (f"Chapter {noise.randint(1, 12)}. The {subject} " +
              "and the old house " * noise.randint(0, 20))
    return {"prompt": prompt, "max_tokens": noise.randint(1, 80), "ignore_eos": True,
            "temperature": 0.8, "seed": index, "n": noise.choice([1, 1, 1, 1, 2, 4]),
            "user": noise.choice(["greedy", "greedy", "greedy", "modest"]),
            "priority": noise.choice([0, 0, 0, 1, -1]),
            "cache_salt": noise.choice(["", "", "salt"]) or None}


def texts_of_stream(body, finding):
    """Text per choice of a whole event stream; every choice ends once, the stream too."""
    events = harness.parse_events(body)
    if not events or events[-1] != "[DONE]" or events.count("[DONE]") != 1:
        finding(f"stream ends with {body[-200:]!r}")
        return None
    texts, ends = {}, collections.Counter()
    for event in events[:-1]:
        data = json.loads(event)
        if "error" in data:
            return data["error"]
        for choice in data["choices"]:
            if ends[choice["index"]]:
                finding(f"output after the end: {event}")
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
            ends[choice["index"]] += choice["finish_reason"] is not None
    if any(count != 1 for count in ends.values()):
        finding(f"finish reasons per choice: {dict(ends)}")
    return texts


class Soak:
    def __init__(self, server, seed):
        self.server = server
        self.tally = Tally()
        self.noise = random.Random(seed)
        self.greedy = []  # (body, text when alone)
        self.samples = []
        self.ended = 0

    def ask_alone(self):
        for index in range(12):
            body = make_body(random.Random(index), index)
            body.update(temperature=0, n=1, max_tokens=40)
            answer = self.server.completion(**body)
            self.greedy.append((body, answer["choices"][0]["text"]))

    def check_answer(self, body, expected, fate, raw):
        head, _, payload = raw.partition(b"\r\n\r\n")
        status = head.split(b"\r\n")[0].split(b" ")[1] if b" " in head else b"none"
        if raw.count(b"HTTP/1.1 ") != 1 or status not in (b"200", b"429"):
            self.tally.finding(f"{fate}: answer begins with {raw[:200]!r}")
            return
        if status == b"429":
            self.tally.add("refused")
            if b"retry-after:" not in head.lower():
                self.tally.finding("a refusal without Retry-After")
            return
        if body["stream"]:
            # Chunked framing: the sizes stand on lines of their own.
            text = b"".join(unchunk(payload)) if b"chunked" in head.lower() else payload
            texts = texts_of_stream(text, self.tally.finding)
            if texts is None:
                return
            if isinstance(texts, dict) and "message" in texts:
                if fate != "slow":
                    self.tally.finding(f"{fate}: {texts}")
                self.tally.add("error_event")
                return
            texts = [texts[i] for i in sorted(texts)]
        else:
            answer = json.loads(payload)
            texts = [choice["text"] for choice in answer["choices"]]
            if answer["usage"]["completion_tokens"] != body["max_tokens"] * body["n"]:
                self.tally.finding(f"usage {answer['usage']} for {body}")
        if len(texts) != body["n"]:
            self.tally.finding(f"{len(texts)} choices for {body}")
        if expected is not None and texts != [expected]:
            self.tally.finding(f"greedy answer differs: {texts[0]!r} instead of {expected!r}")
        if expected is not None:
            self.tally.add("compared")
        self.tally.add("answered")

    def client(self, body, expected, fate, patience):
        try:
            with socket.socket() as sock:
                if fate == "slow":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.settimeout(300)
                sock.connect(("127.0.0.1", self.server.port))
                if fate == "leave_at_once":
                    sock.sendall(post_bytes("/v1/completions", body)[:-10])
                    self.tally.add("left")
                    return
                sock.sendall(post_bytes("/v1/completions", body, "Connection: close\r\n"))
                if fate == "half_close":
                    sock.shutdown(socket.SHUT_WR)
                if fate in ("leave_early", "leave_midway"):
                    if fate == "leave_midway":
                        sock.recv(300)
                    time.sleep(patience)
                    self.tally.add("left")
                    return
                raw = read_slowly(sock) if fate == "slow" else read_all(sock)
            if fate == "slow" and not raw.endswith((b"data: [DONE]\n\n", b"0\r\n\r\n")):
                self.tally.add("slow_cut_off")
                return
            self.check_answer(body, expected, fate, raw)
        except OSError as error:
            self.tally.finding(f"{fate}: {error!r}")
        except (ValueError, KeyError, AssertionError) as error:
            self.tally.finding(f"{fate}: {error!r}")
        finally:
            self.tally.add("done")

    def next_request(self, index):
        noise = self.noise
        fate = noise.choice(FATES)
        expected = None
        if fate in ("unary", "stream", "half_close") and noise.random() < 0.3:
            body, expected = noise.choice(self.greedy)
            body = dict(body)
        else:
            body = make_body(noise, index)
        body["stream"] = fate in ("stream", "slow", "leave_midway") or noise.random() < 0.2
        if fate == "slow":
            body["max_tokens"] = 120
        return body, expected, fate, noise.random() * 0.5

    def measure_rate(self, seconds):
        """Requests per second that well-behaved clients get done."""
        end, done = time.time() + seconds, []

        def ask(seed):
            noise = random.Random(seed)
            while time.time() < end:
                self.server.completion(**make_body(noise, seed))
                done.append(1)

        run_all([threading.Thread(target=ask, args=(seed,)) for seed in range(16)])
        return len(done) / seconds

    def overload(self, rate, seconds, report_every):
        threads, index = set(), 0
        start = time.time()
        due = last_report = start
        while time.time() < start + seconds:
            due += self.noise.expovariate(rate)
            time.sleep(max(0.0, due - time.time()))
            threads = {thread for thread in threads if thread.is_alive()}
            if len(threads) >= MOST_CLIENTS:
                self.tally.add("not_sent")
                continue
            thread = threading.Thread(target=self.client, args=self.next_request(index))
            thread.start()
            threads.add(thread)
            index += 1
            self.tally.add("sent")
            if time.time() - last_report >= report_every:
                rate = OVERLOAD * self.sample(time.time() - start, time.time() - last_report)
                last_report = due = time.time()
        run_all(threads, started=True)
        return index

    def sample(self, seconds, since_last):
        """Records a line; returns how many requests ended per second, at least one."""
        metrics = self.server.metrics()

        def value(name):
            return sum(v for key, v in metrics.items() if key.startswith(name))

        ended = value("vllm:request_success_total")
        rate = (ended - self.ended) / since_last
        self.ended = ended
        self.samples.append({
            "seconds": round(seconds), "ended_per_second": round(rate, 1),
            "sent": self.tally.counts["sent"], "refused": self.tally.counts["refused"],
            "resident_mib": round(value("palu:process_resident_bytes") / 2**20, 1),
            "running": value("vllm:num_requests_running"),
            "waiting": value("vllm:num_requests_waiting"),
            "preemptions": value("vllm:num_preemptions_total"),
        })
        print(self.samples[-1], flush=True)
        return max(1.0, rate)

    def check_counts(self, before):
        """What the engine counted against what clients saw."""
        count = self.tally.counts
        metrics = self.server.metrics()

        def grown(name, **labels):
            wanted = [f'{key}="{value}"' for key, value in labels.items()]
            return sum(value - before.get(key, 0) for key, value in metrics.items()
                       if key.split("{")[0] == name and all(label in key for label in wanted))

        finished = grown("vllm:request_success_total")
        stopped = sum(grown("vllm:request_success_total", finished_reason=reason)
                      for reason in ("stop", "length"))
        refused = sum(grown("palu:requests_rejected_total", reason=f"queue_{what}")
                      for what in ("full", "tokens"))
        summary = {
            "engine_finished": finished, "engine_refused": refused,
            "engine_cancelled": grown("palu:requests_cancelled_total"),
            "preemptions": grown("vllm:num_preemptions_total"),
            "preemptions_swapped": grown("palu:preemptions_total", kind="swap"),
            "host_out_bytes": grown("palu:host_cache_moved_bytes_total", direction="out"),
            "host_in_bytes": grown("palu:host_cache_moved_bytes_total", direction="in"),
            "prefix_hit_tokens": grown("vllm:prefix_cache_hits_total"),
            "prefix_query_tokens": grown("vllm:prefix_cache_queries_total"),
            "generation_tokens": grown("vllm:generation_tokens_total"),
        }
        if count["done"] != count["sent"]:
            self.tally.finding(f"{count['sent']} requests sent, {count['done']} came to an end")
        if refused < count["refused"]:
            self.tally.finding(f"{count['refused']} refusals seen, {refused} counted")
        if stopped < count["answered"]:
            self.tally.finding(f"{count['answered']} answers seen, {stopped} counted")
        if finished + refused > count["sent"]:
            self.tally.finding(f"more requests ended ({finished + refused}) than were sent")
        if grown("vllm:request_success_total", finished_reason="error") != 0:
            self.tally.finding("requests failed with an error")
        return summary

    def check_memory(self, slack_mib):
        """Means of the second fifth and of the last: start-up costs are over by then."""
        if harness.reports:
            return {}  # AddressSanitizer keeps freed memory for a while.
        sizes = [sample["resident_mib"] for sample in self.samples]
        part = len(sizes) // 5
        if part == 0:
            return {}
        early = sum(sizes[part:2 * part]) / part
        late = sum(sizes[-part:]) / part
        if late > early * 1.03 + slack_mib:
            self.tally.finding(f"resident memory grew from {early:.1f} to {late:.1f} MiB")
        return {"resident_mib_early": round(early, 1), "resident_mib_late": round(late, 1),
                "resident_mib_most": max(sizes)}


def unchunk(data):
    """Payloads of a chunked body."""
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return
        yield rest[:length]
        data = rest[length + 2:]


def read_slowly(sock):
    data = b""
    while True:
        try:
            part = sock.recv(256)
        except ConnectionResetError:
            return data
        if not part:
            return data
        data += part
        time.sleep(0.05)


def run_all(threads, started=False):
    threads = list(threads)
    for thread in threads:
        if not started:
            thread.start()
    for thread in threads:
        thread.join(600)


def run(seconds, seed=1, report_every=10.0, calibration=5.0, log=None):
    """The whole soak against a server of its own; returns the summary."""
    server = Server(args=SERVER_ARGS)
    try:
        soak = Soak(server, seed)
        soak.ask_alone()
        rate = soak.measure_rate(calibration)
        server.wait_idle()
        before = server.metrics()
        soak.ended = sum(value for key, value in before.items()
                         if key.startswith("vllm:request_success_total"))
        start = time.time()
        soak.overload(OVERLOAD * rate, seconds, report_every)
        try:
            server.wait_idle()
        except AssertionError as error:
            soak.tally.finding(str(error))
        elapsed = time.time() - start
        summary = {"seconds": round(elapsed), "requests_per_second_alone": round(rate, 2),
                   "requests_per_second_offered": round(soak.tally.counts["sent"] / seconds, 2),
                   **soak.check_counts(before), **soak.check_memory(slack_mib=4)}
        server.stop()
        summary["clients"] = dict(sorted(soak.tally.counts.items()))
        summary["findings"] = soak.tally.findings
        if log:
            with open(log, "w", encoding="utf-8") as file:
                file.write("\n".join(json.dumps(sample) for sample in soak.samples) + "\n")
        return summary
    finally:
        server.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", default=os.path.join(harness.ROOT, "build", "release"))
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", help="file for the summary as JSON")
    parser.add_argument("--log", help="file for the samples, one JSON object per line")
    args = parser.parse_args()
    harness.use_binary(os.path.join(args.build_dir, "server", "palu-server"))
    summary = run(args.seconds, args.seed, log=args.log)
    if harness.reports:
        summary["findings"] += [text for text in [harness.reports.take()] if text]
        harness.reports.close()
    text = json.dumps(summary, indent=1)
    print(text)
    if args.report:
        with open(args.report, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    return 1 if summary["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
