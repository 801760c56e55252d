"""The model as a Hugging Face checkpoint of the V3.2 family: config.json, tokenizer.json, *.safetensors.

Matrices become e4m3 with a scale for each block of 128 × 128 (`weight_scale_inv`); embeddings, norms, the router and the
indexer's head weights stay BF16 or F32, as V3.2 has them. Plain numpy, so that the bytes do not depend on a version of
PyTorch. Files are kept under 15 MiB each.
"""
import argparse
import json
import os
import shutil

import numpy as np
import torch

from checkpoint import Checkpoint
from model import Config, Reader

PART_BYTES = 15 << 20


def bf16(array):
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def e4m3(x):
    """float32 → the byte of the nearest e4m3 value, ties to even; |x| ≤ 448 is the caller's duty."""
    sign = np.signbit(x).astype(np.uint8) << 7
    a = np.abs(x).astype(np.float64)
    exponent = np.maximum(np.frexp(a)[1] - 1, -6)
    steps = np.rint(np.ldexp(a, 3 - exponent)).astype(np.int64)  # 8 … 16 for normal numbers, below 8 for subnormal ones
    over = steps == 16
    exponent, steps = exponent + over, np.where(over, 8, steps)
    biased = np.where(steps < 8, 0, exponent + 7)
    return (sign | (biased << 3).astype(np.uint8) | (steps & 7).astype(np.uint8)).astype(np.uint8)


