"""/v1/embeddings and gRPC Embed: pooled final hidden states."""

import base64
import math
import struct

from harness import Server, case, check, check_error, equal
from test_grpc import connect, fails

E = "/v1/embeddings"


def vectors(server, **body):
    answer = server.post(E, body)
    equal(answer.status, 200, answer.body[:300])
    json = answer.json()
    equal([entry["index"] for entry in json["data"]], list(range(len(json["data"]))))
    equal((json["object"], json["data"][0]["object"]), ("list", "embedding"))
    return [entry["embedding"] for entry in json["data"]], json


def near(a, b, tolerance=1e-5):
    equal(len(a), len(b), "length")
    check(all(abs(x - y) <= tolerance for x, y in zip(a, b)), "values")


@case("embeddings")
def shape_and_forms(server):
    (one,), json = vectors(server, input="The sea", model="classics-14m")
    equal(len(one), 384)
    check(abs(math.sqrt(sum(x * x for x in one)) - 1) < 1e-5, "length 1")
    ids = server.post("/tokenize", {"prompt": "The sea"}).json()["tokens"]
    equal(json["usage"]["prompt_tokens"], len(ids))
    equal(json["usage"]["total_tokens"], len(ids))
    (listed, other), _ = vectors(server, input=["The sea", "A mountain of gold"])
    near(listed, one)
    check(max(abs(x - y) for x, y in zip(one, other)) > 0.01, "texts differ")
    (by_ids,), _ = vectors(server, input=ids)
    (in_list, _), _ = vectors(server, input=[ids, ids[:2]])
    near(by_ids, one)
    near(in_list, one)


@case("embeddings")
def encodings_and_dimensions(server):
    (floats,), _ = vectors(server, input="The sea", encoding_format="float")
    (text,), _ = vectors(server, input="The sea", encoding_format="base64")
    near(struct.unpack(f"<{len(floats)}f", base64.b64decode(text, validate=True)), floats)
    (raw,), _ = vectors(server, input="The sea", normalize=False)
    (short,), _ = vectors(server, input="The sea", dimensions=16)
    norm = math.sqrt(sum(x * x for x in raw[:16]))
    near(short, [x / norm for x in raw[:16]])


@case("embeddings")
def pooling(server):
    """The mean of all tokens' states is made of what prefixes give as their last one."""
    ids = server.post("/tokenize", {"prompt": "A long way from home"}).json()["tokens"]
    last = [vectors(server, input=ids[:i + 1], pooling="last", normalize=False)[0][0]
            for i in range(len(ids))]
    (mean,), _ = vectors(server, input=ids, pooling="mean", normalize=False)
    expected = [sum(column) / len(ids) for column in zip(*last)]
    check(max(abs(x - y) for x, y in zip(mean, expected)) < 0.05, "mean")
    (default,), _ = vectors(server, input=ids, normalize=False)
    near(default, last[-1], 1e-3)


@case("embeddings", own_server=True)
def pooling_is_configured():
    server = Server(args=["--model.pooling=mean"])
    try:
        (default,), _ = vectors(server, input="Far from home")
        (mean,), _ = vectors(server, input="Far from home", pooling="mean")
        near(default, mean)
        server.stop()
    finally:
        server.kill()


@case("embeddings")
def wrong_values(server):
    for field, value in (("input", None), ("input", []), ("input", 5), ("input", [[1], "a"]),
                         ("encoding_format", "hex"), ("dimensions", 0), ("dimensions", 385),
                         ("dimensions", "x"), ("pooling", "max"), ("normalize", 1)):
        body = {"input": "a", field: value}
        if value is None:
            body.pop(field)
        error = check_error(server.post(E, body), 400, kind="invalid_request_error")
        check(error["param"].startswith(field), f"{field}={value}: {error}")
    check_error(server.post(E, {"input": "a", "model": "gpt-4"}), 404, "model")
    error = check_error(server.post(E, {"input": [5] * 3000}), 400)
    check("3000" in error["message"] and "2048" in error["message"], error["message"])
    equal(len(vectors(server, input=[5] * 3000, truncate_prompt_tokens=-1)[0]), 1)


@case("embeddings")
def over_grpc(server):
    grpc, pb, stub, channel = connect(server)
    (one, two), json = vectors(server, input=["The sea", "A hill"], dimensions=8)
    with channel:
        answer = stub.Embed(pb.EmbedRequest(
            request_id="e-1", dimensions=8,
            inputs=[pb.EmbedInput(text="The sea"), pb.EmbedInput(text="A hill")]))
        fails(grpc, grpc.StatusCode.INVALID_ARGUMENT, lambda: stub.Embed(pb.EmbedRequest()))
        fails(grpc, grpc.StatusCode.INVALID_ARGUMENT, lambda: stub.Embed(pb.EmbedRequest(
            dimensions=9999, inputs=[pb.EmbedInput(text="a")])))
    equal(answer.request_id, "e-1")
    near(answer.embeddings[0].values, one)
    near(answer.embeddings[1].values, two)
    equal(answer.usage.prompt_tokens, json["usage"]["prompt_tokens"])
