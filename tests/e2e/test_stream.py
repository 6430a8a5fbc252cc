"""Server-sent events."""

import json

from harness import case, check, check_error, equal, golden, parse_events


def joined(chunks, index=0):
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]
                   if choice["index"] == index)


@case("stream")
def text_equals_unary(server):
    for temperature in (0, 1.1):
        body = {"prompt": "It was a dark night — and", "max_tokens": 40, "seed": 3,
                "temperature": temperature, "ignore_eos": True}
        unary = server.completion(**body)["choices"][0]["text"]
        equal(joined(server.stream(**body)), unary, f"temperature {temperature}")


@case("stream")
def headers(server):
    answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 2, "stream": True})
    check(answer.headers["content-type"].startswith("text/event-stream"), "type")
    equal(answer.headers["cache-control"], "no-cache")
    equal(answer.headers["x-accel-buffering"], "no")
    check(answer.headers["x-request-id"], "request id")
    check(answer.body.endswith(b"data: [DONE]\n\n"), "end mark")


@case("stream")
def chunks_share_what_they_must(server):
    chunks = server.stream(prompt="The sea", max_tokens=10, n=2, temperature=0.9, seed=1)
    for key in ("id", "created", "model", "object"):
        equal(len({chunk[key] for chunk in chunks}), 1, key)
    equal(chunks[0]["object"], "text_completion")
    for index in (0, 1):
        reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]
                   if choice["index"] == index]
        equal([r for r in reasons if r is not None], [reasons[-1]], "finish reasons")
        check(reasons[-1] in ("stop", "length"), reasons[-1])
    check(all("usage" not in chunk for chunk in chunks), "usage was not asked for")


@case("stream")
def usage(server):
    chunks = server.stream(prompt="The sea", max_tokens=5, ignore_eos=True,
                           stream_options={"include_usage": True})
    equal([chunk["usage"] for chunk in chunks[:-1]], [None] * (len(chunks) - 1))
    equal(chunks[-1]["choices"], [])
    equal(chunks[-1]["usage"]["completion_tokens"], 5)
    running = server.stream(prompt="The sea", max_tokens=5, ignore_eos=True,
                            stream_options={"include_usage": True, "continuous_usage_stats": True})
    counts = [chunk["usage"]["completion_tokens"] for chunk in running]
    equal(counts, sorted(counts), "counts grow")
    equal(counts[-1], 5)
    check_error(server.post("/v1/completions", {"prompt": "a", "stream_options": {}}), 400,
                "stream_options")


@case("stream")
def chat_deltas(server):
    messages = [{"role": "user", "content": "Once upon a time"}]
    body = {"messages": messages, "max_tokens": 12, "temperature": 0, "logprobs": True,
            "top_logprobs": 1}
    chunks = server.stream("/v1/chat/completions", **body)
    equal(chunks[0]["object"], "chat.completion.chunk")
    equal(chunks[0]["choices"][0]["delta"], {"role": "assistant", "content": ""})
    check(all("role" not in chunk["choices"][0]["delta"] for chunk in chunks[1:]), "one role")
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    unary = server.post("/v1/chat/completions", body).json()["choices"][0]
    equal(text, unary["message"]["content"])
    entries = [entry for chunk in chunks if chunk["choices"][0]["logprobs"]
               for entry in chunk["choices"][0]["logprobs"]["content"]]
    equal(entries, unary["logprobs"]["content"])


@case("stream")
def stop_strings_never_show(server):
    text = golden()["cases"][0]["greedy_text"]
    stop = text[9:17]
    body = {"prompt": golden()["cases"][0]["prompt"], "max_tokens": 30, "temperature": 0,
            "stop": [stop]}
    chunks = server.stream(**body)
    equal(joined(chunks), text[:text.index(stop)])
    equal(chunks[-1]["choices"][0]["finish_reason"], "stop")


@case("stream")
def echo_and_logprobs(server):
    body = {"prompt": "The sea was", "max_tokens": 6, "temperature": 0, "echo": True,
            "logprobs": 1}
    unary = server.completion(**body)["choices"][0]
    chunks = server.stream(**body)
    equal(joined(chunks), unary["text"])
    for key in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        streamed = [value for chunk in chunks if chunk["choices"][0]["logprobs"]
                    for value in chunk["choices"][0]["logprobs"][key]]
        equal(streamed, unary["logprobs"][key], key)


@case("stream")
def code_points_stay_whole(server):
    """Every token is a single byte of text, so that code points come in pieces."""
    text = "naïve — 日本語 🙂"
    tokens = server.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()
    ids = sorted(set(tokens["tokens"]))
    answer = server.post("/v1/completions", {
        "prompt": text, "max_tokens": 60, "temperature": 2, "seed": 5, "stream": True,
        "allowed_token_ids": ids, "ignore_eos": True})
    chunks = [json.loads(e) for e in parse_events(answer.body)[:-1]]
    unary = server.completion(prompt=text, max_tokens=60, temperature=2, seed=5,
                              allowed_token_ids=ids, ignore_eos=True)
    equal(joined(chunks), unary["choices"][0]["text"])


@case("stream")
def errors_before_the_stream_are_plain(server):
    check_error(server.post("/v1/completions", {"prompt": [9999999], "stream": True}), 400,
                "prompt")