def blocks_fp8(w):
    """[N, K] float32 → e4m3 bytes [N, K], scales float32 [ceil(N/128), ceil(K/128)]."""
    rows, columns = w.shape
    padded = np.zeros((-(-rows // 128) * 128, -(-columns // 128) * 128), dtype=np.float32)
    padded[:rows, :columns] = w
    blocks = padded.reshape(padded.shape[0] // 128, 128, padded.shape[1] // 128, 128)
    scale = (np.maximum(np.abs(blocks).max((1, 3)), 1e-12) / np.float32(448)).astype(np.float32)
    scaled = np.clip(blocks / scale[:, None, :, None], -448, 448).reshape(padded.shape)[:rows, :columns]
    return e4m3(scaled), scale


def tensors(model):
    """(HF name, the part of a parameter that holds it, kind) with kind "matrix", "bf16" or "f32"."""
    yield "model.embed_tokens.weight", model.embed, "bf16"
    yield "model.norm.weight", model.norm, "bf16"
    for number, block in enumerate(model.blocks):
        at, a = "model.layers.%d." % number, block.attention
        yield at + "input_layernorm.weight", block.input_norm, "bf16"
        yield at + "post_attention_layernorm.weight", block.post_norm, "bf16"
        yield at + "self_attn.q_a_proj.weight", a.q_a_proj.weight, "matrix"
        yield at + "self_attn.q_a_layernorm.weight", a.q_a_norm, "bf16"
        yield at + "self_attn.q_b_proj.weight", a.q_b_proj.weight, "matrix"
        yield at + "self_attn.kv_a_proj_with_mqa.weight", a.kv_a_proj.weight, "matrix"
        yield at + "self_attn.kv_a_layernorm.weight", a.kv_a_norm, "bf16"
        yield at + "self_attn.kv_b_proj.weight", a.kv_b_proj.weight, "matrix"
        yield at + "self_attn.o_proj.weight", a.o_proj.weight, "matrix"
        yield at + "self_attn.indexer.wq_b.weight", a.indexer.wq_b.weight, "matrix"
        yield at + "self_attn.indexer.wk.weight", a.indexer.wk.weight, "matrix"
        yield at + "self_attn.indexer.k_norm.weight", a.indexer.norm_weight, "f32"
        yield at + "self_attn.indexer.k_norm.bias", a.indexer.norm_bias, "f32"
        yield at + "self_attn.indexer.weights_proj.weight", a.indexer.weights_proj, "bf16"
        mlp = block.mlp
        if hasattr(mlp, "gate_proj"):
            for name in ("gate_proj", "up_proj", "down_proj"):
                yield at + "mlp.%s.weight" % name, getattr(mlp, name).weight, "matrix"
            continue
        yield at + "mlp.gate.weight", mlp.router, "bf16"
        yield at + "mlp.gate.e_score_correction_bias", mlp.bias, "f32"
        for expert in range(mlp.gate.shape[0]):
            where = at + ("mlp.shared_experts." if expert == mlp.gate.shape[0] - 1 else "mlp.experts.%d." % expert)
            yield where + "gate_proj.weight", mlp.gate[expert], "matrix"
            yield where + "up_proj.weight", mlp.up[expert], "matrix"
            yield where + "down_proj.weight", mlp.down[expert].t(), "matrix"


def config_json(c, vocabulary, fp8, random):
    config = {
        "architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32",
        "dsa_prompt_style": "reader", "torch_dtype": "bfloat16", "hidden_act": "silu", "attention_bias": False,
        "tie_word_embeddings": True, "num_key_value_heads": c.num_attention_heads, "n_shared_experts": 1,
        "moe_layer_freq": 1, "n_group": 1, "topk_group": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
        "norm_topk_prob": True, "rope_scaling": None, "num_nextn_predict_layers": 0,
        "eos_token_id": vocabulary["end"], "pad_token_id": vocabulary["pad"], **vars(c)}
    if random:
        config["dsa_random_weights"] = True
    if fp8:
        config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                         "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}
    return config


def save_safetensors(path, entries):
    """entries: [(name, dtype name, array)], or with a fourth part, the shape, where the array is raw bytes. The header
    is padded to 8 bytes."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, array, *shape in entries:
        header[name] = {"dtype": dtype, "shape": list(shape[0] if shape else array.shape),
                        "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            file.write(np.ascontiguousarray(entry[2]).tobytes())


def write(model, vocabulary, tokenizer, folder, fp8=True, random=False, dense=False):
    """Writes the checkpoint; returns its bytes. dense: as an MLA model of the V3 family, without indexers."""
    os.makedirs(folder, exist_ok=True)
    parts, size = [[]], 0
    for name, place, kind in tensors(model):
        if dense and ".indexer." in name:
            continue
        array = np.ascontiguousarray(place.detach().float().cpu().numpy())
        if kind == "matrix" and fp8:
            data, scale = blocks_fp8(array)
            new = [(name, "F8_E4M3", data), (name.replace(".weight", ".weight_scale_inv"), "F32", scale)]
        elif kind == "f32":
            new = [(name, "F32", array.astype(np.float32))]
        else:
            new = [(name, "BF16", bf16(array).reshape(array.shape))]
        bytes_ = sum(entry[2].nbytes for entry in new)
        if size + bytes_ > PART_BYTES:
            parts.append([])
            size = 0
        parts[-1] += new
        size += bytes_
    index, total = {}, 0
    for number, entries in enumerate(parts, 1):
        name = "model.safetensors" if len(parts) == 1 else "model-%05d-of-%05d.safetensors" % (number, len(parts))
        save_safetensors(os.path.join(folder, name), entries)
        index.update({entry[0]: name for entry in entries})
        total += sum(entry[2].nbytes for entry in entries)
    if len(parts) > 1:
        with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as file:
            json.dump({"metadata": {"total_size": total}, "weight_map": index}, file, indent=1)
            file.write("\n")
    config = config_json(model.c, vocabulary, fp8, random)
    if dense:
        config = {key: value for key, value in config.items() if not key.startswith("index_")}
        config.update(architectures=["DeepseekV3ForCausalLM"], model_type="deepseek_v3")
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
        file.write("\n")
    shutil.copyfile(tokenizer, os.path.join(folder, "tokenizer.json"))
    return total


def read(folder):
    """The reverse: the model of a folder that `write` made."""
    source = Checkpoint(folder)
    known = vars(Config(vocab_size=source.config["vocab_size"]))
    model = Reader(Config(**{name: source.config[name] for name in known}))
    with torch.no_grad():
        for name, place, _ in tensors(model):
            place.copy_(source.get(name).view(place.shape))
    return model


def mean(folders):
    """The model of which every weight is the mean of those of exported models."""
    models = [read(folder) for folder in folders]
    with torch.no_grad():
        for parts in zip(*(model.state_dict().values() for model in models)):
            parts[0].copy_(sum(parts) / len(parts))
    return models[0]


def main():
    from prompt import Vocabulary
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--weights", help="a checkpoint of train.py")
    what.add_argument("--mean", nargs="+", metavar="FOLDER", help="exported models whose weights are averaged")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--bf16", action="store_true", help="no FP8")
    parser.add_argument("--dense", action="store_true", help="without indexers, for indexer.py")
    args = parser.parse_args()
    if args.mean:
        model = mean(args.mean)
    else:
        saved = torch.load(args.weights, map_location="cpu")
        model = Reader(Config(**saved["config"]))
        model.load_state_dict({name: value.float() for name, value in saved["model"].items()})
    print(write(model, Vocabulary(args.tokenizer), args.tokenizer, args.out, not args.bf16,
                dense=args.dense), "bytes")


if __name__ == "__main__":
    main()
