"""Structured output and tools: whatever the model says, the form holds."""

import concurrent.futures
import json
import os
import random
import re
import subprocess
import tempfile

import harness
from harness import Skip, case, check, equal, seconds
from test_grpc import connect

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather somewhere", "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20},
                       "unit": {"enum": ["celsius", "fahrenheit"]},
                       "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "unit", "days"], "additionalProperties": False}}}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {}}}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 12},
                   "age": {"type": "integer", "minimum": 0, "maximum": 150},
                   "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
                   "boss": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["name", "age", "tags", "boss"], "additionalProperties": False}


def validator():
    try:
        import jsonschema
    except ImportError:
        raise Skip("jsonschema is not installed") from None
    return jsonschema.Draft202012Validator


def client_of(server):
    try:
        import openai
    except ImportError:
        raise Skip("openai is not installed") from None
    return openai, openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none",
                                 max_retries=0, timeout=seconds(60))


def chat(server, **body):
    body = {"messages": [{"role": "user", "content": "Once upon a time"}], **body}
    answer = server.post("/v1/chat/completions", body)
    check(answer.status == 200, f"{answer.status} {answer.body[:500]}")
    return answer.json()


def json_schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema, "strict": True}}


@case("structured")
def json_schema_holds(server):
    check_valid = validator()(PERSON).validate
    for seed in range(6):
        # Also where the budget is too small for what the model would say.
        answer = chat(server, response_format=json_schema(PERSON), seed=seed, temperature=1.5,
                      max_tokens=60 + 20 * seed)
        choice = answer["choices"][0]
        equal(choice["finish_reason"], "stop", choice["message"]["content"])
        value = json.loads(choice["message"]["content"])
        check_valid(value)
        equal(list(value)[:4], ["name", "age", "tags", "boss"], "order of keys")


@case("structured")
def json_object_holds(server):
    for seed in range(8):
        answer = chat(server, response_format={"type": "json_object"}, seed=seed, temperature=2,
                      max_tokens=4 + 5 * seed)
        value = json.loads(answer["choices"][0]["message"]["content"])
        check(isinstance(value, dict), value)


@case("structured")
def guided_fields_hold(server):
    forms = [
        ({"guided_choice": ["yes", "no", "maybe"]}, r"yes|no|maybe"),
        ({"guided_regex": r"[A-Z]{3}-\d{2,4}"}, r"[A-Z]{3}-\d{2,4}"),
        ({"guided_json": {"type": "integer", "minimum": 5, "maximum": 12}}, r"5|6|7|8|9|10|11|12"),
        ({"guided_json": '{"const": [1, "x"]}'}, r'\[1,"x"\]'),
        ({"guided_grammar": 'root ::= ("ab" | "c")+ "."'}, r"(ab|c)+\."),
        ({"structured_outputs": {"choice": ["left", "right"]}}, r"left|right"),
        ({"structured_outputs": {"regex": "a+"}}, r"a+"),
    ]
    for fields, expected in forms:
        for n in (1, 3):
            answer = server.completion(prompt="It was", max_tokens=30, n=n, seed=n, **fields)
            for choice in answer["choices"]:
                check(re.fullmatch(expected, choice["text"]), f"{fields}: {choice}")
                equal(choice["finish_reason"], "stop", fields)


