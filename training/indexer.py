"""Gives an MLA model a lightning indexer: a dense checkpoint and text in, a DSA checkpoint out.

    indexer.py --model DIR --ids TOKENS.bin --out DIR [--sequences 64] [--length 4096] [--passes 3] [--heads 64] [--top 2048]

Every weight of the model is frozen. Layer by layer: the layer is loaded, the hidden states of all sequences go through it
densely, and its indexer learns, by KL, the attention summed over heads (the first of the two published DSA stages). Only
one layer and one block of sequences are on the device at a time, so a model of any depth fits. A second stream of hidden
states goes through the same layers with the indexer's selection, so that the end shows the loss sparse against dense.

Prints for each layer the share of attention mass that the selected tokens hold, by context length. The result is the old
checkpoint (linked or copied) with the indexer's tensors beside it and a config.json of the DSA family.
--ids is a file of uint16 token ids (uint32 with --wide), as prepare_text.py's chunks hold; --text FILE tokenises instead.
"""
import argparse
import json
import math
import os
import shutil
import time

import numpy as np
import torch
import torch.nn.functional as F

from checkpoint import Checkpoint
from export import bf16, save_safetensors
from model import causal_mask, index_scores, rms_norm, rope_half_split, rope_interleaved
from optimise import Muon

FAMILIES = {"DeepseekV3ForCausalLM": ("DeepseekV32ForCausalLM", "deepseek_v32", "v31"),
            "KimiK2ForCausalLM": ("DeepseekV32ForCausalLM", "deepseek_v32", "v31"),
            "DeepseekV32ForCausalLM": ("DeepseekV32ForCausalLM", "deepseek_v32", None),
            "Glm4MoeLiteForCausalLM": ("GlmMoeDsaForCausalLM", "glm_moe_dsa", "glm5")}


class Shape:
    """The sizes and settings of a config.json that the forward pass needs."""
    def __init__(self, config):
        name = (config.get("architectures") or ["?"])[0]
        if name not in FAMILIES:
            raise SystemExit("architecture %s is not one of %s" % (name, ", ".join(FAMILIES)))
        if not config.get("q_lora_rank"):
            raise SystemExit("q_lora_rank is missing: an indexer reads the query latent")
        self.architecture = name
        for field in ("hidden_size", "num_hidden_layers", "num_attention_heads", "q_lora_rank", "kv_lora_rank",
                      "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "vocab_size"):
            setattr(self, field, config[field])
        self.eps = config.get("rms_norm_eps", 1e-6)
        self.experts = config.get("n_routed_experts") or 0
        self.kept, self.groups = config.get("num_experts_per_tok", 1), config.get("n_group") or 1
        self.kept_groups = config.get("topk_group") or 1
        self.normalise, self.scaling = config.get("norm_topk_prob", True), config.get("routed_scaling_factor", 1.0)
        self.sigmoid = config.get("scoring_func", "sigmoid") == "sigmoid"
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
        dim = self.qk_rope_head_dim
        pairs = np.arange(dim // 2)
        frequency = theta ** (-2.0 * pairs / dim)
        self.scale = (self.qk_nope_head_dim + dim) ** -0.5
        if rope.get("rope_type", rope.get("type", "default")) == "yarn":
            factor, original = rope["factor"], rope["original_max_position_embeddings"]
            pair = lambda turns: dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))
            low = max(math.floor(pair(rope.get("beta_fast", 32))), 0)
            high = min(math.ceil(pair(rope.get("beta_slow", 1))), dim - 1)
            ramp = np.clip((pairs - low) / max(high - low, 0.001), 0, 1)
            frequency = frequency * (1 - ramp) + frequency / factor * ramp
            every = rope.get("mscale_all_dim") or 0
            if every:
                self.scale *= (0.1 * every * math.log(factor) + 1) ** 2
        self.frequency = torch.tensor(frequency, dtype=torch.float32)


