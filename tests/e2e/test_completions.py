"""/v1/completions and /v1/chat/completions, unary: goldens, parameters, shapes."""

import tempfile

from harness import Server, case, check, equal, golden


@case("completions")
def greedy_text_is_the_golden_one(server):
    for item in golden()["cases"]:
        # The long prompts are cut within their last word: their text has other ids.
        answer = server.completion(prompt=item["ids"], max_tokens=len(item["greedy"]),
                                   temperature=0, ignore_eos=True)
        # A bf16 cache against a float32 reference: near ties may part late, not early.
        start = len(item["greedy_text"]) // 3
        equal(answer["choices"][0]["text"][:start], item["greedy_text"][:start], item["prompt"])


@case("completions")
def shape_and_usage(server):
    item = golden()["cases"][0]
    answer = server.completion(model="classics-14m", prompt=item["prompt"], max_tokens=5,
                               temperature=0)
    check(answer["id"].startswith("cmpl-"), answer["id"])
    equal(answer["object"], "text_completion")
    equal(answer["model"], "classics-14m")
    check(isinstance(answer["created"], int), "created")
    usage = answer["usage"]
    equal(usage["prompt_tokens"], len(item["ids"]), "prompt tokens")
    equal(usage["completion_tokens"], 5)
    equal(usage["total_tokens"], len(item["ids"]) + 5)
    check(usage["prompt_tokens_details"]["cached_tokens"] >= 0, "cached")
    choice = answer["choices"][0]
    equal(choice["index"], 0)
    equal(choice["finish_reason"], "length")
    equal(choice["logprobs"], None)


@case("completions")
def prompt_forms(server):
    item = golden()["cases"][0]
    common = {"max_tokens": 4, "temperature": 0}
    text = server.completion(prompt=item["prompt"], **common)["choices"][0]["text"]
    ids = server.completion(prompt=item["ids"], **common)["choices"][0]["text"]
    equal(ids, text, "token prompt")
    other = golden()["cases"][1]["prompt"]
    lists = server.completion(prompt=[item["prompt"], other], n=2, **common)
    equal([choice["index"] for choice in lists["choices"]], [0, 1, 2, 3])
    equal(lists["choices"][0]["text"], text)
    equal(lists["choices"][1]["text"], text)
    equal(lists["choices"][3]["text"],
          server.completion(prompt=other, **common)["choices"][0]["text"])
    nested = server.completion(prompt=[item["ids"], item["ids"]], **common)
    equal([choice["text"] for choice in nested["choices"]], [text, text])
    equal(nested["usage"]["prompt_tokens"], 2 * len(item["ids"]))
    equal(nested["usage"]["completion_tokens"], 8)


@case("completions")
def default_max_tokens_is_16(server):
    answer = server.completion(prompt="Once upon a time", temperature=0, ignore_eos=True)
    equal(answer["usage"]["completion_tokens"], 16)


@case("completions")
def stop_strings(server):
    item = golden()["cases"][0]
    text = item["greedy_text"]
    stop = text[10:14]
    end = text.index(stop)
    common = {"prompt": item["prompt"], "max_tokens": 30, "temperature": 0}
    answer = server.completion(stop=[stop, "never seen"], **common)
    equal(answer["choices"][0]["text"], text[:end])
    equal(answer["choices"][0]["finish_reason"], "stop")
    equal(answer["choices"][0]["stop_reason"], stop)
    shown = server.completion(stop=stop, include_stop_str_in_output=True, **common)
    equal(shown["choices"][0]["text"], text[:end] + stop)
    check(answer["usage"]["completion_tokens"] < 30, "stopped late")


@case("completions")
def stop_token_ids(server):
    item = golden()["cases"][0]
    answer = server.completion(prompt=item["prompt"], max_tokens=20, temperature=0,
                               stop_token_ids=[item["greedy"][4]])
    first = item["greedy"].index(item["greedy"][4])
    equal(answer["usage"]["completion_tokens"], first + 1, "the stop token is counted")
    equal(answer["choices"][0]["finish_reason"], "stop")
    equal(answer["choices"][0]["stop_reason"], item["greedy"][4])
    held = server.completion(prompt=item["prompt"], max_tokens=20, temperature=0, min_tokens=12,
                             stop_token_ids=[item["greedy"][4]])
    check(held["usage"]["completion_tokens"] >= 12, "min_tokens")


