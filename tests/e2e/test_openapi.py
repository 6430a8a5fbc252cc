"""GET /openapi.json: valid, and neither more nor less than what the code has."""

import glob
import json
import os
import re

from harness import CASES, ROOT, Skip, case, check, equal, golden

SOURCES = ("openai_*.cc", "open_inference.cc", "chat_messages.cc")
# Read to be refused, or parts of objects that the schema describes as a whole.
INNER = {"include_usage", "continuous_usage_stats", "name", "datatype", "shape", "data"}


def description(server):
    return server.get("/openapi.json").json()


def read(*names):
    text = ""
    for name in names:
        for path in sorted(glob.glob(os.path.join(ROOT, "server", name))):
            with open(path, encoding="utf-8") as file:
                text += file.read()
    return text


@case("openapi")
def is_valid(server):
    try:
        from openapi_spec_validator import validate
    except ImportError as error:
        raise Skip(f"{error.name} is not installed") from None
    validate(description(server))


@case("openapi")
def has_every_route_of_the_code(server):
    found = {(path.replace("*", "{}"), method) for path, method in
             re.findall(r'\{"(/[^"]*)", "(GET|POST)", &HttpApi::', read("http_api.cc"))}
    check(len(found) > 15, f"routes are not found in the code: {found}")
    described = {(re.sub(r"\{\w+\}", "{}", path), method.upper())
                 for path, methods in description(server)["paths"].items() for method in methods}
    # Switched off by default, and for people.
    equal(described, found - {("/debug/engine", "GET")})


@case("openapi")
def every_route_answers_as_described(server):
    for path, methods in description(server)["paths"].items():
        path = path.replace("{model}", "classics-14m").replace("{file}", "page.css")
        for method, operation in methods.items():
            answer = (server.get(path) if method == "get" else server.post(path, "{}"))
            check(str(answer.status) in operation["responses"], f"{path}: {answer.status}")
            equal(answer.status, 200 if method == "get" else 400, path)
            kinds = operation["responses"][str(answer.status)]
            kinds = kinds.get("content", {"application/json": None})
            check(answer.headers["content-type"].split(";")[0] in {*kinds, "text/css"}, path)


@case("openapi")
def has_every_field_that_the_code_reads(server):
    known = set(re.findall(r'fields(?:\.|->)(?:Get|Has|Bool|String|Float|Int|Int64|OptionalInt|'
                           r'TokenIds|Strings)\(\s*"(\w+)"', read(*SOURCES)))
    known |= set(re.findall(r'Read\w+\(&?fields, "(\w+)"', read(*SOURCES)))
    check(len(known) > 45, f"fields are not found in the code: {known}")
    schemas = description(server)["components"]["schemas"]
    described = set()
    for name, schema in schemas.items():
        if name.endswith("Request"):
            described |= set(schema["properties"])
    equal(sorted(known - described - INNER - {"chat_template"}), [])


@case("openapi")
def answers_fit_their_schemas(server):
    try:
        from jsonschema import Draft202012Validator
    except ImportError as error:
        raise Skip(f"{error.name} is not installed") from None
    document = description(server)
    item = golden()["cases"][0]
    user = [{"role": "user", "content": "Hi"}]
    infer = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}
    requests = [("/v1/completions", {"prompt": item["ids"], "max_tokens": 3, "logprobs": 2,
                                     "echo": True, "prompt_logprobs": 1}),
                ("/v1/completions", {"prompt": "a", "max_tokens": 2, "user": None}),
                ("/v1/chat/completions", {"messages": user, "max_tokens": 3, "logprobs": True,
                                          "top_logprobs": 2}),
                ("/v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64"}),
                ("/tokenize", {"prompt": "a", "return_token_strs": True}),
                ("/detokenize", {"tokens": [300]}),
                ("/v2/models/{model}/infer", infer)]

    def validate(schema, value, what):
        checker = Draft202012Validator({**schema, "components": document["components"]})
        errors = [f"{'/'.join(map(str, e.path))}: {e.message}" for e in
                  checker.iter_errors(value)]
        equal(errors, [], what)

    for path, body in requests:
        operation = document["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        validate(schema, body, f"request {path}")
        answer = server.post(path.replace("{model}", "classics-14m"), body)
        equal(answer.status, 200, path)
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        validate(schema, answer.json(), path)
        bad = server.post(path.replace("{model}", "classics-14m"), json.dumps(5))
        validate({"$ref": "#/components/schemas/Error"}, bad.json(), f"error of {path}")


def conformance():
    """The rows of docs/api.md's conformance tables: (what, test)."""
    with open(os.path.join(ROOT, "docs", "api.md"), encoding="utf-8") as file:
        section = file.read().split("\n## Conformance\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| ([\w.]+) \|$", section, re.M)
    return [(what.strip("`"), test) for what, test in rows if test != "test"]


@case("openapi")
def conformance_tests_exist(server):
    known = {f"{area}.{name}" for area, name, _, _ in CASES}
    for path in glob.glob(os.path.join(ROOT, "tests", "*", "*.cc")):
        with open(path, encoding="utf-8") as file:
            known |= {".".join(found) for found in
                      re.findall(r"^TEST(?:_[FP])?\((\w+),\s*(\w+)\)", file.read(), re.M)}
    rows = conformance()
    check(len(rows) > 90, f"{len(rows)} rows are found")
    equal([row for row in rows if row[1] not in known], [])


@case("openapi")
def conformance_is_complete(server):
    listed = {what for what, _ in conformance()}
    document = description(server)
    wanted = {f"{method.upper()} {path}" for path, methods in document["paths"].items()
              for method in methods}
    for name, schema in document["components"]["schemas"].items():
        if name.endswith("Request"):
            wanted |= set(schema["properties"])
    equal(sorted(wanted - listed), [])
