"""The official openai client."""

from harness import Skip, case, check, equal


def client_of(server):
    try:
        import openai
    except ImportError:
        raise Skip("openai is not installed") from None
    return openai, openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none",
                                 max_retries=0, timeout=60)


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
def leaving_a_stream_ends_it(server):
    _, client = client_of(server)
    stream = client.completions.create(model="classics-14m", prompt="a", max_tokens=2000,
                                       stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    server.wait_idle(5)