@case("completions")
def seeds(server):
    common = {"prompt": "The sea", "max_tokens": 12, "temperature": 1.2, "ignore_eos": True}
    one = server.completion(seed=7, **common)["choices"][0]["text"]
    equal(server.completion(seed=7, **common)["choices"][0]["text"], one, "same seed")
    others = {server.completion(seed=s, **common)["choices"][0]["text"] for s in range(8, 14)}
    check(len(others | {one}) > 3, "seeds make no difference")
    choices = server.completion(seed=7, n=4, **common)["choices"]
    check(len({choice["text"] for choice in choices}) > 1, "choices of one seed are all equal")
    greedy = server.completion(prompt="The sea", max_tokens=8, temperature=0, n=3)["choices"]
    equal(len({choice["text"] for choice in greedy}), 1, "greedy choices")


@case("completions")
def bias_and_allowed_tokens(server):
    item = golden()["cases"][0]
    first = item["greedy"][0]
    common = {"prompt": item["prompt"], "max_tokens": 1, "temperature": 0, "logprobs": 1}
    banned = server.completion(logit_bias={str(first): -100}, **common)
    plain = server.completion(**common)
    check(banned["choices"][0]["text"] != plain["choices"][0]["text"], "bias")
    # Log-probabilities are those of the raw distribution.
    top = banned["choices"][0]["logprobs"]["top_logprobs"][0]
    check(plain["choices"][0]["logprobs"]["tokens"][0] in top, "raw distribution")
    only = server.completion(prompt=item["prompt"], max_tokens=5, temperature=1,
                             allowed_token_ids=[300, 301])
    ids = server.post("/tokenize", {"prompt": only["choices"][0]["text"],
                                    "add_special_tokens": False})
    pieces = {server.post("/detokenize", {"tokens": [i]}).json()["prompt"] for i in (300, 301)}
    text = only["choices"][0]["text"]
    while text:
        piece = next((p for p in pieces if text.startswith(p)), None)
        check(piece, f"{text!r} is not of {pieces}")
        text = text[len(piece):]
    equal(ids.status, 200)


@case("completions")
def legacy_logprobs(server):
    answer = server.completion(prompt="Once upon a time", max_tokens=6, temperature=0, logprobs=3)
    choice = answer["choices"][0]
    logprobs = choice["logprobs"]
    equal(set(logprobs), {"tokens", "token_logprobs", "top_logprobs", "text_offset"})
    equal("".join(logprobs["tokens"]), choice["text"])
    for token, value, top, offset in zip(logprobs["tokens"], logprobs["token_logprobs"],
                                         logprobs["top_logprobs"], logprobs["text_offset"]):
        check(value <= 0, "logprob above 0")
        equal(max(top, key=top.get), token, "greedy takes the likeliest")
        equal(len(top), 3)
        equal(choice["text"][offset:offset + len(token)], token, "offset")


@case("completions")
def echo_scores_the_prompt(server):
    item = golden()["cases"][0]
    answer = server.completion(prompt=item["prompt"], max_tokens=0, echo=True, logprobs=2)
    choice = answer["choices"][0]
    equal(choice["text"], item["prompt"])
    equal(choice["finish_reason"], "length")
    equal(answer["usage"]["completion_tokens"], 0)
    logprobs = choice["logprobs"]
    equal(logprobs["token_logprobs"][0], None)
    equal(logprobs["top_logprobs"][0], None)
    equal(len(logprobs["tokens"]), len(item["ids"]))
    for found, expected in zip(logprobs["token_logprobs"][1:], item["next_token_logprobs"]):
        check(abs(found - expected) < 0.05, f"{found} against {expected}")


@case("completions")
def echo_with_text(server):
    plain = server.completion(prompt="The sea", max_tokens=4, temperature=0)
    answer = server.completion(prompt="The sea", max_tokens=4, temperature=0, echo=True)
    equal(answer["choices"][0]["text"], "The sea" + plain["choices"][0]["text"])


