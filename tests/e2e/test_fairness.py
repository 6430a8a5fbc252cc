"""Fair shares: whose requests take turns, over HTTP and gRPC, with API keys and without."""

import threading
import time

from harness import Server, case, check, equal, post_bytes, seconds
from test_disconnect import LONG, wait_running
from test_grpc import connect

KEYS = {"PALU_SECURITY_API_KEYS": "many-key-1,few-key-22,other-key-3"}
# One runs at a time, and a turn is about one request.
ARGS = ["--engine.policy=fair", "--engine.max_sequences=1", "--engine.step_tokens=64"]
PROMPT = list(range(100, 116))
TOKENS = 48
MANY, FEW = 8, 3


def over_http(server, key=None, user=None):
    def send(index):
        body = {"prompt": PROMPT, "max_tokens": TOKENS, "ignore_eos": True}
        if user is not None:
            body["user"] = user(index)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        equal(server.post("/v1/completions", body, headers, timeout=120).status, 200)

    return send


def over_grpc(server, key=None, user=None):
    _, pb, stub, _ = connect(server)

    def send(index):
        request = pb.GenerateRequest(
            tokens=pb.TokenIds(ids=PROMPT), user=user(index) if user else "",
            sampling=pb.SamplingParams(max_tokens=TOKENS, ignore_eos=True))
        metadata = (("authorization", f"Bearer {key}"),) if key else ()
        equal(stub.GenerateUnary(request, metadata=metadata).usage.completion_tokens, TOKENS)

    return send


def last_place_of_few(server, many, few, key=None):
    """Queues MANY requests, then FEW others, behind one that then leaves; the place among all at
    which the last of the FEW ended."""
    blocker = server.connect()
    extra = f"Authorization: Bearer {key}\r\n" if key else ""
    blocker.sendall(post_bytes("/v1/completions", {**LONG, "user": "blocker"}, extra))
    wait_running(server)
    ended, failures, threads = [], [], []

    def run(name, send, index):
        try:
            send(index)
            ended.append(name)
        except Exception as error:  # pylint: disable=broad-except
            failures.append(error)

    for count, (name, send, index) in enumerate(
            [("many", many, i) for i in range(MANY)] + [("few", few, i) for i in range(FEW)], 1):
        threads.append(threading.Thread(target=run, args=(name, send, index)))
        threads[-1].start()
        end = time.time() + seconds(30)
        while server.metric("vllm:num_requests_waiting") < count:
            check(time.time() < end and not failures, f"does not wait: {failures}")
            time.sleep(0.01)
    blocker.close()
    for thread in threads:
        thread.join()
    equal(failures, [])
    return max(place for place, name in enumerate(ended, 1) if name == "few")


def expect_turns(place):
    check(place <= 2 * FEW + 1, f"the few waited for the many: the last ended as number {place}")


@case("fairness", own_server=True)
def keys_take_turns_whatever_users_they_name():
    server = Server(env=KEYS, args=ARGS)
    try:
        expect_turns(last_place_of_few(
            server, over_http(server, "many-key-1", user=str),
            over_http(server, "few-key-22", user=lambda index: "0"), "other-key-3"))
        # One key is one share over both protocols.
        both = [over_http(server, "many-key-1"), over_grpc(server, "many-key-1", user=str)]
        expect_turns(last_place_of_few(
            server, lambda index: both[index % 2](index), over_grpc(server, "few-key-22"),
            "other-key-3"))
        server.stop()
    finally:
        server.kill()


@case("fairness", own_server=True)
def users_take_turns_without_keys():
    server = Server(args=ARGS)
    try:
        expect_turns(last_place_of_few(server, over_http(server, user=lambda index: "many"),
                                       over_http(server, user=lambda index: "few")))
        expect_turns(last_place_of_few(server, over_grpc(server, user=lambda index: "many"),
                                       over_grpc(server, user=lambda index: "few")))
        server.stop()
    finally:
        server.kill()


@case("fairness", own_server=True)
def one_key_waits_for_itself():
    """What the other cases would see without shares."""
    server = Server(env=KEYS, args=ARGS)
    try:
        send = over_http(server, "many-key-1", user=str)
        equal(last_place_of_few(server, send, send, "other-key-3"), MANY + FEW)
        server.stop()
    finally:
        server.kill()
