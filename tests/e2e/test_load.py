"""Many clients at once."""

import json
import random
import socket
import threading
import time

from harness import Server, case, check, equal, golden, parse_events, post_bytes, read_all, seconds

CLIENTS = 64


def one_client(server, index, noise, failures):
    """Mixed requests; some leave at a random moment."""
    body = {"prompt": f"Chapter {index}. The", "max_tokens": noise.randint(1, 60),
            "temperature": noise.choice([0, 0.7, 1.3]), "seed": index,
            "n": noise.choice([1, 1, 1, 3]), "ignore_eos": True,
            "stream": noise.random() < 0.5, "logprobs": noise.choice([None, 2])}
    leaves = noise.random() < 0.4
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=seconds(120)) as sock:
            sock.sendall(post_bytes("/v1/completions", body, "Connection: close\r\n"))
            if leaves:
                time.sleep(noise.random() * 0.5)
                return
            answer = read_all(sock)
        if not answer.startswith(b"HTTP/1.1 200 "):
            failures.append(answer[:300])
        elif body["stream"] and b"data: [DONE]\n\n" not in answer:
            failures.append(answer[-300:])
        elif not body["stream"]:
            usage = json.loads(answer.split(b"\r\n\r\n", 1)[1])["usage"]
            if usage["completion_tokens"] != body["max_tokens"] * body["n"]:
                failures.append(usage)
    except OSError as error:
        failures.append(error)


def storm(server, seed):
    failures = []
    threads = [threading.Thread(target=one_client,
                                args=(server, i, random.Random(seed * 1000 + i), failures))
               for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds(120))
    check(not any(thread.is_alive() for thread in threads), "a client hangs")
    equal(failures, [], "failures")
    server.wait_idle()


@case("load")
def mixed_clients_with_random_disconnects(server):
    for seed in range(2):
        storm(server, seed)
    used = server.metric("palu:kv_cache_bytes", kind="used")
    equal(used, 0.0, "bytes held")


@case("load", own_server=True)
def the_same_with_a_tight_cache():
    """Preemption by recompute; the destructor of the block allocator checks the blocks at exit."""
    server = Server(args=["--cache.memory=1500KiB", "--model.max_context_tokens=128",
                          "--engine.step_tokens=64"])
    try:
        storm(server, 7)
        check(server.metric("vllm:num_preemptions_total") > 0, "the cache was not tight")
        server.stop()
    finally:
        server.kill()


@case("load")
def batching_does_not_change_a_greedy_answer(server):
    item = golden()["cases"][0]
    body = {"prompt": item["ids"], "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    alone = server.completion(**body)["choices"][0]["text"]
    texts = []

    def ask():
        texts.append(server.completion(**body)["choices"][0]["text"])

    def disturb(index):
        server.completion(prompt=f"noise {index} " * index, max_tokens=20 + index, ignore_eos=True)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    threads += [threading.Thread(target=disturb, args=(i,)) for i in range(1, 20)]
    random.Random(3).shuffle(threads)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds(120))
    equal(texts, [alone] * 8)


@case("load")
def many_streams_on_few_threads(server):
    answers = []

    def ask(index):
        answers.append(server.post("/v1/completions", {
            "prompt": f"{index}", "max_tokens": 10, "stream": True, "ignore_eos": True},
            timeout=seconds(120)))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds(120))
    equal(len(answers), 100)
    check(all(parse_events(answer.body)[-1] == "[DONE]" for answer in answers), "ends")
    check(not any(b":\n\n" in answer.body for answer in answers), "no stream fell silent")
