"""The Open Inference Protocol, version 2, over HTTP and gRPC."""

import importlib
import os
import struct

from harness import ROOT, Server, case, check, check_error, equal, golden
from test_grpc import fails, stubs

MODEL = "/v2/models/classics-14m"


def text_input(*texts):
    return {"name": "text_input", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}


def outputs(answer):
    return {tensor["name"]: tensor["data"] for tensor in answer["outputs"]}


@case("open_inference")
def probes_and_metadata(server):
    equal(server.get("/v2/health/live").json(), {"live": True})
    equal(server.get("/v2/health/ready").json(), {"ready": True})
    equal(server.get(MODEL + "/ready").json(), {"name": "classics-14m", "ready": True})
    equal(server.get("/v2").json()["name"], "palu-server")
    metadata = server.get(MODEL).json()
    equal((metadata["name"], metadata["versions"]), ("classics-14m", ["1"]))
    equal({t["name"] for t in metadata["inputs"]}, {"text_input", "input_ids"})
    check("text_output" in {t["name"] for t in metadata["outputs"]}, "outputs")
    for path in ("/v2/models/gpt-4", "/v2/models/gpt-4/ready"):
        check_error(server.get(path), 404, kind="not_found_error")
    answer = server.request("POST", MODEL)
    check_error(answer, 405)
    equal(answer.headers["allow"], "GET, HEAD, OPTIONS")
    check_error(server.get(MODEL + "/infer"), 405)


@case("open_inference", own_server=True)
def probes_follow_the_server():
    server = Server(wait=False)
    try:
        equal(server.get("/v2/health/live").status, 200)
        early = server.get("/v2/health/ready")
        check(early.status in (200, 503), early.status)
        server.wait_ready()
        equal(server.get("/v2/health/ready").status, 200)
        server.stop()
    finally:
        server.kill()


@case("open_inference")
def infer(server):
    item = golden()["cases"][0]
    body = {"id": "42", "inputs": [text_input(item["prompt"], "The sea")],
            "parameters": {"max_tokens": 8, "temperature": 0}}
    answer = server.post(MODEL + "/infer", body).json()
    plain = server.completion(prompt=[item["prompt"], "The sea"], max_tokens=8, temperature=0)
    equal((answer["id"], answer["model_name"], answer["model_version"]),
          ("42", "classics-14m", "1"))
    found = outputs(answer)
    equal(found["text_output"], [c["text"] for c in plain["choices"]])
    equal(found["finish_reason"], ["length"] * 2)
    equal(found["completion_tokens"], [8, 8])
    ids = {"name": "input_ids", "datatype": "INT64", "shape": [1, len(item["ids"])],
           "data": [item["ids"]]}
    only = server.post(MODEL + "/infer", {**body, "inputs": [ids],
                                          "outputs": [{"name": "text_output"}]}).json()
    equal(outputs(only), {"text_output": found["text_output"][:1]})


@case("open_inference")
def bad_requests(server):
    good = text_input("a")
    for body, param in (({}, "inputs"), ({"inputs": []}, "inputs"),
                        ({"inputs": [good, good]}, "inputs"),
                        ({"inputs": [{**good, "shape": [2]}]}, "inputs"),
                        ({"inputs": [{**good, "shape": [-1]}]}, "inputs"),
                        ({"inputs": [{**good, "name": "x"}]}, "inputs"),
                        ({"inputs": [{**good, "datatype": "FP32", "data": [1.5]}]},
                         "inputs[0].data"),
                        ({"inputs": [5]}, "inputs[0]"),
                        ({"inputs": [good], "outputs": [{"name": "x"}]}, "outputs"),
                        ({"inputs": [good], "parameters": 5}, "parameters"),
                        ({"inputs": [good], "parameters": {"temperature": -1}}, "temperature"),
                        ({"inputs": [good], "parameters": {"stream": True}}, "stream")):
        error = check_error(server.post(MODEL + "/infer", body), 400)
        equal(error["param"], param, str(body))
    check_error(server.post("/v2/models/x/infer", {"inputs": [good]}), 404)


@case("open_inference")
def over_grpc(server):
    grpc, _, _ = stubs()
    from grpc_tools import protoc
    directory = os.path.dirname(os.path.dirname(os.path.dirname(stubs()[1].__file__)))
    proto = os.path.join(ROOT, "proto")
    equal(protoc.main(["", f"-I{proto}", f"--python_out={directory}",
                       f"--grpc_python_out={directory}", "inference/open_inference.proto"]), 0)
    pb = importlib.import_module("inference.open_inference_pb2")
    services = importlib.import_module("inference.open_inference_pb2_grpc")
    item = golden()["cases"][0]
    expected = server.completion(prompt=item["prompt"], max_tokens=6, temperature=0)["choices"][0]
    parameters = {"max_tokens": pb.InferParameter(int64_param=6),
                  "temperature": pb.InferParameter(double_param=0)}
    tensor = pb.ModelInferRequest.InferInputTensor
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = services.GRPCInferenceServiceStub(channel)
        check(stub.ServerLive(pb.ServerLiveRequest()).live, "live")
        check(stub.ServerReady(pb.ServerReadyRequest()).ready, "ready")
        check(stub.ModelReady(pb.ModelReadyRequest(name="classics-14m")).ready, "model ready")
        equal(stub.ServerMetadata(pb.ServerMetadataRequest()).name, "palu-server")
        equal(stub.ModelMetadata(pb.ModelMetadataRequest(name="classics-14m")).platform, "palu")
        answer = stub.ModelInfer(pb.ModelInferRequest(
            model_name="classics-14m", id="7", parameters=parameters, inputs=[tensor(
                name="text_input", datatype="BYTES", shape=[1], contents=pb.InferTensorContents(
                    bytes_contents=[item["prompt"].encode()]))]))
        equal(answer.id, "7")
        equal(answer.outputs[0].contents.bytes_contents[0].decode(), expected["text"])
        raw = stub.ModelInfer(pb.ModelInferRequest(
            model_name="classics-14m", parameters=parameters,
            inputs=[tensor(name="input_ids", datatype="INT32", shape=[len(item["ids"])])],
            raw_input_contents=[struct.pack(f"<{len(item['ids'])}i", *item["ids"])]))
        equal(raw.raw_output_contents[0][4:].decode(), expected["text"])
        for fault in ({"model_name": "x"}, {}):
            code = grpc.StatusCode.NOT_FOUND if fault else grpc.StatusCode.INVALID_ARGUMENT
            fails(grpc, code, lambda f=fault: stub.ModelInfer(pb.ModelInferRequest(
                **{"model_name": "classics-14m", **f}, inputs=[tensor(
                    name="text_input", datatype="BYTES", shape=[1])],
                raw_input_contents=[b"\xff\xff\xff\x7f"])))
