"""The reader: a small model of the DeepSeek-V3.2 family, written for training.

Attention is computed in its multi-head form (the engine runs the absorbed form; the two are equal), every expert is
computed for every token and weighted by its gate (zero where not chosen): at this size one wide product is faster
than sending tokens to experts, and nothing is ever dropped.

Attention has four modes:
    dense    causal attention; the indexers rest
    warm     causal attention, frozen; the indexers learn the head-summed attention (KL)
    sparse   attention over the top-k tokens of the indexer, which learns from its detached input (KL on the set)
    select   as sparse, without the indexer's loss (evaluation)
"""
import contextlib
import dataclasses

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


@dataclasses.dataclass
class Config:
    vocab_size: int = 12288
    hidden_size: int = 384
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    q_lora_rank: int = 256
    kv_lora_rank: int = 128
    qk_nope_head_dim: int = 64
    qk_rope_head_dim: int = 32
    v_head_dim: int = 64
    intermediate_size: int = 1024
    moe_intermediate_size: int = 256
    n_routed_experts: int = 8
    num_experts_per_tok: int = 2
    first_k_dense_replace: int = 1
    routed_scaling_factor: float = 2.0
    index_n_heads: int = 4
    index_head_dim: int = 128
    index_topk: int = 512
    rope_theta: float = 160000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32768


TOY = dict(hidden_size=128, num_hidden_layers=3, num_attention_heads=4, q_lora_rank=128, moe_intermediate_size=128,
           intermediate_size=256, n_routed_experts=4, index_topk=128)


# --- FP8, as the engine rounds ------------------------------------------------------------------------------------

def round_e4m3(x):
    """The nearest e4m3 value, ties to even; |x| ≤ 448."""
    if hasattr(torch, "float8_e4m3fn") and x.is_cuda:
        return x.clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype)
    x = x.float().clamp(-448, 448)
    exponent = torch.frexp(x)[1]
    step = torch.ldexp(torch.ones_like(x), (exponent - 4).clamp(min=-9))
    return torch.round(x / step) * step


def quantised_activation(x, group=128):
    """Per token, groups of 128: the scale is a power of two, amax / 448 rounded up."""
    shape = x.shape
    x = x.reshape(-1, shape[-1] // group, group)  # BF16 stays BF16: dividing by a power of two and e4m3 are exact there
    scale = torch.exp2(torch.ceil(torch.log2(x.abs().amax(-1, keepdim=True).float().clamp(min=1e-4) / 448)))
    scale = scale.to(x.dtype)
    return (round_e4m3(x / scale).to(x.dtype) * scale).reshape(shape)


def quantised_weight(w):
    """Blocks of 128 × 128 (the last ones partial): the scale is amax / 448."""
    rows, columns = w.shape[-2], w.shape[-1]
    padded = F.pad(w.float(), (0, -columns % 128, 0, -rows % 128))
    blocks = padded.reshape(*w.shape[:-2], padded.shape[-2] // 128, 128, padded.shape[-1] // 128, 128)
    scale = blocks.abs().amax((-3, -1), keepdim=True).clamp(min=1e-12) / 448
    return (round_e4m3(blocks / scale) * scale).reshape(padded.shape)[..., :rows, :columns]


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, quantise):
        return quantise(x).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


# --- Parts ----------------------------------------------------------------------------------------------------------

def rms_norm(x, weight, eps):
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rope_interleaved(x, cos, sin):
    """x [..., Dr], pairs (2i, 2i+1); cos, sin [..., Dr/2]."""
    a, b = x[..., 0::2].float(), x[..., 1::2].float()
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


def rope_half_split(x, cos, sin):
    """x [..., Dr], pairs (i, i + Dr/2)."""
    a, b = (part.float() for part in x.chunk(2, -1))
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1).to(x.dtype)


class Linear(nn.Module):
    """A matrix without bias; `fp8` makes it compute as the engine's FP8 product does (straight-through)."""
    def __init__(self, rows, columns):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns).normal_(0, columns ** -0.5))
        self.fp8 = False

    def forward(self, x):
        return matrix(x, self.weight, self.fp8, self.compute)

    compute = torch.float32


