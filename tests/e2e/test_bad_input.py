"""What clients get wrong: always a clear 4xx, never a crash."""

import json
import random
import time

from harness import Server, case, check, check_error, equal, post_bytes, seconds

C = "/v1/completions"
CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "x"}]


@case("bad_input")
def bad_json(server):
    for body in (b"", b"{", b"[]", b"null", b"1", b'"x"', b'{"prompt": }', b'{"prompt": "a"} x',
                 b'{"prompt": "a", "temperature": NaN}', b'{"prompt": "a", "top_p": Infinity}',
                 b'{"prompt": "a", "temperature": 1e999}', b'{"prompt": "\xff\xfe"}',
                 b"\x00\x01", b'{"prompt": "\\ud800"}', b"[" * 100000,
                 b'{"a":' * 5000 + b"1" + b"}" * 5000):
        for path in (C, CHAT, "/tokenize", "/detokenize"):
            answer = server.post(path, body)
            check(400 <= answer.status < 500, f"{path} {body[:40]} {answer.status}")
            check_error(answer, answer.status, kind="invalid_request_error")


@case("bad_input")
def oddities_that_are_not_errors(server):
    for body in (b'\xef\xbb\xbf{"prompt": "a", "max_tokens": 1}',
                 b'{"prompt": "b", "prompt": "a", "max_tokens": 1}',
                 b'{"prompt": "a", "max_tokens": 1, "stop": null, "seed": null, "n": null}',
                 b'{"prompt": "a", "max_tokens": 1.0, "tools": [], "suffix": "", "whatever": 1}',
                 b'{"prompt": "a", "max_tokens": 1, "response_format": {"type": "text"}}'):
        equal(server.post(C, body).status, 200, body)


BAD_VALUES = [
    ("prompt", None), ("prompt", 5), ("prompt", {}), ("prompt", []), ("prompt", [1, "a"]),
    ("prompt", ["a", 1]), ("prompt", [[1], "a"]), ("prompt", [-1]), ("prompt", [1.5]),
    ("prompt", [8192]), ("prompt", [2**40]), ("prompt", [[]]),
    ("max_tokens", -1), ("max_tokens", "5"), ("max_tokens", 1.5), ("max_tokens", 10**12),
    ("max_tokens", 5000), ("max_tokens", True),
    ("temperature", -0.1), ("temperature", "hot"), ("temperature", [1]), ("temperature", True),
    ("top_p", 0), ("top_p", 1.1), ("top_p", -1), ("top_k", -2), ("top_k", 1.5), ("min_p", 2),
    ("frequency_penalty", 2.1), ("presence_penalty", -2.1), ("repetition_penalty", 0),
    ("seed", "x"), ("seed", 1.5), ("seed", 2**70),
    ("n", 0), ("n", 1000), ("n", "2"), ("best_of", 0),
    ("stop", 5), ("stop", [1]), ("stop", [""]), ("stop_token_ids", [-1]),
    ("stop_token_ids", [99999]), ("stop_token_ids", "x"),
    ("logprobs", 21), ("logprobs", -1), ("logprobs", True), ("prompt_logprobs", 21),
    ("echo", "yes"), ("stream", "yes"), ("stream", 1), ("stream_options", {}),
    ("logit_bias", []), ("logit_bias", {"x": 1}), ("logit_bias", {"1": "a"}),
    ("logit_bias", {"99999": 1}), ("logit_bias", {"-1": 1}),
    ("allowed_token_ids", []), ("allowed_token_ids", [99999]), ("allowed_token_ids", 5),
    ("min_tokens", -1), ("ignore_eos", 1), ("include_stop_str_in_output", "a"),
    ("truncate_prompt_tokens", 0), ("truncate_prompt_tokens", -2), ("priority", "x"),
    ("model", 5), ("user", 5), ("request_id", 5), ("add_special_tokens", 1),
    ("suffix", "x"), ("bad_words", [5]), ("bad_words", [""]), ("bad_words", 5),
    ("cache_salt", ""), ("cache_salt", 5), ("guided_regex", "a+("), ("guided_choice", ["a", 5]),
    ("guided_json", {"type": "nothing"}), ("response_format", {"type": "json"}),
    ("response_format", "text"), ("tools", [{"type": "function"}]), ("tool_choice", "required"),
]


@case("bad_input")
def wrong_values_name_the_field(server):
    for field, value in BAD_VALUES:
        body = {"prompt": "hello", **({field: value} if value is not None else {})}
        if value is None:
            body.pop(field)
        error = check_error(server.post(C, body), 400, kind="invalid_request_error")
        check(error["param"] is not None and error["param"].startswith(field),
              f"{field}={value}: {error}")