@case("completions")
def prompt_logprobs(server):
    item = golden()["cases"][0]
    answer = server.completion(prompt=item["prompt"], max_tokens=1, prompt_logprobs=2, n=2)
    for choice in answer["choices"]:
        entries = choice["prompt_logprobs"]
        equal(len(entries), len(item["ids"]))
        equal(entries[0], None)
        for token, entry, expected in zip(item["ids"][1:], entries[1:],
                                          item["next_token_logprobs"]):
            own = entry[str(token)]
            check(abs(own["logprob"] - expected) < 0.05, "logprob")
            check(own["rank"] >= 1, "rank")
            check(2 <= len(entry) <= 3, "entries")


@case("completions")
def truncate_prompt(server):
    item = golden()["cases"][0]
    answer = server.completion(prompt=item["ids"], max_tokens=1, truncate_prompt_tokens=3)
    equal(answer["usage"]["prompt_tokens"], 3)


@case("chat")
def chat_shape(server):
    answer = server.post("/v1/chat/completions", {
        "model": "classics-14m", "max_completion_tokens": 8, "temperature": 0, "ignore_eos": True,
        "logprobs": True, "top_logprobs": 2,
        "messages": [{"role": "system", "content": "A story."},
                     {"role": "user", "content": [{"type": "text", "text": "Once upon a time"}]}]})
    equal(answer.status, 200, answer.body)
    body = answer.json()
    check(body["id"].startswith("chatcmpl-"), body["id"])
    equal(body["object"], "chat.completion")
    choice = body["choices"][0]
    equal(choice["message"]["role"], "assistant")
    equal(choice["finish_reason"], "length")
    content = choice["logprobs"]["content"]
    equal(len(content), 8)
    equal(b"".join(bytes(entry["bytes"]) for entry in content).decode(),
          choice["message"]["content"])
    equal([len(entry["top_logprobs"]) for entry in content], [2] * 8)


@case("chat")
def chat_prompt_is_the_rendered_template(server):
    messages = [{"role": "user", "content": "Who goes there?"}]
    tokens = server.post("/tokenize", {"messages": messages}).json()["tokens"]
    chat = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 10,
                                                "temperature": 0}).json()
    equal(chat["usage"]["prompt_tokens"], len(tokens))
    plain = server.completion(prompt=tokens, max_tokens=10, temperature=0)
    equal(chat["choices"][0]["message"]["content"], plain["choices"][0]["text"])


@case("chat", own_server=True)
def the_template_of_the_settings_is_used():
    messages = [{"role": "user", "content": "Who goes there?"}]
    with tempfile.NamedTemporaryFile("w", suffix=".jinja") as file:
        file.write("{% for m in messages %}<{{ m.role }}> {{ m.content }}{% endfor %} ->")
        file.flush()
        server = Server(args=[f"--model.chat_template={file.name}"])
        try:
            tokens = server.post("/tokenize", {"messages": messages}).json()["tokens"]
            text = server.post("/detokenize", {"tokens": tokens}).json()["prompt"]
            check(text.endswith("<user> Who goes there? ->"), text)
            chat = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 2})
            equal(chat.json()["usage"]["prompt_tokens"], len(tokens))
            server.stop()
        finally:
            server.kill()


@case("chat")
def default_goes_to_the_models_limit(server):
    messages = [{"role": "user", "content": "word " * 1900}]
    answer = server.post("/v1/chat/completions", {"messages": messages, "ignore_eos": True})
    equal(answer.status, 200, answer.body)
    equal(answer.json()["usage"]["total_tokens"], 2048)
    equal(answer.json()["choices"][0]["finish_reason"], "length")


@case("text")
def tokenize_matches_goldens(server):
    for item in golden()["tokenizer"]:
        answer = server.post("/tokenize", {"prompt": item["text"], "add_special_tokens": False})
        equal(answer.json()["tokens"], item["ids"], item["text"])
        equal(answer.json()["count"], len(item["ids"]))
        equal(answer.json()["max_model_len"], 2048)
        back = server.post("/detokenize", {"tokens": item["ids"]})
        equal(back.json()["prompt"], item["decoded"])
