"""The fast form of sparse attention and of the indexer's loss against the explicit one, values and gradients, by hand:

    check_sparse.py

The explicit form makes every L × L matrix of every head, as the formulas say. Exits 1 where the two differ.
"""
import itertools
import sys

import torch

import model
from model import TOY, Attention, Config, causal_mask, index_scores


def explicit(attention, q, k, v, iq, ik, iw, real, mode):
    """→ attention's output [B, L, H, v], KL per real token."""
    length, top = q.shape[1], attention.c.index_topk
    causal = causal_mask(length, q.device)
    index = index_scores(iq, ik, iw).masked_fill(~causal, float("-inf"))
    mask = causal.expand_as(index)
    if mode != "warm" and length > top:
        chosen = torch.sort(index.detach(), dim=-1, descending=True, stable=True)[1][..., :top]
        mask = torch.zeros_like(mask).scatter(2, chosen, True) & causal
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    p = torch.softmax(scores.masked_fill(~mask.unsqueeze(1), float("-inf")), -1)
    target = p.detach().mean(1)
    log_index = torch.log_softmax(index.masked_fill(~mask, float("-inf")), -1).masked_fill(~mask, 0)
    kl = (target * ((target + 1e-9).log() - log_index)).sum(-1)
    return (p @ v).transpose(1, 2), (kl * real).sum() / real.sum()


def explicit_forward(attention, x, norm, cos, sin, batch, real, mode, fast):
    q, k, v, x, qr = attention.project(x, norm, cos, sin, fast)
    shaped = [t.reshape(batch, -1, *t.shape[1:]) for t in (q, k, v, *attention.indexer(x, qr, cos, sin))]
    out, kl = explicit(attention, *shaped, real, mode)
    return attention.o_proj(out.reshape(x.shape[0], -1)), kl


def difference(a, b):
    return float((a - b).norm() / (b.norm() + 1e-12))


def run(reader, tokens, real, mode):
    """Everything a training step would see: hidden states, the indexers' loss, every gradient."""
    reader.zero_grad(set_to_none=True)
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    hidden, kl = reader(tokens, positions, real, mode)
    (hidden.square().mean() + (hidden * torch.arange(hidden.shape[1])).mean() + kl).backward()
    return [hidden.detach(), kl.detach(), *(p.grad.clone() for p in reader.parameters() if p.grad is not None)]


def main():
    torch.manual_seed(3)
    config = Config(**{**TOY, "index_topk": 48}, vocab_size=256)
    reader = model.Reader(config)
    fast, worst = Attention.forward, 0.0
    fused = (False, True) if model.FUSED else (False,)
    for length, mode, model.FUSED in itertools.product((32, 48, 64, 160), ("warm", "sparse"), fused):
        tokens = torch.randint(0, 256, (3, length))
        real = torch.ones(3, length)
        real[1, length - length // 4:] = 0
        Attention.kl_samples, Attention.forward = None, explicit_forward
        wanted = run(reader, tokens, real, mode)
        Attention.forward = fast
        got = run(reader, tokens, real, mode)
        apart = max(map(difference, got, wanted)) if len(got) == len(wanted) else float("inf")
        worst = max(worst, apart)
        Attention.kl_samples = 16
        drawn = torch.stack([run(reader, tokens, real, mode)[1] for _ in range(60)])
        error = (drawn.mean() - wanted[1]).abs() / (drawn.std() / 60 ** 0.5 + 1e-6)
        print("%3d tokens  %-6s  fused %d: apart %.1e; KL %.4f, from 16 queries %.4f ± %.4f (%.1f sigma)" % (
            length, mode, model.FUSED, apart, wanted[1], drawn.mean(), drawn.std() / 60 ** 0.5, error))
        worst = max(worst, 1.0 if error > 4 else 0.0)
    print("worst %.1e: %s" % (worst, "agrees" if worst < 2e-5 else "DIFFERS"))
    return 0 if worst < 2e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