def matrix(x, weight, fp8, compute):
    if fp8:
        x, weight = StraightThrough.apply(x, quantised_activation), StraightThrough.apply(weight, quantised_weight)
    return F.linear(x.to(compute), weight.to(compute))


def project(x, norm, q_a, q_b, kv_a, kv_b, q_norm, kv_norm, cos, sin, heads, nope, r, value, latent_dim, eps, fp8,
            compute):
    """x [T, d] → q, k [T, H, nope + rope], v [T, H, value], the normed x and the normed query latent."""
    x = rms_norm(x, norm, eps)
    qr = rms_norm(matrix(x, q_a, fp8, compute), q_norm, eps)
    q = matrix(qr, q_b, fp8, compute).view(-1, heads, nope + r)
    latent, k_pe = matrix(x, kv_a, fp8, compute).split((latent_dim, r), -1)
    latent = rms_norm(latent, kv_norm, eps)
    if fp8:  # the cache is FP8 in the engine; the product that expands it is not
        latent = StraightThrough.apply(latent, quantised_activation)
        kv_b = StraightThrough.apply(kv_b, quantised_weight)
    kv = matrix(latent, kv_b, False, compute).view(-1, heads, nope + value)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    q_pe = rope_interleaved(q[..., nope:], cos, sin)
    k_pe = rope_interleaved(k_pe.unsqueeze(1), cos, sin).expand(-1, heads, -1)
    q = torch.cat((q[..., :nope], q_pe), -1)
    k = torch.cat((kv[..., :nope], k_pe), -1)
    return q, k, kv[..., nope:], x, qr


def experts(x, norm, router, bias, gate, up, down, kept, scaling, eps, fp8, compute):
    """x [T, d] + the chosen experts and the shared one (the last); → also how often each expert was chosen."""
    normed = rms_norm(x, norm, eps)
    scores = torch.sigmoid(F.linear(normed.float(), router.float()))
    chosen = torch.topk(scores.detach() + bias, kept, dim=-1)[1]
    mask = torch.zeros_like(scores).scatter(1, chosen, 1.0)
    gates = scores * mask
    gates = gates / gates.sum(-1, keepdim=True) * scaling
    gates = torch.cat((gates, torch.ones_like(gates[:, :1])), -1)
    if fp8:
        gate, up, down = (StraightThrough.apply(w, quantised_weight) for w in (gate, up, down))
        normed = StraightThrough.apply(normed, quantised_activation)
    normed = normed.to(compute)
    h = F.silu(F.linear(normed, gate.flatten(0, 1).to(compute))) * F.linear(normed, up.flatten(0, 1).to(compute))
    if fp8:
        h = StraightThrough.apply(h, quantised_activation)
    h = h.view(h.shape[0], gate.shape[0], -1) * gates.to(compute).unsqueeze(-1)
    return x + (h.flatten(1) @ down.flatten(0, 1).to(compute)).float(), mask.sum(0)


FAST = {}  # compiled forms of project and experts, where compiling them worked


class Mlp(nn.Module):
    def __init__(self, c, width):
        super().__init__()
        self.gate_proj, self.up_proj = Linear(width, c.hidden_size), Linear(width, c.hidden_size)
        self.down_proj = Linear(c.hidden_size, width)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.Module):
    """Routed experts 0 … E-1 and the shared one, E, in three tensors."""
    def __init__(self, c):
        super().__init__()
        self.c = c
        count, width, hidden = c.n_routed_experts + 1, c.moe_intermediate_size, c.hidden_size
        self.router = nn.Parameter(torch.empty(c.n_routed_experts, hidden).normal_(0, hidden ** -0.5))
        self.register_buffer("bias", torch.zeros(c.n_routed_experts))
        self.register_buffer("load", torch.zeros(c.n_routed_experts))
        self.gate = nn.Parameter(torch.empty(count, width, hidden).normal_(0, hidden ** -0.5))
        self.up = nn.Parameter(torch.empty(count, width, hidden).normal_(0, hidden ** -0.5))
        self.down = nn.Parameter(torch.empty(count, width, hidden).normal_(0, width ** -0.5))  # transposed
        self.fp8 = False

    def forward(self, x, norm, eps, fast):
        """x [T, d] → its sum with the experts' output for the normed x."""
        c = self.c
        run = FAST.get("experts", experts) if fast and not self.fp8 else experts
        x, load = run(x, norm, self.router, self.bias, self.gate, self.up, self.down, c.num_experts_per_tok,
                      c.routed_scaling_factor, eps, self.fp8, Linear.compute)
        if self.training:
            with torch.no_grad():
                self.load.add_(load)
        return x

    def balance(self, rate):
        """Moves the selection bias towards equal load; no gradient is involved."""
        with torch.no_grad():
            self.bias.add_(rate * torch.sign(self.load.mean() - self.load))
            self.load.zero_()


