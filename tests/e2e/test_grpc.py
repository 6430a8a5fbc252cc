"""gRPC: generation, text, information, health, reflection."""

import importlib
import os
import signal
import sys
import tempfile
import threading
import time

from harness import ROOT, Server, Skip, case, check, equal, golden, seconds
from test_disconnect import wait_running

STUBS = {}


def stubs():
    """grpc, messages and services, generated from our proto file."""
    if not STUBS:
        try:
            import grpc
            from grpc_tools import protoc
        except ImportError as error:
            raise Skip(f"{error.name} is not installed") from None
        directory = tempfile.mkdtemp(prefix="palu-proto-")
        proto = os.path.join(ROOT, "proto")
        equal(protoc.main(["", f"-I{proto}", f"--python_out={directory}",
                           f"--grpc_python_out={directory}", "palu/v1/inference.proto"]), 0)
        sys.path.insert(0, directory)
        STUBS["all"] = (grpc, importlib.import_module("palu.v1.inference_pb2"),
                        importlib.import_module("palu.v1.inference_pb2_grpc"))
    return STUBS["all"]


def connect(server):
    grpc, pb, services = stubs()
    channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
    return grpc, pb, services.InferenceServiceStub(channel), channel


def fails(grpc, code, function):
    try:
        function()
    except grpc.RpcError as error:
        equal(error.code(), code, error.details())
        check(error.details(), "details")
    else:
        check(False, f"no {code}")


@case("grpc")
def unary_equals_http(server):
    _, pb, stub, channel = connect(server)
    item = golden()["cases"][0]
    http = server.completion(prompt=item["prompt"], max_tokens=12, temperature=0, logprobs=2)
    with channel:
        answer = stub.GenerateUnary(pb.GenerateRequest(
            request_id="mine", text=item["prompt"],
            sampling=pb.SamplingParams(max_tokens=12, temperature=0, logprobs=2,
                                       prompt_logprobs=0)))
        by_ids = stub.GenerateUnary(pb.GenerateRequest(
            tokens=pb.TokenIds(ids=item["ids"]),
            sampling=pb.SamplingParams(max_tokens=12, temperature=0, n=2)))
    equal(answer.request_id, "mine")
    equal(answer.model, "classics-14m")
    choice = answer.choices[0]
    equal(choice.text, http["choices"][0]["text"])
    equal(list(choice.token_ids), item["greedy"][:12])
    equal(choice.finish_reason, pb.FINISH_REASON_LENGTH)
    equal(len(choice.logprobs), 12)
    equal(len(choice.logprobs[0].top), 2)
    equal(b"".join(entry.token for entry in choice.logprobs).decode(), choice.text)
    equal(len(answer.prompt_logprobs), len(item["ids"]) - 1)
    equal(answer.usage.prompt_tokens, len(item["ids"]))
    equal(answer.usage.completion_tokens, 12)
    equal([c.text for c in by_ids.choices], [choice.text] * 2)


@case("grpc")
def stream_equals_unary(server):
    _, pb, stub, channel = connect(server)
    request = pb.GenerateRequest(text="It was a dark night", sampling=pb.SamplingParams(
        max_tokens=30, temperature=1, seed=5, n=2, ignore_eos=True))
    with channel:
        unary = stub.GenerateUnary(request)
        chunks = list(stub.Generate(request))
    for choice in unary.choices:
        equal("".join(c.text for c in chunks if c.choice == choice.index), choice.text)
        reasons = [c.finish_reason for c in chunks
                   if c.choice == choice.index and c.finish_reason]
        equal(reasons, [pb.FINISH_REASON_LENGTH])
    equal([c.HasField("usage") for c in chunks], [False] * (len(chunks) - 1) + [True])
    equal(chunks[-1].usage.completion_tokens, 60)
    equal(len({c.request_id for c in chunks}), 1)


@case("grpc")
def stop_strings(server):
    _, pb, stub, channel = connect(server)
    text = golden()["cases"][0]["greedy_text"]
    with channel:
        answer = stub.GenerateUnary(pb.GenerateRequest(
            text=golden()["cases"][0]["prompt"],
            sampling=pb.SamplingParams(max_tokens=30, temperature=0, stop=[text[9:15]])))
    equal(answer.choices[0].text, text[:text.index(text[9:15])])
    equal(answer.choices[0].finish_reason, pb.FINISH_REASON_STOP)


@case("grpc")
def tokenize_and_back(server):
    _, pb, stub, channel = connect(server)
    with channel:
        for item in golden()["tokenizer"]:
            answer = stub.Tokenize(pb.TokenizeRequest(text=item["text"],
                                                      add_special_tokens=False))
            equal(list(answer.ids), item["ids"])
            equal(stub.Detokenize(pb.DetokenizeRequest(ids=item["ids"])).text, item["decoded"])
        equal(answer.max_model_len, 2048)


@case("grpc")
def information(server):
    _, pb, stub, channel = connect(server)
    with channel:
        info = stub.GetModelInfo(pb.GetModelInfoRequest())
        stats = stub.GetServerStats(pb.GetServerStatsRequest())
    equal((info.id, info.model_type, info.max_model_len, info.vocab_size),
          ("classics-14m", "llama", 2048, 8192))
    equal(len(info.layers), 6)
    equal(info.kv_bytes_per_token_uncompressed, 6144.0)
    check(info.kv_capacity_tokens > 1000 and info.weights_bytes > 1 << 20, "sizes")
    check(stats.uptime_seconds > 0 and stats.requests_running == 0, "stats")


