"""Requests as evaluators, load generators and curl send them, word for word."""

import json
import shutil
import subprocess

from harness import Skip, case, check, equal, golden, parse_events

MODEL = "classics-14m"


@case("shapes")
def lm_eval_local_completions(server):
    """Log-likelihoods: [[int]], echo, logprobs 1, seed; then generate_until."""
    cases = golden()["cases"][:4]
    answer = server.post("/v1/completions", {
        "model": MODEL, "prompt": [item["ids"] for item in cases], "temperature": 0,
        "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}).json()
    for item, choice in zip(cases, sorted(answer["choices"], key=lambda c: c["index"])):
        # As lm-eval's parse_logprobs reads them.
        context = 2
        tokens = choice["logprobs"]["token_logprobs"][context:-1]
        tops = choice["logprobs"]["top_logprobs"][context:-1]
        equal(len(tokens), len(item["ids"]) - context)
        expected = sum(item["next_token_logprobs"][context - 1:])
        check(abs(sum(tokens) - expected) < 0.05 * len(tokens), "sum")
        for token, top in zip(tokens, tops):
            check(token <= max(top.values()), "is_greedy is computable")
    until = server.post("/v1/completions", {
        "model": MODEL, "prompt": ["The sea", "A hill"], "max_tokens": 32, "temperature": 0.0,
        "stop": ["\n\n", "<|end|>"], "seed": 1234}).json()
    equal([choice["index"] for choice in until["choices"]], [0, 1])


@case("shapes")
def vllm_bench_serve(server):
    answer = server.post("/v1/completions", {
        "model": MODEL, "prompt": "The sea", "temperature": 0.0, "repetition_penalty": 1.0,
        "max_tokens": 12, "logprobs": None, "stream": True,
        "stream_options": {"include_usage": True}, "ignore_eos": True},
        {"Authorization": "Bearer None"})
    equal(answer.status, 200)
    chunks = [json.loads(event) for event in parse_events(answer.body)[:-1]]
    text = "".join(c["choices"][0]["text"] for c in chunks if c["choices"])
    check(text, "text")
    equal(chunks[-1]["usage"]["completion_tokens"], 12)
    chat = server.post("/v1/chat/completions", {
        "model": MODEL, "messages": [{"role": "user", "content": [{"type": "text",
                                                                   "text": "The sea"}]}],
        "temperature": 0.0, "max_completion_tokens": 12, "stream": True,
        "stream_options": {"include_usage": True}, "ignore_eos": True})
    chunks = [json.loads(event) for event in parse_events(chat.body)[:-1]]
    check(any(c["choices"] and c["choices"][0]["delta"].get("content") for c in chunks), "deltas")
    equal(chunks[-1]["usage"]["completion_tokens"], 12)


@case("shapes")
def guidellm(server):
    equal(server.get("/health").status, 200)
    equal(server.get("/v1/models").json()["data"][0]["id"], MODEL)
    for path, body in (
            ("/v1/completions", {"prompt": "The sea"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": [
                {"type": "text", "text": "The sea"}]}]})):
        answer = server.post(path, {
            "model": MODEL, **body, "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "max_tokens": 8, "max_completion_tokens": 8, "stop": None, "ignore_eos": True})
        equal(answer.status, 200, answer.body[:200])
        chunks = [json.loads(event) for event in parse_events(answer.body)[:-1]]
        counts = [c["usage"]["completion_tokens"] for c in chunks]
        equal(counts, sorted(counts), "usage only grows")
        equal(counts[-1], 8)


@case("shapes")
def curl(server):
    if shutil.which("curl") is None:
        raise Skip("curl is not installed")

    def run(*arguments):
        return subprocess.run(["curl", "-sS", "--max-time", "30", *arguments], check=True,
                              capture_output=True).stdout

    url = f"http://127.0.0.1:{server.port}"
    body = json.dumps({"prompt": "The sea", "max_tokens": 4})
    kind = ("-H", "Content-Type: application/json")
    equal(len(json.loads(run(url + "/v1/completions", *kind, "-d", body))["choices"]), 1)
    stream = run("-N", url + "/v1/completions", *kind, "-d",
                 json.dumps({"prompt": "The sea", "max_tokens": 4, "stream": True}))
    check(stream.endswith(b"data: [DONE]\n\n"), stream[-80:])
    head = run("-I", url + "/health").decode()
    check(head.startswith("HTTP/1.1 200") and "x-request-id" in head.lower(), head)
    # A body above 1 KiB, which curl announces with Expect: 100-continue.
    big = json.dumps({"prompt": "The sea " * 1000, "max_tokens": 1,
                      "truncate_prompt_tokens": 10})
    equal(json.loads(run(url + "/v1/completions", *kind, "-H", "Expect: 100-continue", "-d",
                         big))["usage"]["prompt_tokens"], 10)