class Indexer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.wq_b = Linear(c.index_n_heads * c.index_head_dim, c.q_lora_rank)
        self.wk = Linear(c.index_head_dim, c.hidden_size)
        self.norm_weight = nn.Parameter(torch.ones(c.index_head_dim))
        self.norm_bias = nn.Parameter(torch.zeros(c.index_head_dim))
        self.weights_proj = nn.Parameter(torch.empty(c.index_n_heads, c.hidden_size).normal_(0, c.hidden_size ** -0.5))

    def forward(self, x, qr, cos, sin):
        """→ q [T, Hi, Di], k [T, Di], w [T, Hi]. The Hadamard transform is left out: it cancels without FP8."""
        c = self.c
        x, qr = x.detach(), qr.detach()
        q = self.wq_b(qr).view(-1, c.index_n_heads, c.index_head_dim)
        k = F.layer_norm(self.wk(x).float(), (c.index_head_dim,), self.norm_weight, self.norm_bias, 1e-6).to(q.dtype)
        r = c.qk_rope_head_dim
        q = torch.cat((rope_half_split(q[..., :r], cos.unsqueeze(1), sin.unsqueeze(1)), q[..., r:]), -1)
        k = torch.cat((rope_half_split(k[..., :r], cos, sin), k[..., r:]), -1)
        w = F.linear(x.float(), self.weights_proj.float()) * (c.index_n_heads * c.index_head_dim) ** -0.5
        return q, k, w


def index_scores(q, k, w):
    """q [B, S, Hi, Di], k [B, L, Di], w [B, S, Hi] → [B, S, L] without the causal mask."""
    total = 0
    for head in range(q.shape[2]):
        total = total + torch.relu(q[:, :, head] @ k.transpose(1, 2)).float() * w[:, :, head:head + 1]
    return total


FUSED = hasattr(F, "scaled_dot_product_attention")


def masked_kernels():
    """The kernels that are trusted with a mask shared by the heads: the memory-efficient one, or else the plain one."""
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:
        return contextlib.nullcontext()
    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


SCORES_AT_ONCE = 1 << 28  # index scores that are held at a time