@case("grpc")
def errors(server):
    grpc, pb, stub, channel = connect(server)
    code = grpc.StatusCode

    def ask(**kwargs):
        sampling = kwargs.pop("sampling", {})
        return lambda: list(stub.Generate(pb.GenerateRequest(
            sampling=pb.SamplingParams(**sampling), **kwargs)))

    with channel:
        fails(grpc, code.INVALID_ARGUMENT, ask())
        fails(grpc, code.INVALID_ARGUMENT, ask(text="a", sampling={"temperature": -1}))
        fails(grpc, code.INVALID_ARGUMENT, ask(text="a", sampling={"presence_penalty": 3}))
        fails(grpc, code.INVALID_ARGUMENT, ask(text="a", sampling={"n": 0}))
        fails(grpc, code.INVALID_ARGUMENT, ask(text="a", sampling={"temperature": float("nan")}))
        fails(grpc, code.INVALID_ARGUMENT, ask(tokens=pb.TokenIds(ids=[99999])))
        fails(grpc, code.INVALID_ARGUMENT, ask(tokens=pb.TokenIds(ids=[5] * 3000)))
        fails(grpc, code.NOT_FOUND, ask(text="a", model="gpt-4"))
        fails(grpc, code.INVALID_ARGUMENT,
              lambda: stub.Detokenize(pb.DetokenizeRequest(ids=[-1])))
        fails(grpc, code.RESOURCE_EXHAUSTED, ask(text="a" * (17 << 20)))


@case("grpc")
def deadlines_and_cancellation_reach_the_engine(server):
    grpc, pb, stub, channel = connect(server)
    request = pb.GenerateRequest(text="a", sampling=pb.SamplingParams(
        max_tokens=2000, ignore_eos=True))
    deadline = server.metric("palu:requests_cancelled_total", reason="deadline")
    client = server.metric("palu:requests_cancelled_total", reason="client")
    with channel:
        # The deadline is to pass while the engine works, not while the channel connects.
        stub.GetModelInfo(pb.GetModelInfoRequest())
        fails(grpc, grpc.StatusCode.DEADLINE_EXCEEDED,
              lambda: stub.GenerateUnary(request, timeout=0.5))
        server.wait_idle(5)
        stream = stub.Generate(request)
        next(stream)
        stream.cancel()
        server.wait_idle(5)
        call = stub.GenerateUnary.future(request)
        wait_running(server)
        call.cancel()
        server.wait_idle(5)
    ended = (server.metric("palu:requests_cancelled_total", reason="deadline") - deadline +
             server.metric("palu:requests_cancelled_total", reason="client") - client)
    equal(ended, 3)
    check(server.metric("palu:grpc_requests_total", method="Generate", code="CANCELLED") >= 1,
          "counted")


@case("grpc")
def reflection_and_health(server):
    grpc, _, _, channel = connect(server)
    try:
        from grpc_health.v1 import health_pb2, health_pb2_grpc
        from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
    except ImportError as error:
        raise Skip(f"{error.name} is not installed") from None
    with channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "palu.v1.InferenceService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            equal(answer.status, health_pb2.HealthCheckResponse.SERVING)
        fails(grpc, grpc.StatusCode.NOT_FOUND,
              lambda: health.Check(health_pb2.HealthCheckRequest(service="nope")) or 1 / 0)
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        listed = next(reflection.ServerReflectionInfo(requests)).list_services_response
        names = {service.name for service in listed.service}
    check({"palu.v1.InferenceService", "grpc.health.v1.Health"} <= names, names)


@case("grpc", own_server=True)
def health_watch_sees_draining():
    stubs()
    try:
        from grpc_health.v1 import health_pb2, health_pb2_grpc
    except ImportError as error:
        raise Skip(f"{error.name} is not installed") from None
    server = Server(args=["--shutdown.drain_timeout=20s"])
    try:
        _, pb, stub, channel = connect(server)
        states, seen = [], threading.Event()

        def watch():
            try:
                for answer in health_pb2_grpc.HealthStub(channel).Watch(
                        health_pb2.HealthCheckRequest(service="")):
                    states.append(answer.status)
                    seen.set()
            except Exception:  # pylint: disable=broad-except
                pass

        threading.Thread(target=watch, daemon=True).start()
        check(seen.wait(seconds(10)), "no first state")
        running = stub.Generate(pb.GenerateRequest(text="a", sampling=pb.SamplingParams(
            max_tokens=400, ignore_eos=True)))
        next(running)
        server.signal(signal.SIGTERM)
        end = time.time() + seconds(10)
        while len(states) < 2 and time.time() < end:
            time.sleep(0.02)
        kinds = health_pb2.HealthCheckResponse
        equal(states[:2], [kinds.SERVING, kinds.NOT_SERVING])
        grpc = stubs()[0]
        fails(grpc, grpc.StatusCode.UNAVAILABLE,
              lambda: stub.GenerateUnary(pb.GenerateRequest(text="a")))
        chunks = list(running)
        equal(chunks[-1].usage.completion_tokens, 400)
        equal(server.wait_exit(20), 0)
    finally:
        server.kill()