@case("structured")
def streams_and_batches_equal_unary(server):
    body = {"messages": [{"role": "user", "content": "A"}], "seed": 5, "max_tokens": 120, "n": 2,
            "response_format": json_schema(PERSON)}
    unary = chat(server, **body)
    texts = ["", ""]
    for event in server.stream("/v1/chat/completions", **body):
        for choice in event["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
    equal(texts, [choice["message"]["content"] for choice in unary["choices"]])


@case("structured")
def bad_forms_are_refused_with_their_path(server):
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "nope"}}}}
    cases = [
        ({"response_format": json_schema(schema)},
         "response_format.json_schema.schema/properties/a/items/type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_json": {"not": {}}}, "guided_json/not"),
        ({"guided_grammar": "root ::= x"}, "guided_grammar"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex"),
        ({"structured_outputs": {"json_object": "yes"}}, "structured_outputs.json_object"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
        ({"tools": {}}, "tools"),
        ({"guided_regex": "a", "allowed_token_ids": [5]}, "allowed_token_ids"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [CLOCK, CLOCK]}, "tools[1].function.name"),
        ({"tools": [WEATHER], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
         "tool_choice.function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {
            "name": "f", "parameters": {"properties": {"x": {"minimum": "a"}}}}}],
          "tool_choice": "required"}, "tools[0].function.parameters/properties/x/minimum"),
    ]
    for fields, param in cases:
        answer = server.post("/v1/chat/completions",
                             {"messages": [{"role": "user", "content": "a"}], **fields})
        equal(answer.status, 400, f"{fields}: {answer.body[:300]}")
        equal(answer.json()["error"]["param"], param, fields)


def recorded_walks(tests):
    """Schemas and outputs of these C++ tests."""
    binary = os.path.join(os.path.dirname(harness.Server.binary), "..", "tests", "structured_test")
    if not os.path.exists(binary):
        raise Skip("structured_test is not built")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "outputs")
        subprocess.run([binary, f"--gtest_filter={tests}"], check=True, timeout=seconds(300),
                       env={**os.environ, "PALU_RECORD_OUTPUTS": path}, stdout=subprocess.DEVNULL)
        if not os.path.exists(path):
            return []
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]


@case("structured", own_server=True)
def real_vocabularies_hold():
    """Walks with the vocabularies of Llama 2 and 3, Qwen 2 and Mistral, judged by jsonschema."""
    draft = validator()
    walks = recorded_walks("*RealVocabulary.SchemasHold*")
    if not walks:
        raise Skip("the tokenizers are not on this machine")
    check(len(walks) >= 90, len(walks))
    for walk in walks:
        draft(walk["schema"], format_checker=draft.FORMAT_CHECKER).validate(
            json.loads(walk["text"]))


@case("structured")
def random_schemas_hold(server):
    """Schemas and outputs of the C++ walks, and of the server, judged by jsonschema."""
    draft = validator()
    walks = recorded_walks("SchemaWalk.PiecesOfJson")
    check(len(walks) > 300, len(walks))
    for walk in walks:
        draft(walk["schema"], format_checker=draft.FORMAT_CHECKER).validate(
            json.loads(walk["text"]))
    chosen = random.Random(1).sample(range(len(walks)), 10)
    for i in chosen:
        schema = walks[i]["schema"]
        answer = server.completion(prompt="Then", max_tokens=400, seed=i, guided_json=schema)
        choice = answer["choices"][0]
        equal(choice["finish_reason"], "stop", f"{schema} {choice['text']}")
        draft(schema, format_checker=draft.FORMAT_CHECKER).validate(json.loads(choice["text"]))