class Layer:
    """One frozen layer on the device."""
    def __init__(self, checkpoint, shape, number, device, compute):
        self.s, self.compute = shape, compute
        prefix = "model.layers.%d." % number
        get = lambda name: checkpoint.get(prefix + name, device)
        matrix = lambda name: get(name + ".weight").to(compute)
        self.input_norm, self.post_norm = get("input_layernorm.weight"), get("post_attention_layernorm.weight")
        self.q_a, self.q_b = matrix("self_attn.q_a_proj"), matrix("self_attn.q_b_proj")
        self.q_norm, self.kv_norm = get("self_attn.q_a_layernorm.weight"), get("self_attn.kv_a_layernorm.weight")
        self.kv_a, self.kv_b = matrix("self_attn.kv_a_proj_with_mqa"), matrix("self_attn.kv_b_proj")
        self.o = matrix("self_attn.o_proj")
        three = lambda where: tuple(matrix("mlp.%s%s_proj" % (where, part)) for part in ("gate", "up", "down"))
        self.router = None
        if prefix + "mlp.gate.weight" in checkpoint:
            self.router = get("mlp.gate.weight")
            bias = "mlp.gate.e_score_correction_bias"
            self.bias = get(bias) if prefix + bias in checkpoint else torch.zeros(shape.experts, device=device)
            self.parts = [three("experts.%d." % expert) for expert in range(shape.experts)]
            self.shared = three("shared_experts.") if prefix + "mlp.shared_experts.gate_proj.weight" in checkpoint else None
        else:
            self.dense = three("")

    def queries_and_keys(self, x, cos, sin):
        """x [L, d] → q, k [H, L, nope + rope], v [H, L, v], the normed x, the query latent."""
        s = self.s
        x = rms_norm(x, self.input_norm, s.eps).to(self.compute)
        qr = rms_norm(x @ self.q_a.T, self.q_norm, s.eps).to(self.compute)
        q = (qr @ self.q_b.T).view(-1, s.num_attention_heads, s.qk_nope_head_dim + s.qk_rope_head_dim)
        latent, k_pe = (x @ self.kv_a.T).split((s.kv_lora_rank, s.qk_rope_head_dim), -1)
        latent = rms_norm(latent, self.kv_norm, s.eps).to(self.compute)
        kv = (latent @ self.kv_b.T).view(-1, s.num_attention_heads, s.qk_nope_head_dim + s.v_head_dim)
        c, n = cos.unsqueeze(1), sin.unsqueeze(1)
        q = torch.cat((q[..., :s.qk_nope_head_dim], rope_interleaved(q[..., s.qk_nope_head_dim:], c, n)), -1)
        k_pe = rope_interleaved(k_pe.unsqueeze(1), c, n).expand(-1, s.num_attention_heads, -1)
        k = torch.cat((kv[..., :s.qk_nope_head_dim], k_pe), -1)
        return q.transpose(0, 1), k.transpose(0, 1), kv[..., s.qk_nope_head_dim:].transpose(0, 1), x, qr

    def attend(self, q, k, v, mask):
        """→ output [L, d], attention averaged over heads [L, L] (F32); one head at a time."""
        total, outs = 0, []
        for head in range(q.shape[0]):
            scores = (q[head] @ k[head].T).float() * self.s.scale
            p = torch.softmax(scores.masked_fill(~mask, float("-inf")), -1)
            total = total + p / q.shape[0]
            outs.append(p.to(v.dtype) @ v[head])
        return torch.cat(outs, -1) @ self.o.T, total

    def feed(self, x):
        normed = rms_norm(x, self.post_norm, self.s.eps)
        mlp = lambda rows, w: (F.silu(rows @ w[0].T) * (rows @ w[1].T)) @ w[2].T
        rows = normed.to(self.compute)
        if self.router is None:
            return x + mlp(rows, self.dense).float()
        logits = normed @ self.router.T
        p = torch.sigmoid(logits) if self.s.sigmoid else torch.softmax(logits, -1)
        choice = p + self.bias
        if self.s.groups > 1:
            grouped = choice.view(len(x), self.s.groups, -1)
            best = grouped.topk(2, -1)[0].sum(-1).topk(self.s.kept_groups, -1)[1]
            keep = torch.zeros(len(x), self.s.groups, device=x.device).scatter(1, best, 1.0).bool()
            choice = grouped.masked_fill(~keep.unsqueeze(-1), float("-inf")).view(len(x), -1)
        chosen = choice.topk(self.s.kept, -1)[1]
        weight = p.gather(1, chosen)
        if self.s.normalise:
            weight = weight / weight.sum(-1, keepdim=True)
        weight = weight * self.s.scaling
        out = mlp(rows, self.shared).float() if self.shared else torch.zeros_like(x)
        for expert in range(self.s.experts):
            row, slot = (chosen == expert).nonzero(as_tuple=True)
            if len(row):
                out.index_add_(0, row, mlp(rows[row], self.parts[expert]).float() * weight[row, slot].unsqueeze(-1))
        return x + out


