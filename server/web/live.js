// The live view: reads /metrics every second and shows what it means.

const $ = id => document.getElementById(id);
const PERIOD_MS = 1000, SAMPLES = 60, SLOWEST_RETRY_MS = 5000;
let before = null;   // {time, generated, ttft} of the last reading
let history = [];    // tokens a second
let retry = PERIOD_MS;

// Samples of a metrics page: name, labels, value.
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = line.match(/^([\w:]+)\{(.*)\} (\S+)$/);
    if (!found) continue;
    const labels = {};
    for (const [, key, value] of found[2].matchAll(/(\w+)="((?:\\.|[^"\\])*)"/g)) labels[key] = value;
    samples.push({name: found[1], labels, value: Number(found[3])});
  }
  return samples;
}

function reader(samples) {
  return (name, labels = {}) => samples
    .filter(s => s.name === name && Object.entries(labels).every(([k, v]) => s.labels[k] === v))
    .reduce((sum, s) => sum + s.value, 0);
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit + 1 < units.length) { n /= 1024; unit++; }
  return n.toFixed(unit ? 1 : 0) + " " + units[unit];
}

function tiles(rows) {
  $("tiles").replaceChildren(...rows.map(([name, value]) => {
    const tile = document.createElement("div");
    for (const [tag, text] of [["dt", name], ["dd", value]]) {
      const part = document.createElement(tag);
      part.textContent = text;
      tile.append(part);
    }
    return tile;
  }));
}

function spark(rate) {
  history = [...history, rate].slice(-SAMPLES);
  const top = Math.max(...history, 1);
  $("spark-line").setAttribute("points", history.map((value, i) =>
    `${(120 * (i + SAMPLES - history.length) / (SAMPLES - 1)).toFixed(1)},${(29 - 28 * value / top).toFixed(1)}`)
    .join(" "));
  $("spark").setAttribute("aria-label",
    `Tokens a second over the last minute: now ${rate.toFixed(0)}, at most ${top.toFixed(0)}`);
}

function cacheBar(metric) {
  const kind = name => metric("palu:kv_cache_bytes", {kind: name});
  const parts = {used: kind("used"), cached: kind("cached"), free: kind("reserved")};
  for (const [name, value] of Object.entries(parts)) {
    $("bar").querySelector("." + name).style.flexGrow = value / (kind("capacity") || 1);
  }
  $("bar-text").textContent = `${bytes(parts.used)} used, ${bytes(parts.cached)} kept for reuse, ` +
    `${bytes(parts.free)} free, of ${bytes(kind("capacity"))} = ` +
    `${metric("palu:kv_cache_capacity_tokens").toLocaleString("en")} tokens`;
  const small = metric("palu:kv_cache_bytes_per_token");
  const plain = metric("palu:kv_cache_bytes_per_token_uncompressed");
  $("saving").textContent = `${small.toFixed(0)} bytes a token against ${plain.toFixed(0)} ` +
    `uncompressed: ${(plain / small).toFixed(2)} times smaller`;
}

// Ranks and bits per layer; drawn once, for they do not change.
function heatMap(samples, metric) {
  if ($("heat-k").childElementCount > 0) return;
  const layers = samples.filter(s => s.name === "palu:latent_rank" && s.labels.projection === "k").length;
  const plain = 8 * metric("palu:kv_cache_bytes_per_token_uncompressed") / (2 * layers);
  const head = (row, text, scope) => {
    const cell = document.createElement("th");
    cell.textContent = text;
    cell.scope = scope;
    $(row).append(cell);
  };
  head("heat-layers", "layer", "col");
  for (const projection of ["k", "v"]) head("heat-" + projection, projection === "k" ? "keys" : "values", "row");
  for (let layer = 0; layer < layers; layer++) {
    head("heat-layers", layer, "col");
    for (const projection of ["k", "v"]) {
      const at = {layer: String(layer), projection};
      const rank = metric("palu:latent_rank", at), bits = metric("palu:latent_bits", at);
      const cell = $("heat-" + projection).insertCell();
      cell.textContent = `${rank}×${bits}`;
      cell.title = `layer ${layer}: rank ${rank} at ${bits} bits, ${(100 * rank * bits / plain).toFixed(1)} % of uncompressed`;
      cell.style.setProperty("--p", Math.min(rank * bits / plain, 1).toFixed(3));
    }
  }
}

function state(text, bad) {
  if ($("connection").textContent !== text) $("connection").textContent = text;
  $("connection").classList.toggle("bad", bad);
}

function show(samples) {
  const metric = reader(samples), now = performance.now();
  const model = samples.find(s => s.name === "palu:kv_cache_capacity_tokens")?.labels.model_name;
  if (model === undefined) return state("the model is loading", true);
  $("model").textContent = "· " + model;
  state("connected", false);
  const ttft = "vllm:time_to_first_token_seconds";
  const reading = {now, generated: metric("vllm:generation_tokens_total"),
                   sum: metric(ttft + "_sum"), count: metric(ttft + "_count")};
  // A counter that went back means a server that started anew.
  const old = before && before.generated <= reading.generated ? before : reading;
  const rate = now > old.now ? (reading.generated - old.generated) / (now - old.now) * 1000 : 0;
  const recent = reading.count > old.count ? old : {sum: 0, count: 0};
  const first = (reading.sum - recent.sum) / (reading.count - recent.count || 1) * 1000;
  before = reading;
  const mean = name => metric(name + "_sum") / (metric(name + "_count") || 1) * 1000;
  tiles([
    ["tokens a second", rate.toFixed(0)],
    ["first token, mean", first.toFixed(0) + " ms"],
    ["between tokens, mean", mean("vllm:inter_token_latency_seconds").toFixed(1) + " ms"],
    ["running", metric("vllm:num_requests_running")],
    ["waiting in the queue", metric("vllm:num_requests_waiting")],
    ["weights", bytes(metric("palu:weights_bytes"))],
  ]);
  spark(rate);
  cacheBar(metric);
  heatMap(samples, metric);
}

async function refresh() {
  if (!document.hidden) {
    try {
      const response = await fetch("/metrics", {signal: AbortSignal.timeout(SLOWEST_RETRY_MS)});
      if (!response.ok) throw new Error();
      show(parse(await response.text()));
      retry = PERIOD_MS;
    } catch {
      state("the server does not answer; trying again", true);
      before = null;
      retry = Math.min(retry * 1.5, SLOWEST_RETRY_MS);
    }
  }
  setTimeout(refresh, retry);
}
refresh();
