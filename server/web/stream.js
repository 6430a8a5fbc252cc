// Server-sent events of a completion, one parsed object after the other.

export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part === "data: [DONE]") return;
      if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
    }
  }
}

// What went wrong, in the server's words where it said any.
export async function errorOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

// The tokens of one event as {text, logprob, others: [[text, logprob]]}; none without log-probabilities.
export function tokensOf(choice) {
  const found = choice.logprobs;
  if (!found) return [];
  if (found.content) {
    return found.content.map(t => ({
      text: t.token, logprob: t.logprob, others: t.top_logprobs.map(o => [o.token, o.logprob]),
    }));
  }
  return (found.tokens || []).map((text, i) => ({
    text, logprob: found.token_logprobs[i], others: Object.entries(found.top_logprobs?.[i] || {}),
  }));
}