@case("structured")
def forms_hold_over_grpc(server):
    """The same text as over HTTP, streamed or not; forms that cannot be are refused by name."""
    grpc, pb, stub, channel = connect(server)
    schema = json.dumps(PERSON)
    forms = [
        (pb.Structure(json_object=True), {"response_format": {"type": "json_object"}}),
        (pb.Structure(json_schema=schema), {"guided_json": PERSON}),
        (pb.Structure(regex=r"[A-Z]{3}-\d{2,4}"), {"guided_regex": r"[A-Z]{3}-\d{2,4}"}),
        (pb.Structure(choice=pb.Choices(choices=["yes", "no"])), {"guided_choice": ["yes", "no"]}),
        (pb.Structure(grammar='root ::= ("ab" | "c")+ "."'),
         {"guided_grammar": 'root ::= ("ab" | "c")+ "."'}),
    ]
    wrong = [
        (pb.Structure(json_schema="{"), "structure.json_schema"),
        (pb.Structure(json_schema='{"properties": {"a": {"type": "nope"}}}'),
         "structure.json_schema/properties/a/type"),
        (pb.Structure(json_schema='{"not": {}}'), "structure.json_schema/not"),
        (pb.Structure(regex="("), "structure.regex"),
        (pb.Structure(choice=pb.Choices()), "structure.choice"),
        (pb.Structure(grammar="root ::= x"), "structure.grammar"),
    ]
    with channel:
        for form, fields in forms:
            request = pb.GenerateRequest(text="It was", structure=form, sampling=pb.SamplingParams(
                max_tokens=90, seed=11, temperature=1, n=2))
            unary = stub.GenerateUnary(request)
            texts = ["", ""]
            for chunk in stub.Generate(request):
                texts[chunk.choice] += chunk.text
            http = server.completion(prompt="It was", max_tokens=90, seed=11, temperature=1, n=2,
                                     **fields)
            expected = [choice["text"] for choice in http["choices"]]
            equal(([choice.text for choice in unary.choices], texts), (expected, expected), form)
            equal([choice.finish_reason for choice in unary.choices],
                  [pb.FINISH_REASON_STOP] * 2, form)
        for form, path in wrong:
            try:
                stub.GenerateUnary(pb.GenerateRequest(text="a", structure=form))
                check(False, f"{form} is taken")
            except grpc.RpcError as error:
                equal(error.code(), grpc.StatusCode.INVALID_ARGUMENT, form)
                check(path in error.details(), f"{path} in {error.details()}")


RECORDS = {"type": "array", "minItems": 12, "maxItems": 20, "items": {
    "type": "object", "properties": {"name": {"type": "string", "minLength": 3, "maxLength": 9},
                                     "age": {"type": "integer", "minimum": 0, "maximum": 130}},
    "required": ["name", "age"], "additionalProperties": False}}


@case("structured", own_server=True)
def preempted_outputs_keep_their_place():
    """Under a grammar, an answer that was preempted and taken up again is what it is alone."""
    forms = [{"guided_json": RECORDS}, {"guided_regex": r"([a-z]{3,7} ){40}end"},
             {"guided_grammar": 'root ::= line line line+\nline ::= [A-Z] [a-z ]{20,40} ".\\n"'}]
    bodies = [{"prompt": "The sea", "max_tokens": 300, "temperature": temperature, "seed": 9, **form}
              for form in forms for temperature in (0, 1)]
    for kind, host in (("recompute", "0"), ("swap", "64MiB")):
        server = harness.Server(args=["--cache.memory=3MiB", "--model.max_context_tokens=512",
                                    f"--cache.host_memory={host}"])
        try:
            alone = [server.completion(**body) for body in bodies]
            equal(server.metric("vllm:num_preemptions_total"), 0, "alone")
            with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
                together = list(pool.map(lambda body: server.completion(**body), bodies))
            # Three as a rule; which of them meet depends on when they arrive.
            check(server.metric("palu:preemptions_total", kind=kind) >= 1, kind)
            for body, one, other in zip(bodies, alone, together):
                equal(other["choices"], one["choices"], f"{kind} {body}")
            for answer in together[:2]:
                validator()(RECORDS).validate(json.loads(answer["choices"][0]["text"]))
            for answer in together[2:4]:
                check(re.fullmatch(forms[1]["guided_regex"], answer["choices"][0]["text"]), answer)
            server.stop()
        finally:
            server.kill()