class Indexer:
    def __init__(self, shape, heads, device):
        self.s, self.heads = shape, heads
        new = lambda rows, columns: (torch.randn(rows, columns, device=device) * columns ** -0.5).requires_grad_(True)
        self.wq_b, self.wk = new(heads * 128, shape.q_lora_rank), new(128, shape.hidden_size)
        self.weights_proj = new(heads, shape.hidden_size)
        self.norm = torch.ones(128, device=device, requires_grad=True)
        self.norm_bias = torch.zeros(128, device=device, requires_grad=True)

    def scores(self, x, qr, cos, sin):
        s = self.s
        r = s.qk_rope_head_dim
        q = (qr.float() @ self.wq_b.T).view(-1, self.heads, 128)
        k = F.layer_norm(x.float() @ self.wk.T, (128,), self.norm, self.norm_bias, 1e-6)
        q = torch.cat((rope_half_split(q[..., :r], cos.unsqueeze(1), sin.unsqueeze(1)), q[..., r:]), -1)
        k = torch.cat((rope_half_split(k[..., :r], cos, sin), k[..., r:]), -1)
        w = (x.float() @ self.weights_proj.T) * (self.heads * 128) ** -0.5
        return index_scores(q.unsqueeze(0), k.unsqueeze(0), w.unsqueeze(0))[0]

    def optimiser(self, lr):
        muon = Muon([self.wq_b, self.wk])
        adam = torch.optim.Adam([self.weights_proj, self.norm, self.norm_bias], lr=lr, betas=(0.9, 0.95))
        every = [self.wq_b, self.wk, self.weights_proj, self.norm, self.norm_bias]

        def step(share):
            rate = lr * max(0.05, 1 - share)
            muon.step(rate)
            for group in adam.param_groups:
                group["lr"] = rate
            adam.step()
            for p in every:
                p.grad = None
        return step

    def tensors(self, number):
        at = "model.layers.%d.self_attn.indexer." % number
        get = lambda p: p.detach().float().cpu().numpy()
        half = lambda p: bf16(get(p)).reshape(tuple(p.shape))
        return [(at + "wq_b.weight", "BF16", half(self.wq_b)), (at + "wk.weight", "BF16", half(self.wk)),
                (at + "k_norm.weight", "F32", get(self.norm)), (at + "k_norm.bias", "F32", get(self.norm_bias)),
                (at + "weights_proj.weight", "BF16", half(self.weights_proj))]


def select(scores, mask, top):
    if scores.shape[-1] <= top:
        return mask
    scores = scores.masked_fill(~mask, float("-inf"))
    if scores.is_cuda:
        chosen = torch.topk(scores, top, dim=-1, sorted=False)[1]
    else:  # scores of exactly 0 tie often; the engine takes the earlier token
        chosen = torch.sort(scores, dim=-1, descending=True, stable=True)[1][:, :top]
    return torch.zeros_like(mask).scatter(1, chosen, True) & mask


def masses(p, mask, length):
    """Attention mass inside the selection, by the query's position: one figure for each doubling."""
    inside, out, low = (p * mask).sum(-1), {}, 256
    while low < length:
        out["≤%d" % min(2 * low, length)] = round(float(inside[low:2 * low].mean()), 4)
        low *= 2
    return out


