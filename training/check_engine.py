"""Do the engine's logits agree with this model's? Runs dsa-logits over packs and compares.

    check_engine.py --data DATA --logits BUILD/tools/dsa-logits [--weights OUT/weights.pt | --model FOLDER]

BF16 export, engine in plain mode (no FP8 anywhere): the selected sets and the logits must agree to rounding.
FP8 export, engine as it serves: compared with the model's FP8-aware form; the indexers' own FP8 is not modelled here, so
selections may differ near the threshold, and what counts is that the same token comes first.
FOLDER is an exported model, such as models/reader. Without either a small random model is made and checked (names,
layouts, rotary styles).
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch

import export
import load
from model import TOY, Config, Linear, Reader
from prompt import Vocabulary


def random_model(vocabulary):
    """Random, with attention and indexers sharp enough for a wrong layout to show."""
    torch.manual_seed(3)
    model = Reader(Config(**TOY, vocab_size=vocabulary.size))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.add_(0.2 * torch.randn_like(p))
            elif name.endswith(("q_b_proj.weight", "kv_b_proj.weight", "wq_b.weight")):
                p.mul_(2)
        model.embed.mul_(10)
        for block in model.blocks[1:]:
            block.mlp.bias.add_(0.05 * torch.randn_like(block.mlp.bias))
    return model


def engine_logits(program, folder, tokens, plain, backend):
    with tempfile.TemporaryDirectory() as scratch:
        path, out = os.path.join(scratch, "tokens.json"), os.path.join(scratch, "logits.f32")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(tokens, file)
        command = [program, "--model", folder, "--tokens", path, "--out", out, "--backend", backend]
        subprocess.run(command + (["--plain"] if plain else []), check=True)
        return np.fromfile(out, dtype="<f4").reshape(len(tokens), -1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--logits", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--model")
    parser.add_argument("--packs", type=int, default=50)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--tokens", type=int, default=700, help="packs are cut to so many")
    args = parser.parse_args()
    vocabulary = Vocabulary(os.path.join(args.data, "tokenizer.json"))
    reading = load.Reading(os.path.join(args.data, "reading"))
    if args.weights:
        saved = torch.load(args.weights, map_location="cpu")
        model = Reader(Config(**saved["config"]))
        model.load_state_dict({name: value.float() for name, value in saved["model"].items()})
    elif args.model:
        model = export.read(args.model)
    else:
        model = random_model(vocabulary)
    model.eval()
    Linear.compute = torch.float32
    worst, same = 0.0, []
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        for name, p in model.named_parameters():  # what is compared is what BF16 holds
            if "indexer.norm" not in name:
                p.copy_(p.to(torch.bfloat16).float())
        for form in ("bf16", "fp8"):
            export.write(model, vocabulary, os.path.join(args.data, "tokenizer.json"), os.path.join(scratch, form),
                         form == "fp8", random=not (args.weights or args.model))
        for number, record in enumerate(reading.numbers("dev")[:args.packs]):
            tokens = load.evaluation_pack(vocabulary, reading, int(record)).tokens[:args.tokens]
            ids = torch.tensor([tokens], dtype=torch.int32)
            positions = torch.arange(len(tokens)).unsqueeze(0)
            ours = {}
            for form in ("bf16", "fp8"):
                model.set_fp8(form == "fp8")
                hidden, _ = model(ids, positions, torch.ones_like(ids), "select")
                ours[form] = model.logits(hidden).numpy()
                theirs = engine_logits(args.logits, os.path.join(scratch, form), tokens, form == "bf16", args.backend)
                error = np.linalg.norm(theirs - ours[form]) / np.linalg.norm(ours[form])
                first = float((theirs.argmax(1) == ours[form].argmax(1)).mean())
                print("pack %d  %d tokens  %s  relative error %.2e  same first token %.2f%%"
                      % (number, len(tokens), form, error, 100 * first), flush=True)
                if form == "bf16":
                    worst = max(worst, error)
                else:
                    same.append(first)
    print("worst BF16 error %.2e; FP8 same first token %.2f%%" % (worst, 100 * float(np.mean(same))))
    sys.exit(0 if worst < 2e-3 else 1)


if __name__ == "__main__":
    main()
