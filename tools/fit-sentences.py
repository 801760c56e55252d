#!/usr/bin/env python3
"""Fits retrieval/sentence_weights.h on training questions.

    dsa-eval features qa_train.jsonl squad squad.bin
    tools/fit-sentences.py squad.bin > retrieval/sentence_weights.h

The model is a conditional logistic regression: within one question, the probability that a sentence is right is the
softmax of its score; the likelihood is that of the sentences which hold a gold answer. Questions without a right
sentence, or with nothing but right ones, say nothing and are left out. Needs numpy alone.
"""
import re
import struct
import sys

import numpy as np

PENALTY = 1e-3  # L2, per question


def load(paths):
    """Features [N, F], right [N], question [N] (unique over files)."""
    parts, base = [], 0
    for path in paths:
        with open(path, "rb") as file:
            magic, width = struct.unpack("<4sI", file.read(8))
            if magic != b"DSAF":
                sys.exit(f"{path}: not a file of features")
            rows = np.frombuffer(file.read(), np.dtype([("question", "<u4"), ("right", "<u4"), ("x", "<f4", width)]))
        parts.append((rows["x"].astype(np.float64), rows["right"] > 0, rows["question"].astype(np.int64) + base))
        base += int(rows["question"].max()) + 1
    return tuple(np.concatenate(column) for column in zip(*parts))


def group(x, right, question):
    """Keeps the questions that can be learnt from and numbers them 0, 1, 2, …"""
    _, index = np.unique(question, return_inverse=True)
    rights, sizes = np.bincount(index, right), np.bincount(index)
    keep = ((rights > 0) & (rights < sizes))[index]
    _, index = np.unique(index[keep], return_inverse=True)
    return x[keep], right[keep], index


def log_sum(score, index, count, where):
    top = np.full(count, -np.inf)
    np.maximum.at(top, index[where], score[where])
    total = np.bincount(index[where], np.exp(score[where] - top[index[where]]), count)
    return top + np.log(total)


def loss_and_gradient(w, x, right, index, count):
    score = x @ w
    every = log_sum(score, index, count, np.ones(len(score), bool))
    good = log_sum(score, index, count, right)
    p = np.exp(score - every[index])
    q = np.where(right, np.exp(np.minimum(score - good[index], 0)), 0)
    loss = (every - good).mean() + PENALTY * w @ w
    return loss, (x.T @ (p - q)) / count + 2 * PENALTY * w


def fit(x, right, index):
    """Gradient descent with momentum and a step that shrinks when it overshoots: convex, a second or two."""
    count = index.max() + 1
    w, velocity, step = np.zeros(x.shape[1]), np.zeros(x.shape[1]), 1.0
    last, gradient = loss_and_gradient(w, x, right, index, count)
    for _ in range(3000):
        velocity = 0.9 * velocity - step * gradient
        loss, new_gradient = loss_and_gradient(w + velocity, x, right, index, count)
        if loss > last:
            step, velocity = step / 2, np.zeros_like(velocity)
            if step < 1e-9:
                break
            continue
        w, gradient, gain, last = w + velocity, new_gradient, last - loss, loss
        step *= 1.02
        if gain < 1e-10:
            break
    return w, last


def first_right(score, right, question):
    """The share of all questions whose best sentence is right."""
    order = np.lexsort((-score, question))
    _, starts = np.unique(question[order], return_index=True)
    return right[order][starts].mean()


def names():
    header = open("retrieval/retrieval.h", encoding="utf-8").read()
    body = header[header.index("enum {\n    SENTENCE_RANK_1"):]
    return re.findall(r"\bSENTENCE_[A-Z0-9_]+", re.sub(r"/\*.*?\*/", "", body[:body.index("SENTENCE_FEATURES")], flags=re.S))


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    x, right, question = load(sys.argv[1:])
    held = question % 10 == 0
    w, _ = fit(*group(x[~held], right[~held], question[~held]))
    print(f"held out: {first_right(x[held] @ w, right[held], question[held]):.4f} of "
          f"{len(np.unique(question[held]))} questions", file=sys.stderr)
    w, loss = fit(*group(x, right, question))
    print(f"all: {first_right(x @ w, right, question):.4f} of {len(np.unique(question))} questions, "
          f"loss {loss:.4f}", file=sys.stderr)
    print("/* retrieval/sentence_weights.h: written by tools/fit-sentences.py; see eval/README.md. */")
    print("static const double sentence_weights[SENTENCE_FEATURES] = {")
    for name, value in zip(names(), w):
        print(f"    [{name}] = {value:.4f},")
    print("};")


if __name__ == "__main__":
    main()