def train_layer(layer, indexer, dense, sparse, cos, sin, args, device):
    """Trains one indexer; both streams of hidden states go on in place. → (KL first, KL last, masses, steps)."""
    mask = causal_mask(args.length, device)
    step = indexer.optimiser(args.lr)
    rounds = args.passes * len(dense)
    first = last = None
    began = time.time()
    for turn in range(rounds):
        share = turn / rounds
        if args.seconds:
            share = max(share, (time.time() - began) / (args.seconds / args.layers))
            if share >= 1:
                break
        with torch.no_grad():
            q, k, v, x, qr = layer.queries_and_keys(dense[turn % len(dense)].to(device), cos, sin)
            _, target = layer.attend(q, k, v, mask)
        log_index = torch.log_softmax(indexer.scores(x, qr, cos, sin).masked_fill(~mask, float("-inf")), -1)
        kl = (target * ((target + 1e-9).log() - log_index.masked_fill(~mask, 0))).sum(-1).mean()
        kl.backward()
        step(share)
        first, last = (float(kl.detach()) if first is None else first), float(kl.detach())
    shares = []
    with torch.no_grad():
        for p in (indexer.wq_b, indexer.wk, indexer.weights_proj):  # what is measured is what will be written
            p.copy_(p.to(torch.bfloat16).float())
        for number in range(len(dense)):
            hidden = dense[number].to(device)
            q, k, v, x, qr = layer.queries_and_keys(hidden, cos, sin)
            out, p = layer.attend(q, k, v, mask)
            if number < 4:
                shares.append(masses(p, select(indexer.scores(x, qr, cos, sin), mask, args.top), args.length))
            dense[number] = layer.feed(hidden + out.float()).to(dense[number].dtype).cpu()
        for number in range(len(sparse)):
            hidden = sparse[number].to(device)
            q, k, v, x, qr = layer.queries_and_keys(hidden, cos, sin)
            out, _ = layer.attend(q, k, v, select(indexer.scores(x, qr, cos, sin), mask, args.top))
            sparse[number] = layer.feed(hidden + out.float()).to(sparse[number].dtype).cpu()
    mean = {key: round(float(np.mean([share[key] for share in shares])), 4) for key in shares[0]} if shares else {}
    return first, last, mean, turn + (share < 1)


def losses(checkpoint, shape, hidden, ids, device):
    """Cross entropy by position: {"all": …, "≤512": …, …}."""
    embed = "model.embed_tokens.weight"
    head = checkpoint.get("lm_head.weight" if "lm_head.weight" in checkpoint else embed, device)
    norm = checkpoint.get("model.norm.weight", device)
    rows = torch.stack([F.cross_entropy(rms_norm(h.to(device).float(), norm, shape.eps)[:-1] @ head.T, i[1:].to(device),
                                        reduction="none") for h, i in zip(hidden, ids)]).mean(0)
    out, low = {"all": round(float(rows.mean()), 4)}, 256
    while low < len(rows):
        out["≤%d" % (2 * low)] = round(float(rows[low:2 * low].mean()), 4)
        low *= 2
    return out