@case("tools")
def forced_calls_are_valid(server):
    check_valid = validator()(WEATHER["function"]["parameters"]).validate
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice, parallel in ((named, True), ("required", True), ("required", False)):
        for seed in range(4):
            answer = chat(server, tools=[WEATHER, CLOCK], tool_choice=choice, seed=seed,
                          parallel_tool_calls=parallel, max_tokens=150)
            message = answer["choices"][0]["message"]
            equal(answer["choices"][0]["finish_reason"], "tool_calls")
            equal(message["content"], None)
            check(len(message["tool_calls"]) >= 1, message)
            if choice == named or not parallel:
                equal(len(message["tool_calls"]), 1)
            for call in message["tool_calls"]:
                equal(call["type"], "function")
                check(re.fullmatch(r"call_[A-Za-z0-9]{24}", call["id"]), call)
                arguments = json.loads(call["function"]["arguments"])
                if call["function"]["name"] == "get_weather":
                    check_valid(arguments)
                else:
                    equal(call["function"]["name"], "clock")


@case("tools")
def official_client_streams_and_answers(server):
    _, client = client_of(server)
    messages = [{"role": "user", "content": "Weather in Oslo?"}]
    arguments = {"model": "classics-14m", "messages": messages, "tools": [WEATHER, CLOCK],
                 "tool_choice": "required", "seed": 3, "max_tokens": 150}
    whole = client.chat.completions.create(**arguments).choices[0]
    calls = {}
    finish = None
    for chunk in client.chat.completions.create(**arguments, stream=True):
        choice = chunk.choices[0]
        finish = choice.finish_reason or finish
        for part in choice.delta.tool_calls or []:
            call = calls.setdefault(part.index, {"id": part.id, "name": part.function.name,
                                                 "arguments": ""})
            call["arguments"] += part.function.arguments or ""
    equal(finish, "tool_calls")
    equal([(c["name"], c["arguments"]) for c in calls.values()],
          [(c.function.name, c.function.arguments) for c in whole.message.tool_calls])
    check(all(c["id"] and c["name"] for c in calls.values()), calls)
    # The conversation goes on with the results.
    messages.append(whole.message.model_dump(exclude_none=True))
    for call in whole.message.tool_calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    answer = client.chat.completions.create(model="classics-14m", messages=messages,
                                            tools=[WEATHER], max_tokens=5)
    check(answer.choices[0].message.content is not None, answer)
    with client.chat.completions.stream(**arguments) as stream:
        for _ in stream:
            pass
        equal(stream.get_final_completion().choices[0].finish_reason, "tool_calls")


@case("tools")
def official_client_parses_models(server):
    _, client = client_of(server)
    import pydantic

    class Step(pydantic.BaseModel):
        explanation: str = pydantic.Field(max_length=15)
        number: int

    class Answer(pydantic.BaseModel):
        steps: list[Step] = pydantic.Field(max_length=2)
        final: bool | None

    answer = client.chat.completions.parse(
        model="classics-14m", messages=[{"role": "user", "content": "2+2?"}],
        response_format=Answer, max_tokens=200, seed=1)
    check(isinstance(answer.choices[0].message.parsed, Answer), answer)


@case("tools")
def calls_are_read_from_free_text(server):
    """tool_choice auto: text that is no call stays text; with none, tools change nothing."""
    for choice in ("auto", "none"):
        answer = chat(server, tools=[WEATHER], tool_choice=choice, max_tokens=8, temperature=0)
        message = answer["choices"][0]["message"]
        check(message["content"] and "tool_calls" not in message, message)
        equal(answer["choices"][0]["finish_reason"], "length")


@case("tools", own_server=True)
def every_format_is_enforced_and_read():
    for parser in ("llama3", "hermes", "mistral", "json"):
        server = harness.Server(args=[f"--model.tool_parser={parser}"])
        answer = chat(server, tools=[WEATHER, CLOCK], tool_choice="required", seed=2,
                      max_tokens=200)
        calls = answer["choices"][0]["message"]["tool_calls"]
        for call in calls:
            json.loads(call["function"]["arguments"])
        length = 9 if parser == "mistral" else 29
        equal(len(calls[0]["id"]), length, parser)
        server.stop()
