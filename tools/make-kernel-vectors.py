#!/usr/bin/env python3
"""Makes tests/vectors/kernels/*.vec: inputs and expected outputs of the numeric operations, in float64 NumPy.

Written from the mathematics (kernels/ops.h, DeepSeek-V3.2's technical report and its corrected reference), not from
the C code: rounding to FP8 is a search for the nearest of the 127 magnitudes, the Hadamard matrix is a Kronecker
power, top-k is a stable sort. Run from anywhere: python3 tools/make-kernel-vectors.py

A .vec file is a list of arrays: one line "name type dim dim ...\\n" (types f32, i32, u8, u16), then the values,
little-endian, row-major."""
import math
import os

import numpy as np

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "vectors", "kernels")
TYPES = {np.dtype("<f4"): "f32", np.dtype("<i4"): "i32", np.dtype("u1"): "u8", np.dtype("<u2"): "u16"}


def write(name, **arrays):
    with open(os.path.join(OUT, name + ".vec"), "wb") as f:
        for key, value in arrays.items():
            value = np.ascontiguousarray(value)
            if value.dtype == np.float64:
                value = value.astype("<f4")
            if value.dtype == np.int64:
                value = value.astype("<i4")
            f.write(f"{key} {TYPES[value.dtype]} {' '.join(map(str, value.shape))}\n".encode())
            f.write(value.tobytes())


# --- Number formats -------------------------------------------------------------------------------------

def e4m3_magnitude(code):
    exponent, mantissa = code >> 3, code & 7
    return mantissa / 8 * 2.0 ** -6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)


MAGNITUDES = np.array([e4m3_magnitude(code) for code in range(127)])  # 0 … 448; code 127 is NaN


def e4m3(x):
    """Codes of the nearest values, ties to the even code, beyond 448 to 448."""
    x = np.asarray(x, np.float64)
    magnitude = np.minimum(np.abs(x), 448.0)
    high = np.searchsorted(MAGNITUDES, magnitude).clip(0, 126)
    low = np.maximum(high - 1, 0)
    to_low, to_high = magnitude - MAGNITUDES[low], MAGNITUDES[high] - magnitude
    code = np.where(to_low < to_high, low, np.where(to_high < to_low, high, np.where(low % 2 == 0, low, high)))
    return (code | np.where(np.signbit(x), 128, 0)).astype(np.uint8)


def e4m3_value(codes):
    return np.where(codes & 128, -1.0, 1.0) * MAGNITUDES[codes & 127]