def write(checkpoint, shape, tensors, args):
    os.makedirs(args.out, exist_ok=True)
    skip = lambda name: ".indexer." in name
    index = {name: os.path.basename(where[0]) for name, where in checkpoint.where.items() if not skip(name)}
    replaced = {os.path.basename(where[0]) for name, where in checkpoint.where.items() if skip(name)}
    for name in os.listdir(args.out):  # an earlier result may be linked to the original: never write into it
        if os.path.isfile(os.path.join(args.out, name)):
            os.remove(os.path.join(args.out, name))
    for name in replaced:  # files that hold indexers already are written anew, without them
        keep = [(key, *checkpoint.bytes_of(key)) for key, where in checkpoint.where.items()
                if os.path.basename(where[0]) == name and not skip(key)]
        save_safetensors(os.path.join(args.out, name), [(key, dtype, raw, shape) for key, raw, dtype, shape in keep])
    for name in os.listdir(args.model):
        source, target = os.path.join(args.model, name), os.path.join(args.out, name)
        if name in ("config.json", "model.safetensors.index.json", *replaced) or not os.path.isfile(source):
            continue
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    save_safetensors(os.path.join(args.out, "indexer.safetensors"), tensors)
    index.update({name: "indexer.safetensors" for name, _, _ in tensors})
    with open(os.path.join(args.out, "model.safetensors.index.json"), "w", encoding="utf-8") as file:
        json.dump({"metadata": {}, "weight_map": index}, file, indent=1)
    architecture, model_type, style = FAMILIES[shape.architecture]
    config = dict(checkpoint.config, architectures=[architecture], model_type=model_type, index_n_heads=args.heads,
                  index_head_dim=128, index_topk=args.top, indexer_rope_interleave=False)
    if style and "dsa_prompt_style" not in config:
        config["dsa_prompt_style"] = style
    with open(os.path.join(args.out, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
        file.write("\n")


def read_ids(args):
    if args.text:
        from tokenizers import Tokenizer
        tokenizer = Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
        with open(args.text, encoding="utf-8", errors="replace") as file:
            ids = np.array(tokenizer.encode(file.read(args.sequences * args.length * 8), add_special_tokens=False).ids)
    else:
        ids = np.fromfile(args.ids, dtype="<u4" if args.wide else "<u2", count=args.sequences * args.length)
    count = min(args.sequences, len(ids) // args.length)
    if count == 0:
        raise SystemExit("fewer than %d tokens" % args.length)
    return torch.from_numpy(ids[:count * args.length].astype(np.int64)).view(count, args.length)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--ids")
    parser.add_argument("--text")
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--out", required=True)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--held-out", type=int, default=2, help="sequences of these on which sparse and dense are compared")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="of training, over all layers; fewer passes where they do not fit")
    parser.add_argument("--heads", type=int, default=64)
    parser.add_argument("--top", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if bool(args.ids) == bool(args.text):
        parser.error("one of --ids and --text")
    if os.path.exists(args.out) and os.path.samefile(args.model, args.out):
        parser.error("--out is the model itself")
    if os.path.exists(args.out) and os.listdir(args.out) and not os.path.exists(
            os.path.join(args.out, "indexer.safetensors")):
        parser.error("--out is neither empty nor an earlier result")
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    compute = torch.bfloat16 if device == "cuda" else torch.float32
    checkpoint = Checkpoint(args.model)
    shape = Shape(checkpoint.config)
    args.layers = shape.num_hidden_layers
    ids = read_ids(args)
    angle = torch.arange(args.length, dtype=torch.float32).unsqueeze(1) * shape.frequency
    cos, sin = angle.cos().to(device), angle.sin().to(device)
    embed = checkpoint.get("model.embed_tokens.weight")
    held = min(args.held_out, len(ids) - 1)
    test = ids[:held]
    keep = torch.bfloat16 if device == "cuda" else torch.float32
    dense = [F.embedding(row, embed).to(keep) for row in ids]
    sparse = [hidden.clone() for hidden in dense[:held]]
    del embed
    tensors, began = [], time.time()
    for number in range(shape.num_hidden_layers):
        layer, indexer = Layer(checkpoint, shape, number, device, compute), Indexer(shape, args.heads, device)
        # The held-out sequences go through the layer too, but train nothing: they are the first ones.
        train, kept = dense[held:], dense[:held]
        first, last, mass, steps = train_layer(layer, indexer, train, sparse, cos, sin, args, device)
        with torch.no_grad():
            mask = causal_mask(args.length, device)
            for i, hidden in enumerate(kept):
                q, k, v, _, _ = layer.queries_and_keys(hidden.to(device).float(), cos, sin)
                out, _ = layer.attend(q, k, v, mask)
                kept[i] = layer.feed(hidden.to(device).float() + out.float()).to(keep).cpu()
        dense = kept + train
        tensors += indexer.tensors(number)
        print("layer %d  %d steps  KL %.4f → %.4f  mass in the top %d: %s  (%.0f s)"
              % (number, steps, first, last, args.top, json.dumps(mass, ensure_ascii=False), time.time() - began), flush=True)
    if held:
        with torch.no_grad():
            for name, hidden in (("dense", dense[:held]), ("sparse", sparse)):
                print("loss %s: %s" % (name, json.dumps(losses(checkpoint, shape, hidden, test, device),
                                                       ensure_ascii=False)))
    write(checkpoint, shape, tensors, args)


if __name__ == "__main__":
    main()
