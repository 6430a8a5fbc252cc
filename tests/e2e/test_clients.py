"""The official openai client."""

from harness import Server, Skip, case, check, equal, post_bytes, seconds
from test_disconnect import wait_running


def client_of(server):
    try:
        import openai
    except ImportError:
        raise Skip("openai is not installed") from None
    return openai, openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none",
                                 max_retries=0, timeout=seconds(60))


@case("openai")
def completions(server):
    _, client = client_of(server)
    answer = client.completions.create(model="classics-14m", prompt="Once upon a time",
                                       max_tokens=12, temperature=0, logprobs=2)
    check(answer.choices[0].text, "text")
    equal(len(answer.choices[0].logprobs.tokens), 12)
    stream = client.completions.create(model="classics-14m", prompt="Once upon a time",
                                       max_tokens=12, temperature=0, stream=True)
    equal("".join(chunk.choices[0].text for chunk in stream), answer.choices[0].text)


@case("openai")
def chat(server):
    _, client = client_of(server)
    arguments = {"model": "classics-14m", "max_completion_tokens": 12, "temperature": 0,
                 "messages": [{"role": "user", "content": "Once upon a time"}]}
    answer = client.chat.completions.create(**arguments, logprobs=True, top_logprobs=2)
    equal(answer.choices[0].message.role, "assistant")
    equal(len(answer.choices[0].logprobs.content), answer.usage.completion_tokens)
    stream = client.chat.completions.create(**arguments, stream=True,
                                            stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    equal(text, answer.choices[0].message.content)
    equal(chunks[-1].usage.total_tokens, answer.usage.total_tokens)


@case("openai")
def models(server):
    _, client = client_of(server)
    equal([model.id for model in client.models.list()], ["classics-14m"])
    equal(client.models.retrieve("classics-14m").object, "model")


@case("openai")
def errors_are_their_exceptions(server):
    openai, client = client_of(server)
    for arguments, kind in (({"model": "x"}, openai.NotFoundError),
                            ({"model": "classics-14m", "temperature": -1},
                             openai.BadRequestError)):
        try:
            client.completions.create(prompt="a", **arguments)
        except kind as error:
            check(error.body["message"], "message")
        else:
            check(False, f"no {kind}")


@case("openai")
def embeddings(server):
    _, client = client_of(server)
    answer = client.embeddings.create(model="classics-14m", input=["The sea", "A hill"])
    equal([entry.index for entry in answer.data], [0, 1])
    floats = client.embeddings.create(model="classics-14m", input="The sea",
                                      encoding_format="float")
    # Without a format the client asks for base64 and decodes it.
    for found, expected in zip(answer.data[0].embedding, floats.data[0].embedding):
        check(abs(found - expected) < 1e-5, "base64 against float")
    check(answer.usage.prompt_tokens > 0, "usage")


@case("openai", own_server=True)
def keys_and_their_errors():
    server = Server(env={"PALU_SECURITY_API_KEYS": "right"})
    try:
        openai, _ = client_of(server)
        url = f"http://127.0.0.1:{server.port}/v1"
        equal(len(openai.OpenAI(base_url=url, api_key="right").models.list().data), 1)
        try:
            openai.OpenAI(base_url=url, api_key="wrong", max_retries=2).models.list()
        except openai.AuthenticationError as error:
            equal(error.status_code, 401)
        else:
            check(False, "no AuthenticationError")
        equal(server.metric("palu:http_requests_total", code="401"), 1, "401 is not retried")
        server.stop()
    finally:
        server.kill()


@case("openai", own_server=True)
def full_queues_are_retried():
    server = Server(args=["--engine.max_queue_requests=1", "--engine.max_sequences=1"])
    try:
        openai, _ = client_of(server)
        socks = []
        for _ in range(4):
            sock = server.connect()
            sock.sendall(post_bytes("/v1/completions", {"prompt": "The sea", "max_tokens": 300,
                                                        "ignore_eos": True}))
            socks.append(sock)
        wait_running(server)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none",
                               max_retries=20, timeout=seconds(60))
        answer = client.completions.create(model="classics-14m", prompt="a", max_tokens=1)
        equal(answer.usage.completion_tokens, 1)
        for sock in socks:
            sock.close()
        server.wait_idle()
        server.stop()
    finally:
        server.kill()


@case("openai")
def leaving_a_stream_ends_it(server):
    _, client = client_of(server)
    stream = client.completions.create(model="classics-14m", prompt="a", max_tokens=2000,
                                       stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    server.wait_idle(5)
