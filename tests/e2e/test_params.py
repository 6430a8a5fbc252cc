"""Parameters beyond sampling: scoring of prompts in batches, best_of, bad_words, cache_salt."""

from harness import Server, case, check, equal, golden

CHAT = "/v1/chat/completions"


@case("params", own_server=True)
def batched_token_ids_score_as_the_goldens():
    """What lm-eval sends: many prompts as token ids, echoed, scored, nothing generated."""
    server = Server(args=["--cache.format=f32"])
    try:
        cases = golden()["cases"]
        for extra in ({"max_tokens": 0}, {"max_tokens": 1, "temperature": 0, "seed": 1234}):
            answer = server.completion(prompt=[item["ids"] for item in cases], echo=True,
                                       logprobs=1, **extra)
            equal([choice["index"] for choice in answer["choices"]], list(range(len(cases))))
            for item, choice in zip(cases, answer["choices"]):
                count = len(item["ids"])
                logprobs = choice["logprobs"]
                equal(len(logprobs["tokens"]), count + extra["max_tokens"])
                equal(logprobs["token_logprobs"][0], None)
                for found, expected in zip(logprobs["token_logprobs"][1:count],
                                           item["next_token_logprobs"]):
                    check(abs(found - expected) < 1e-3, f"{found} against {expected}")
                for token, value, top in list(zip(logprobs["tokens"], logprobs["token_logprobs"],
                                                  logprobs["top_logprobs"]))[1:count]:
                    check(value <= max(top.values()) + 1e-6, "greedy is what is likeliest")
                    check(token in top, "the token itself is among the shown")
        server.stop()
    finally:
        server.kill()


@case("params")
def best_of_shows_the_likeliest(server):
    common = {"prompt": "The sea", "max_tokens": 8, "temperature": 1.2, "seed": 11,
              "logprobs": 0, "ignore_eos": True}
    made = server.completion(n=5, **common)["choices"]
    answer = server.completion(n=2, best_of=5, **common)
    best = sorted(made, key=lambda c: -sum(c["logprobs"]["token_logprobs"]))
    equal([c["text"] for c in answer["choices"]], [c["text"] for c in best[:2]])
    equal([c["index"] for c in answer["choices"]], [0, 1])
    equal(answer["usage"]["completion_tokens"], 40, "all five were made")
    plain = server.completion(prompt=["a", "b"], best_of=3, max_tokens=2, ignore_eos=True)
    equal([c["logprobs"] for c in plain["choices"]], [None, None], "not asked for, not shown")


@case("params")
def bad_words_do_not_come(server):
    item = golden()["cases"][0]
    common = {"prompt": item["prompt"], "max_tokens": 20, "temperature": 0}
    text = server.completion(**common)["choices"][0]["text"]
    words = [word for word in text.replace(",", " ").split() if len(word) > 2][:2]
    for banned in ([words[0]], words, words[0], [" ".join(words[:2])]):
        other = server.completion(bad_words=banned, **common)["choices"][0]["text"]
        for word in [banned] if isinstance(banned, str) else banned:
            check(f" {word} " not in f"{other} ", f"{word!r} in {other!r}")
    equal(server.completion(bad_words=["zyzzyva"], **common)["choices"][0]["text"], text)


@case("params")
def cache_salt_keeps_prompts_apart(server):
    prompt = "A prompt that nobody else has sent to this server. " * 8

    def cached(**salt):
        usage = server.completion(prompt=prompt, max_tokens=1, **salt)["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    equal(cached(cache_salt="mine"), 0)
    check(cached(cache_salt="mine") > 32, "the same salt")
    equal(cached(cache_salt="yours"), 0)
    equal(cached(), 0)
    check(cached() > 32, "without a salt")


@case("params")
def streams_have_prompt_logprobs(server):
    body = {"prompt": ["The sea was", "It"], "max_tokens": 4, "temperature": 0,
            "prompt_logprobs": 2, "n": 2}
    unary = server.completion(**body)
    chunks = server.stream(**body)
    for choice in unary["choices"]:
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
        equal(own[0]["prompt_logprobs"], choice["prompt_logprobs"])
        check(not any("prompt_logprobs" in c for c in own[1:]), "told once")
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "temperature": 0,
            "prompt_logprobs": 1}
    expected = server.post(CHAT, chat).json()["prompt_logprobs"]
    streamed = server.stream(CHAT, **chat)
    equal(streamed[0]["prompt_logprobs"], expected)
    check(not any("prompt_logprobs" in c for c in streamed[1:]), "told once")
