// The playground: a request, its stream, and the probability of every token.
import {errorOf, events, tokensOf} from "./stream.js";

const $ = id => document.getElementById(id);
const hint = $("token").textContent;
let abort = null;
let turns = [];  // of the chat so far

const chatting = () => document.forms.form.mode.value === "chat";

function parameters() {
  const body = {stream: true};
  for (const id of ["max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed"]) {
    if ($(id).value !== "") body[id] = Number($(id).value);
  }
  if ($("stop_text").value !== "") body.stop = [$("stop_text").value];
  if ($("logprobs").checked) Object.assign(body, chatting() ? {logprobs: true, top_logprobs: 5} : {logprobs: 5});
  return body;
}

function append(text, kind) {
  const span = document.createElement("span");
  if (kind) span.className = kind;
  span.textContent = text;
  $("output").append(span);
  return span;
}

// A piece of output; one span per token where the tokens make up the text.
function show(text, tokens) {
  if (tokens.map(t => t.text).join("") !== text) tokens = [];
  if (tokens.length === 0) {
    if (text) append(text);
    return;
  }
  for (const token of tokens) {
    const span = append(token.text, "token");
    span.token = token;
    span.style.setProperty("--p", Math.exp(token.logprob).toFixed(3));
  }
}

const percent = logprob => (100 * Math.exp(logprob)).toFixed(1) + " %";

function choose(span) {
  for (const old of $("output").querySelectorAll(".chosen")) old.classList.remove("chosen");
  if (!span) return;
  span.classList.add("chosen");
  const others = span.token.others.map(([text, logprob]) => `${JSON.stringify(text)} ${percent(logprob)}`);
  $("token").textContent = `${JSON.stringify(span.token.text)} had ${percent(span.token.logprob)}` +
    (others.length ? `; likeliest: ${others.join(", ")}` : "");
}

function step(direction) {
  const all = [...$("output").querySelectorAll(".token")];
  const at = all.findIndex(span => span.classList.contains("chosen"));
  const next = all[Math.min(Math.max(at + direction, 0), all.length - 1)];
  choose(next);
  next?.scrollIntoView({block: "nearest"});
}

function fail(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

async function run(path, body, onText) {
  const headers = {"Content-Type": "application/json"};
  if ($("key").value) headers.Authorization = "Bearer " + $("key").value;
  const started = performance.now();
  const response = await fetch(path, {
    method: "POST", headers, body: JSON.stringify(body), signal: abort.signal});
  if (!response.ok) throw new Error(await errorOf(response));
  let first = 0, last = 0, pieces = 0, reason = null;
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    for (const choice of event.choices) {
      reason = choice.finish_reason ?? reason;
      const text = (choice.delta ? choice.delta.content : choice.text) || "";
      const tokens = tokensOf(choice);
      if (!text && tokens.length === 0) continue;
      last = performance.now();
      first ||= last;
      pieces += tokens.length || 1;
      onText(text, tokens);
    }
  }
  if (reason === null) throw new Error("the connection broke before the end");
  const rate = last > first ? `, then ${((pieces - 1) / (last - first) * 1000).toFixed(0)} tokens a second` : "";
  return `first token after ${(first - started).toFixed(0)} ms${rate}; ended by ${reason}`;
}

async function generate() {
  if (abort) return;
  abort = new AbortController();
  const chat = chatting(), prompt = $("prompt").value, body = parameters();
  fail("");
  $("note").textContent = "generating";
  $("go").disabled = true;
  $("stop").disabled = false;
  let answer = "";
  if (chat) {
    turns.push({role: "user", content: prompt});
    append("You", "turn");
    append(prompt, "given");
    append("Model", "turn");
    body.messages = turns;
    $("prompt").value = "";
  } else {
    $("output").replaceChildren();
    append(prompt, "given");
    body.prompt = prompt;
  }
  try {
    $("note").textContent = await run(chat ? "/v1/chat/completions" : "/v1/completions", body,
      (text, tokens) => { answer += text; show(text, tokens); });
  } catch (error) {
    $("note").textContent = error.name === "AbortError" ? "stopped" : "";
    if (error.name !== "AbortError") fail(error.message);
    if (chat && !answer) turns.pop();
  }
  if (chat && answer) turns.push({role: "assistant", content: answer});
  abort = null;
  $("go").disabled = false;
  $("stop").disabled = true;
}

function clear() {
  turns = [];
  $("output").replaceChildren();
  $("note").textContent = "";
  $("token").textContent = hint;
  fail("");
}

$("form").addEventListener("submit", event => { event.preventDefault(); generate(); });
$("stop").addEventListener("click", () => abort?.abort());
$("clear").addEventListener("click", clear);
for (const radio of document.forms.form.mode) {
  radio.addEventListener("change", () => {
    clear();
    $("prompt-label").textContent = chatting() ? "Your message" : "Text to continue";
  });
}
document.addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate();
  if (event.key === "Escape") abort?.abort();
});
$("output").addEventListener("mouseover", event => event.target.token && choose(event.target));
$("output").addEventListener("click", event => event.target.token && choose(event.target));
$("output").addEventListener("keydown", event => {
  const direction = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (!direction) return;
  event.preventDefault();
  step(direction);
});

const root = document.documentElement;
try { if (localStorage.theme) root.dataset.theme = localStorage.theme; } catch { /* no storage */ }
$("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.theme = root.dataset.theme; } catch { /* no storage */ }
});