class Attention(nn.Module):
    kl_samples = 128  # queries of a row that the indexer's loss looks at; None: all

    def __init__(self, c):
        super().__init__()
        self.c = c
        heads = c.num_attention_heads
        self.q_a_proj = Linear(c.q_lora_rank, c.hidden_size)
        self.q_a_norm = nn.Parameter(torch.ones(c.q_lora_rank))
        self.q_b_proj = Linear(heads * (c.qk_nope_head_dim + c.qk_rope_head_dim), c.q_lora_rank)
        self.kv_a_proj = Linear(c.kv_lora_rank + c.qk_rope_head_dim, c.hidden_size)
        self.kv_a_norm = nn.Parameter(torch.ones(c.kv_lora_rank))
        self.kv_b_proj = Linear(heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank)
        self.o_proj = Linear(c.hidden_size, heads * c.v_head_dim)
        self.indexer = Indexer(c)

    def project(self, x, norm, cos, sin, fast):
        c, fp8 = self.c, self.q_a_proj.fp8
        weights = [part.weight for part in (self.q_a_proj, self.q_b_proj, self.kv_a_proj, self.kv_b_proj)]
        run = FAST.get("project", project) if fast and not fp8 else project
        return run(x, norm, *weights, self.q_a_norm, self.kv_a_norm, cos, sin, c.num_attention_heads,
                   c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim, c.kv_lora_rank, c.rms_norm_eps, fp8,
                   Linear.compute)

    def attend(self, q, k, v, mask=None):
        """[B, L, H, ·] → [B, L, H, v] by the framework's fused kernel where there is one. mask [B, L, L]; None: causal."""
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        if FUSED and (q.is_cuda or mask is not None):
            width = v.shape[-1]
            v = F.pad(v, (0, q.shape[-1] - width))
            if mask is None:
                return F.scaled_dot_product_attention(q, k, v, is_causal=True)[..., :width].transpose(1, 2)
            bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, float("-inf"))
            bias = bias.unsqueeze(1).expand(-1, q.shape[1], -1, -1)
            with masked_kernels():
                return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)[..., :width].transpose(1, 2)
        mask = causal_mask(q.shape[2], q.device) if mask is None else mask.unsqueeze(1)
        scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
        return (torch.softmax(scores.masked_fill(~mask, float("-inf")), -1).to(v.dtype) @ v).transpose(1, 2)

    @torch.no_grad()
    def selection(self, q, k, w):
        """What each token sees: [B, L, L]. A token among the first top-k sees all before it; only later ones are scored."""
        length, top = k.shape[1], self.c.index_topk
        causal = causal_mask(length, k.device)
        mask = causal.expand(k.shape[0], -1, -1).clone()
        step = max(1, SCORES_AT_ONCE // (length * (length - top)))
        for at in range(0, k.shape[0], step):
            rows = slice(at, at + step)
            index = index_scores(q[rows, top:], k[rows], w[rows, top:]).masked_fill_(~causal[top:], float("-inf"))
            if k.is_cuda:
                chosen = torch.topk(index, top, dim=-1, sorted=False)[1]
            else:  # scores of exactly 0 tie often; the engine takes the earlier token
                chosen = torch.sort(index, dim=-1, descending=True, stable=True)[1][..., :top]
            mask[rows, top:] = torch.zeros_like(index, dtype=torch.bool).scatter_(2, chosen, True)
        return mask

    def divergence(self, q, k, iq, ik, iw, mask, real):
        """KL of the indexers' distribution to the attention averaged over heads, the mean over some queries: one drawn
        from each of `kl_samples` equal stretches, so that every position is as likely as another. mask None: causal."""
        length = k.shape[1]
        count = min(self.kl_samples or length, length)
        at = torch.arange(length, device=k.device)
        if count < length:
            drawn = torch.rand(count, device=k.device, dtype=torch.float64)
            at = ((at[:count] + drawn) * (length / count)).long().clamp_(max=length - 1)
        seen = causal_mask(length, k.device)[at].unsqueeze(0) if mask is None else mask[:, at]
        with torch.no_grad():
            target = 0
            for head in range(q.shape[2]):
                scores = (q[:, at, head] @ k[:, :, head].transpose(1, 2)).float() * q.shape[-1] ** -0.5
                target = target + torch.softmax(scores.masked_fill_(~seen, float("-inf")), -1)
            target = target / q.shape[2]
        index = index_scores(iq[:, at], ik, iw[:, at])
        log_index = torch.log_softmax(index.masked_fill(~seen, float("-inf")), -1).masked_fill(~seen, 0)
        kl = (target * ((target + 1e-9).log() - log_index)).sum(-1)
        return (kl * real[:, at]).sum() / real[:, at].sum().clamp(min=1)

    def forward(self, x, norm, cos, sin, batch, real, mode, fast):
        """x [T, d] → attention's output [T, d], KL per real token."""
        q, k, v, x, qr = self.project(x, norm, cos, sin, fast)
        length = x.shape[0] // batch
        q, k, v = (t.reshape(batch, length, *t.shape[1:]) for t in (q, k, v))
        loss, mask = x.new_zeros((), dtype=torch.float32), None
        chooses = mode in ("sparse", "select") and length > self.c.index_topk
        if chooses or mode in ("warm", "sparse"):
            iq, ik, iw = (t.reshape(batch, length, *t.shape[1:]) for t in self.indexer(x, qr, cos, sin))
            mask = self.selection(iq, ik, iw) if chooses else None
            if mode != "select":
                loss = self.divergence(q, k, iq, ik, iw, mask, real)
        out = self.attend(q, k, v, mask)
        return self.o_proj(out.reshape(x.shape[0], -1)), loss


MASKS = {}


def causal_mask(length, device):
    key = (length, str(device))
    if key not in MASKS:
        MASKS[key] = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return MASKS[key]


class Block(nn.Module):
    def __init__(self, c, number):
        super().__init__()
        self.eps = c.rms_norm_eps
        self.input_norm = nn.Parameter(torch.ones(c.hidden_size))
        self.post_norm = nn.Parameter(torch.ones(c.hidden_size))
        self.attention = Attention(c)
        dense = number < c.first_k_dense_replace
        self.mlp = Mlp(c, c.intermediate_size) if dense else Experts(c)

    def forward(self, x, cos, sin, batch, real, mode, fast):
        out, loss = self.attention(x, self.input_norm, cos, sin, batch, real, mode, fast)
        x = x + out.float()
        if isinstance(self.mlp, Experts):
            return self.mlp(x, self.post_norm, self.eps, fast), loss
        return x + self.mlp(rms_norm(x, self.post_norm, self.eps)).float(), loss


class Reader(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed = nn.Parameter(torch.empty(c.vocab_size, c.hidden_size).normal_(0, 0.02))
        self.blocks = nn.ModuleList(Block(c, number) for number in range(c.num_hidden_layers))
        self.norm = nn.Parameter(torch.ones(c.hidden_size))
        scale = (2 * c.num_hidden_layers) ** -0.5
        with torch.no_grad():
            for block in self.blocks:
                block.attention.o_proj.weight.mul_(scale)
                (block.mlp.down_proj.weight if isinstance(block.mlp, Mlp) else block.mlp.down).mul_(scale)

    def angles(self, positions):
        c = self.c
        pairs = torch.arange(c.qk_rope_head_dim // 2, dtype=torch.float32, device=positions.device)
        angle = positions.reshape(-1, 1).float() * c.rope_theta ** (-2 * pairs / c.qk_rope_head_dim)
        return angle.cos(), angle.sin()

    def forward(self, tokens, positions, real, mode="dense", fast=False):
        """tokens, positions, real (1 for tokens, 0 for padding) [B, L] → hidden [B·L, d] after the last norm, KL."""
        cos, sin = self.angles(positions)
        x = F.embedding(tokens.reshape(-1).long(), self.embed).float()
        total = 0.0
        for block in self.blocks:
            x, loss = block(x, cos, sin, tokens.shape[0], real.float(), mode, fast)
            total = total + loss
        return rms_norm(x, self.norm, self.c.rms_norm_eps), total

    def logits(self, hidden):
        compute = Linear.compute if self.training else torch.float32
        return F.linear(hidden.to(compute), self.embed.to(compute)).float()

    def set_fp8(self, on):
        for module in self.modules():
            if isinstance(module, (Linear, Experts)):
                module.fp8 = on

    def indexer_parameters(self):
        return [p for block in self.blocks for p in block.attention.indexer.parameters()]


def loss_of(model, hidden, targets, weights, chunk=16384):
    """Weighted cross entropy over the positions whose weight is not zero; logits are made again in the backward pass."""
    weights = weights.reshape(-1).float()
    keep = weights.nonzero()[:, 0]
    hidden, targets, weights = hidden[keep], targets.reshape(-1)[keep].long(), weights[keep]

    def part(h, t, w):
        return (F.cross_entropy(model.logits(h), t, reduction="none") * w).sum()

    total = hidden.new_zeros((), dtype=torch.float32)
    for at in range(0, hidden.shape[0], chunk):
        piece = slice(at, at + chunk)
        total = total + checkpoint(part, hidden[piece], targets[piece], weights[piece], use_reentrant=False)
    return total / weights.sum().clamp(min=1)


def mark_scores(model, hidden, places, marks):
    """How much more likely a quotation opens than that nothing is found, read at the last token of each sentence.

    hidden [T, d], places [...] into T, marks: the ids of <|open|> and <|none|>. What `logits` would give, for two tokens.
    """
    direction = (model.embed[marks[0]] - model.embed[marks[1]]).float()
    return hidden[places].float() @ direction


def mark_loss(model, hidden, places, labels, kinds, marks, shares=None, nones=None, taught=0.6, prior=None):
    """Places and labels [rows, sentences], kinds [rows] (see load.py) → the loss of each row, and which rows have one.

    With a prior [rows, sentences] (see prior.py) a sentence's score is its mark plus that, so that the mark learns what
    the prior does not know.
    """
    scores = mark_scores(model, hidden, places, marks)
    return score_loss(scores if prior is None else scores + prior, labels, kinds, shares, nones, taught)


def score_loss(scores, labels, kinds, shares=None, nones=None, taught=0.6):
    """The same of scores [rows, sentences].

    MARK_ONE: cross entropy over the sentences and "none of them", whose score is 0: so a score is a log-odds as well.
    MARK_EACH: every sentence by itself.
    Where a teacher gave `shares` (of "none of them": `nones`; −1: not known), the cross entropy with these is `taught` of
    a row's loss, and all of it where the labels say nothing.
    """
    known, right = labels >= 0, labels == 1
    none = torch.zeros_like(scores[:, :1])
    every = torch.cat((scores.masked_fill(~known, float("-inf")), none), 1)
    nothing = none.masked_fill(right.any(1, keepdim=True), float("-inf"))
    wanted = torch.cat((scores.masked_fill(~right, float("-inf")), nothing), 1)
    one = torch.logsumexp(every, 1) - torch.logsumexp(wanted, 1)
    each = F.binary_cross_entropy_with_logits(scores, right.float(), reduction="none") * known
    each = each.sum(1) / known.sum(1).clamp(min=1)
    hard, has = torch.where(kinds == 1, one, each), kinds > 0
    if shares is None:
        return torch.where(has, hard, torch.zeros_like(hard)), has
    clear = torch.cat((shares >= 0, torch.ones_like(shares[:, :1], dtype=torch.bool)), 1)
    log_share = torch.log_softmax(torch.cat((scores, none), 1).masked_fill(~clear, float("-inf")), 1)
    target = torch.cat((shares, nones.unsqueeze(1)), 1).clamp(min=0)
    soft = -(target * log_share.masked_fill(~clear, 0)).sum(1)
    knows = nones >= 0
    loss = torch.where(knows & has, taught * soft + (1 - taught) * hard, torch.where(knows, soft, hard))
    return torch.where(has | knows, loss, torch.zeros_like(loss)), has | knows


def count_parameters(model):
    c = model.c
    total = sum(p.numel() for p in model.parameters())
    expert = 3 * c.moe_intermediate_size * c.hidden_size
    layers = c.num_hidden_layers - c.first_k_dense_replace
    return total, total - layers * expert * (c.n_routed_experts - c.num_experts_per_tok)


def try_compile(model, tokens):
    """Compiles the two heavy element-wise parts for one number of tokens; keeps them only if they agree with the
    plain ones. Returns what was said."""
    block = model.blocks[-1]
    device = model.embed.device
    x = torch.randn(tokens, model.c.hidden_size, device=device)
    cos, sin = model.angles(torch.arange(tokens, device=device) % 1024)

    def run():
        model.zero_grad(set_to_none=True)
        inner = x.clone().requires_grad_(True)
        q, k, v, _, _ = block.attention.project(inner, block.input_norm, cos, sin, True)
        out = block.mlp(inner, block.post_norm, block.eps, True)
        (q.float().square().mean() + k.float().sum() * 1e-3 + v.float().square().mean() + out.square().mean()).backward()
        grads = [inner.grad, block.mlp.gate.grad, block.attention.kv_b_proj.weight.grad]
        return [t.detach().float().clone() for t in (q, k, v, out, *grads)]

    try:
        plain = run()
        FAST["project"] = torch.compile(project, dynamic=False)
        FAST["experts"] = torch.compile(experts, dynamic=False)
        worst = max(float((a - b).norm() / (b.norm() + 1e-9)) for a, b in zip(run(), plain))
        if not worst < 0.05:
            raise ValueError("compiled parts differ by %.3g" % worst)
        return "compiled parts agree to %.2g" % worst
    except Exception as problem:  # whatever the compiler throws: the plain parts do the same
        FAST.clear()
        return "not compiled: %s" % str(problem)[:300].replace("\n", " ")
    finally:
        model.zero_grad(set_to_none=True)