def bf16_bits(x):
    """Upper halves of float32 values, rounded to nearest even (no NaN here, nothing subnormal)."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def bf16_value(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def quantise(x):
    """One group: scale 2^ceil(log2(max(amax, 1e-4) / 448)) and codes."""
    scale = 2.0 ** math.ceil(math.log2(max(np.abs(x).max(), 1e-4) / 448))
    return scale, e4m3(x / scale)


def quantise_groups(x, size=128):
    scales, codes = zip(*(quantise(x[i:i + size]) for i in range(0, len(x), size)))
    return np.array(scales), np.concatenate(codes)


def f32(x):
    return np.asarray(x, np.float32).astype(np.float64)


rng = np.random.default_rng(20261123)


def normal(*shape, deviation=1.0):
    return f32(rng.standard_normal(shape) * deviation)


# --- Products -------------------------------------------------------------------------------------------

def product_fp8(x, codes, scale):
    """x [T, K] with FP8 activations per 128 columns, weight codes [N, K], scale per 128 x 128."""
    N, K = codes.shape
    w = e4m3_value(codes) * np.repeat(np.repeat(scale, 128, 0), 128, 1)[:N, :K]
    y = []
    for row in x:
        s, c = quantise_groups(row)
        y.append(w @ (e4m3_value(c) * np.repeat(s, 128)[:K]))
    return np.array(y)


def product_bf16(x, w):
    return bf16_value(bf16_bits(x)) @ w.T


x, codes = normal(5, 200), e4m3(normal(140, 200, deviation=60))
x[1] *= 1e-6
x[2, 7] = 3000
scale = f32(rng.uniform(0.5, 1.5, (2, 2)) * 1e-3)
write("linear_fp8", x=x, w=codes, scale=scale, y=product_fp8(x, codes, scale),
      y_plain=x @ f32(e4m3_value(codes) * np.repeat(np.repeat(scale, 128, 0), 128, 1)[:140, :200]).T)
w = bf16_bits(normal(70, 90))
x = normal(3, 90)
write("linear_bf16", x=x, w=w, y=product_bf16(x, bf16_value(w)), y_plain=x @ bf16_value(w).T)
x, w = normal(4, 3, 33), normal(3, 20, 33)
write("linear_heads", x=x, w=w, y=np.einsum("thk,hnk->thn", x, w))

# --- Rows -----------------------------------------------------------------------------------------------

x, r, w, b = normal(3, 70), normal(3, 70), normal(70), normal(70)
total = f32(x + r)
write("norms", x=x, residual=r, weight=w, bias=b, total=total,
      rms=total / np.sqrt((total ** 2).mean(1, keepdims=True) + 1e-6) * w,
      layer=(x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6) * w + b,
      swiglu=x / (1 + np.exp(-x)) * r)

Dr, positions = 16, np.array([0, 1, 77])
angles = np.outer(np.arange(100), 10000.0 ** (-np.arange(0, Dr, 2) / Dr))
table = f32(np.concatenate([np.cos(angles), np.sin(angles)], 1))
x = normal(3, 2, Dr)
turn = table[positions][:, None, :Dr // 2] + 1j * table[positions][:, None, Dr // 2:]
pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
halves = (x[..., :Dr // 2] + 1j * x[..., Dr // 2:]) * turn
write("rope", x=x, table=table, position=positions,
      interleaved=np.stack([pairs.real, pairs.imag], -1).reshape(x.shape),
      half_split=np.concatenate([halves.real, halves.imag], -1))

matrix = np.ones((1, 1))
for _ in range(7):
    matrix = np.kron(np.array([[1, 1], [1, -1]]), matrix)
x = normal(4, 128)
before_rounding = bf16_value(bf16_bits(x)) @ matrix.T * 128 ** -0.5
write("hadamard", x=x, y=bf16_value(bf16_bits(before_rounding)))

# --- Caches, indexer, attention -------------------------------------------------------------------------

S, H, Dv, Dr, Hi, Di, k = 150, 3, 160, 8, 4, 128, 40
c, k_pe, key = normal(S, Dv), normal(S, Dr), normal(S, Di)
c[3] *= 1e-7
records, index_rows, index_scales, latents = [], [], [], []
for s in range(S):
    scales, latent = quantise_groups(c[s])
    rope_bits = bf16_bits(k_pe[s])
    records.append(np.concatenate([latent, scales.astype("<f4").view(np.uint8), rope_bits.view(np.uint8)]))
    latents.append(np.concatenate([e4m3_value(latent) * np.repeat(scales, 128)[:Dv], bf16_value(rope_bits)]))
    index_scale, index_codes = quantise(key[s])
    index_rows.append(index_codes)
    index_scales.append(index_scale)
latents, index_scales = np.array(latents), np.array(index_scales)
page_table = np.array([[2, 0, 3, -1]])
slots = np.array([page_table[0][s // 64] * 64 + s % 64 for s in range(S)])
latent_pool = np.full((4, 64, Dv + 4 * 2 + 2 * Dr), 255, np.uint8)
index_pool = np.full((4, 64 * (Di + 4)), 255, np.uint8)
for s in range(S):
    page, offset = divmod(slots[s], 64)
    latent_pool[page, offset] = records[s]
    index_pool[page, offset * Di:(offset + 1) * Di] = index_rows[s]
    index_pool[page, 64 * Di + 4 * offset:64 * Di + 4 * offset + 4] = np.array([index_scales[s]], "<f4").view(np.uint8)

visible = np.array([0, 1, 64, 150])
T = len(visible)
q, qw = normal(T, Hi, Di), normal(T, Hi, deviation=0.05)
scores = np.full((T, 150), -np.inf)
selected = np.full((T, k), -1)
for t in range(T):
    for s in range(visible[t]):
        score = 0.0
        for h in range(Hi):
            q_scale, q_codes = quantise(q[t, h])
            score += qw[t, h] * q_scale * max(0.0, e4m3_value(q_codes) @ e4m3_value(index_rows[s]))
        scores[t, s] = index_scales[s] * score
    order = np.argsort(-scores[t, :visible[t]], kind="stable")[:k]
    selected[t, :len(order)] = np.sort(order)


def attend(q_all, keys, values, scale):
    logits = keys @ q_all * scale
    p = np.exp(logits - logits.max())
    return p @ values / p.sum(), math.log(p.sum()) + logits.max()


q_latent, q_pe = bf16_value(bf16_bits(normal(T, H, Dv))), bf16_value(bf16_bits(normal(T, H, Dr)))
out, lse = np.zeros((2, T, H, Dv)), np.full((2, T, H), np.inf)
for t in range(T):
    for h in range(H):
        for i, chosen in enumerate((selected[t][selected[t] >= 0], np.arange(visible[t]))):
            if len(chosen):
                out[i, t, h], lse[i, t, h] = attend(np.concatenate([q_latent[t, h], q_pe[t, h]]), latents[chosen],
                                                    latents[chosen, :Dv], 0.11)
write("attention", c=c, k_pe=k_pe, key=key, slot=slots, page_table=page_table, latent_pool=latent_pool,
      index_pool=index_pool, visible=visible, index_q=q, index_w=qw, scores=scores, selected=selected,
      q_latent=q_latent, q_pe=q_pe, sparse=out[0], dense=out[1], sparse_lse=lse[0], dense_lse=lse[1])

# --- Router and experts ---------------------------------------------------------------------------------


def route(logits, bias, scoring, groups, kept, k, normalise, scaling):
    p = 1 / (1 + np.exp(-logits)) if scoring == "sigmoid" else np.exp(logits) / np.exp(logits).sum()
    choice = p + bias
    if groups > 1:
        grouped = choice.reshape(groups, -1)
        group = np.sort(grouped, 1)[:, -2:].sum(1) if scoring == "sigmoid" else grouped.max(1)
        dropped = np.argsort(-group, kind="stable")[kept:]
        grouped[dropped] = -np.inf
    experts = np.argsort(-choice, kind="stable")[:k]
    weights = p[experts]
    return experts, weights / (weights.sum() + 1e-20 if normalise else 1) * scaling


logits, bias = normal(6, 32), normal(32, deviation=0.2)
logits[5] = np.round(logits[5])  # ties
sigmoid = [route(row, f32(bias), "sigmoid", 4, 2, 5, True, 2.5) for row in logits]
softmax = [route(row, 0 * bias, "softmax", 1, 1, 6, False, 1.0) for row in logits]
write("router", logits=logits, bias=bias, sigmoid_experts=np.array([e for e, _ in sigmoid]),
      sigmoid_weights=np.array([w for _, w in sigmoid]), softmax_experts=np.array([e for e, _ in softmax]),
      softmax_weights=np.array([w for _, w in softmax]))

T, D, J, E, k = 6, 24, 40, 5, 2
x, y0 = normal(T, D), normal(T, D)
gate, up, down = normal(E, J, D), normal(E, J, D), normal(E, D, J)
experts = np.array([rng.permutation(E)[:k] for _ in range(T)])
weights = f32(rng.uniform(0.2, 1, (T, k)))
y = y0.copy()
for t in range(T):
    for e, weight in zip(experts[t], weights[t]):
        g = gate[e] @ x[t]
        y[t] += weight * (down[e] @ (g / (1 + np.exp(-g)) * (up[e] @ x[t])))
write("moe", x=x, y0=y0, gate=gate, up=up, down=down, experts=experts, weights=weights, y=y)
