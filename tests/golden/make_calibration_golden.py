#!/usr/bin/env python3
"""Statistics that palu-compress gathers, from an independent autograd (JAX, float64).

Writes tests/golden/calibration-<zoo>.safetensors for the tiny zoo models: per layer A = E[x x^T] of
the input of K and V, G = E[g g^T] of the gradients at the outputs of K (before norm and RoPE) and V,
and per output row the mean over columns of the weight gradient's RMS over two windows (the model's golden
ids).

    pip install jax numpy && python3 tests/golden/make_calibration_golden.py
"""

import json
import math
import pathlib
import struct

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp  # noqa: E402

HERE = pathlib.Path(__file__).parent
MODELS = ["llama31-gqa", "qwen2", "qwen3", "gemma3", "phi3", "mistral-swa"]


def read_safetensors(path):
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        data = raw[8 + size + begin : 8 + size + end]
        if entry["dtype"] == "BF16":
            bits = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
            value = bits.view(np.float32)
        else:
            value = np.frombuffer(data, {"F32": np.float32, "I32": np.int32}[entry["dtype"]])
        tensors[name] = value.reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, value in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(value.shape),
            "data_offsets": [offset, offset + value.size * 4],
        }
        offset += value.size * 4
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            out.write(value.astype("<f4").tobytes())


def inverse_frequencies(config, layer_type):
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if layer_type in rope:
        rope = rope[layer_type]
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    factor = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    dim = int(head_dim(config) * factor)
    inverse = theta ** (-np.arange(0, dim, 2) / dim)
    kind = rope.get("rope_type", "default")
    if kind == "llama3":
        wavelength = 2 * math.pi / inverse
        original = rope["original_max_position_embeddings"]
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = np.clip((original / wavelength - low) / (high - low), 0, 1)
        inverse = (1 - smooth) * inverse / rope["factor"] + smooth * inverse
    elif kind != "default":
        raise ValueError(kind)
    return inverse


def head_dim(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def layer_type(config, layer):
    if config.get("layer_types"):
        return config["layer_types"][layer]
    return "sliding_attention" if config.get("sliding_window") else "full_attention"


def forward(config, w, ids, shifts):
    """Loss summed over the window; shifts[layer] = (dk, dv) are added to the outputs of K and V."""
    gemma = config["model_type"].startswith("gemma3")
    eps = config["rms_norm_eps"]

    def norm(x, weight):
        scale = weight + 1.0 if gemma else weight
        return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * scale

    d, n_q = head_dim(config), config["num_attention_heads"]
    n_kv, tokens = config["num_key_value_heads"], len(ids)
    x = w["model.embed_tokens.weight"][ids]
    if gemma:
        x = x * float(jnp.asarray(math.sqrt(config["hidden_size"]), jnp.bfloat16))
    inputs = []
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        a = p + "self_attn."
        h = norm(x, w[p + "input_layernorm.weight"])
        inputs.append(h)
        if a + "qkv_proj.weight" in w:
            q, k, v = jnp.split(h @ w[a + "qkv_proj.weight"].T, [n_q * d, (n_q + n_kv) * d], -1)
        else:
            q, k, v = (
                h @ w[f"{a}{n}_proj.weight"].T + w.get(f"{a}{n}_proj.bias", 0.0) for n in "qkv"
            )
        k, v = k + shifts[layer][0], v + shifts[layer][1]
        q, k, v = (t.reshape(tokens, -1, d) for t in (q, k, v))
        if a + "q_norm.weight" in w:
            q, k = norm(q, w[a + "q_norm.weight"]), norm(k, w[a + "k_norm.weight"])
        inverse = inverse_frequencies(config, layer_type(config, layer))
        angle = np.outer(np.arange(tokens), inverse)[:, None, :]
        half = inverse.size

        def rope(t):
            first, second, rest = t[..., :half], t[..., half : 2 * half], t[..., 2 * half :]
            cos, sin = np.cos(angle), np.sin(angle)
            return jnp.concatenate(
                [first * cos - second * sin, second * cos + first * sin, rest], -1
            )

        q, k = rope(q), rope(k)
        k, v = (jnp.repeat(t, n_q // n_kv, axis=1) for t in (k, v))
        scale = (config["query_pre_attn_scalar"] if gemma else d) ** -0.5
        scores = jnp.einsum("qhd,khd->hqk", q, k) * scale
        distance = np.arange(tokens)[:, None] - np.arange(tokens)[None, :]
        mask = distance >= 0
        if layer_type(config, layer) == "sliding_attention":
            mask &= distance < config["sliding_window"]
        weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), -1)
        o = jnp.einsum("hqk,khd->qhd", weights, v).reshape(tokens, -1) @ w[a + "o_proj.weight"].T
        post = w[p + "post_attention_layernorm.weight"]
        x = x + (norm(o, post) if gemma else o)
        h = norm(x, w[p + "pre_feedforward_layernorm.weight"] if gemma else post)
        m = p + "mlp."
        if m + "gate_up_proj.weight" in w:
            gate, up = jnp.split(h @ w[m + "gate_up_proj.weight"].T, 2, -1)
        else:
            gate, up = h @ w[m + "gate_proj.weight"].T, h @ w[m + "up_proj.weight"].T
        act = jax.nn.gelu(gate, approximate=True) if gemma else jax.nn.silu(gate)
        o = (act * up) @ w[m + "down_proj.weight"].T
        x = x + (norm(o, w[p + "post_feedforward_layernorm.weight"]) if gemma else o)
    x = norm(x, w["model.norm.weight"])
    head = w["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    logp = jax.nn.log_softmax(x @ head.T, -1)
    return -logp[np.arange(tokens - 1), ids[1:]].sum(), inputs


def main():
    for name in MODELS:
        root = HERE / "zoo" / name
        config = json.loads((root / "config.json").read_text())
        config.setdefault("tie_word_embeddings", False)
        w = {k: jnp.asarray(v, jnp.float64)
             for k, v in read_safetensors(root / "model.safetensors").items()}
        windows = read_safetensors(root / "golden.safetensors")["ids"]
        kv = config["num_key_value_heads"] * head_dim(config)
        layers, tokens = config["num_hidden_layers"], windows.shape[1]
        sums, squares, losses = {}, {}, []

        def add(key, value):
            sums[key] = sums.get(key, 0) + np.asarray(value)

        for ids in windows:
            zero = [(np.zeros((tokens, kv)), np.zeros((tokens, kv)))] * layers
            (loss, inputs), grads = jax.value_and_grad(
                lambda s: forward(config, w, ids, s), has_aux=True)(zero)
            losses.append(float(loss))
            for layer in range(layers):
                x = inputs[layer]
                add(f"{layer}.input", x.T @ x / windows.size)
                for kind, g in zip(("key", "value"), grads[layer]):
                    add(f"{layer}.{kind}_gradient", g.T @ g / windows.size)
                    key = f"{layer}.{kind}_fisher"
                    squares[key] = squares.get(key, 0) + np.asarray((g.T @ x) ** 2)
        for key, value in squares.items():
            sums[key] = np.mean(np.sqrt(value / len(windows)), -1)
        keep = {k: v for k, v in sums.items() if int(k.split(".")[0]) in (0, layers - 1)}
        keep["loss"] = np.array([sum(losses) / (windows.size - len(windows))])
        write_safetensors(HERE / f"calibration-{name}.safetensors", keep)
        print(name, keep["loss"])


if __name__ == "__main__":
    main()