@case("bad_input")
def wrong_messages_name_the_path(server):
    for messages, param in (
            (None, "messages"), ([], "messages"), ("x", "messages"), ([5], "messages[0]"),
            ([{"content": "x"}], "messages[0].role"),
            ([{"role": "user"}], "messages[0].content"),
            (USER + [{"role": "king", "content": "x"}], "messages[1].role"),
            ([{"role": "user", "content": 5}], "messages[0].content"),
            ([{"role": "user", "content": [{"type": "image_url"}]}],
             "messages[0].content[0].type"),
            ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text")):
        body = {} if messages is None else {"messages": messages}
        error = check_error(server.post(CHAT, body), 400)
        equal(error["param"], param, str(messages))
    for field, value in (("top_logprobs", 3), ("logprobs", 3), ("max_tokens", 0),
                         ("max_completion_tokens", 0), ("chat_template_kwargs", 5),
                         ("continue_final_message", "x"), ("chat_template", "x")):
        error = check_error(server.post(CHAT, {"messages": USER, field: value}), 400)
        equal(error["param"], field)


@case("bad_input")
def unknown_models(server):
    for path, body in ((C, {"prompt": "a"}), (CHAT, {"messages": USER}),
                       ("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
        check_error(server.post(path, {"model": "gpt-4", **body}), 404, "model",
                    "not_found_error")


@case("bad_input")
def prompts_too_long_say_the_numbers(server):
    error = check_error(server.post(C, {"prompt": [5] * 3000, "max_tokens": 1}), 400, "prompt")
    check("3000" in error["message"] and "2048" in error["message"], error["message"])
    error = check_error(server.post(C, {"prompt": [5] * 2000, "max_tokens": 100}), 400)
    check(all(n in error["message"] for n in ("2000", "100", "2048")), error["message"])
    equal(server.post(C, {"prompt": [5] * 2047, "max_tokens": 1}).status, 200)


@case("bad_input")
def bodies_too_large(server):
    declared = server.raw(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
                          b"Content-Length: 99999999999\r\n\r\n")
    check(declared.startswith(b"HTTP/1.1 413 "), declared[:200])
    big = b'{"prompt": "' + b"x" * (17 << 20) + b'"}'
    check(server.raw(post_bytes(C, big)).startswith(b"HTTP/1.1 413 "), "413 reaches the sender")
    chunked = server.raw(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
                         b"Transfer-Encoding: chunked\r\n\r\n" +
                         b"100000\r\n" + b"x" * 0x100000 + b"\r\n" +
                         (b"1000000\r\n" + b"x" * 0x1000000 + b"\r\n"))
    check(chunked.startswith(b"HTTP/1.1 413 "), chunked[:200])


@case("bad_input")
def broken_heads(server):
    for head in (b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
                 b"GET / HTTP/1.1\r\nBad Header\r\n\r\n", b"GET  / HTTP/1.1\r\n\r\n",
                 b"POST /v1/completions HTTP/1.1\r\nContent-Length: x\r\n\r\n",
                 b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                 b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1\r\n"
                 b"Transfer-Encoding: chunked\r\n\r\n",
                 b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
                 b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 200000 + b"\r\n\r\n",
                 b"GET /" + b"a" * 200000 + b" HTTP/1.1\r\n\r\n"):
        answer = server.raw(head, half_close=True)
        status = int(answer[9:12]) if answer else 0
        check(status == 0 or 400 <= status < 500 or status in (501, 505),
              f"{head[:60]}: {answer[:100]}")


@case("bad_input")
def random_bytes_do_not_hurt(server):
    noise = random.Random(1)
    valid = post_bytes(C, {"prompt": "a", "max_tokens": 1})
    for _ in range(100):
        data = bytearray(valid)
        for _ in range(noise.randint(1, 8)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        answer = server.raw(bytes(data), half_close=True)
        check(not answer.startswith(b"HTTP/1.1 500"), bytes(data))
    equal(server.get("/health").status, 200)


@case("bad_input", own_server=True)
def slow_clients():
    server = Server(args=["--http.header_timeout=800ms", "--http.body_timeout=800ms",
                          "--http.idle_timeout=800ms", "--http.write_timeout=4s"])
    try:
        with server.connect() as sock:
            sock.sendall(b"GET /hea")
            check(sock.recv(100).startswith(b"HTTP/1.1 408 "), "slow head")
        with server.connect() as sock:
            sock.sendall(post_bytes(C, {"prompt": "a"})[:-3])
            check(sock.recv(100).startswith(b"HTTP/1.1 408 "), "slow body")
        with server.connect() as sock:
            started = time.time()
            equal(sock.recv(100), b"", "idle connection")
            check(time.time() - started < seconds(5), "closed late")
        # The limit counts for the head alone, not for an answer that takes longer.
        answer = server.completion(prompt="a", max_tokens=400, ignore_eos=True)
        equal(answer["usage"]["completion_tokens"], 400)
        server.stop()
    finally:
        server.kill()


@case("bad_input", own_server=True)
def too_many_connections():
    server = Server(args=["--http.max_connections=3"])
    try:
        # The connections that asked whether it is ready have to be gone.
        time.sleep(1)
        held = [server.connect() for _ in range(3)]
        for sock in held:
            sock.sendall(b"GET /hea")
        answer = server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        check(answer.startswith(b"HTTP/1.1 503 "), answer[:200])
        check(b"Retry-After" in answer, answer[:400])
        for sock in held:
            sock.close()
        end = time.time() + seconds(5)
        while server.get("/health").status != 200:
            check(time.time() < end, "no place becomes free")
            time.sleep(0.02)
        server.stop()
    finally:
        server.kill()


@case("bad_input")
def unknown_fields_are_named_once(server):
    for _ in range(3):
        equal(server.post(C, {"prompt": "a", "max_tokens": 1, "x_new_field": 1}).status, 200)
    equal(server.log_text().count("x_new_field"), 1)


@case("bad_input")
def prompts_are_not_logged(server):
    server.completion(prompt="a very secret phrase", max_tokens=1)
    server.post(C, json.dumps({"prompt": "another secret", "n": 0}))
    check("secret" not in server.log_text(), "prompt text in the log")
