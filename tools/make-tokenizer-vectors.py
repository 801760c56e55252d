#!/usr/bin/env python3
"""Writes tests/vectors/tokenizer/: small tokenizers of the published shapes, and what they make of some texts.

    make-tokenizer-vectors.py [FOLDER]        needs the PyPI package `tokenizers` (0.23.3 made the committed files)

The tokenizers are trained on the text in this file; the cases are encoded by that package, not by ours. One file a
shape, NAME.json (a tokenizer.json) and NAME.cases.json: [{"text", "special", "ids"}, …]."""
import json
import os
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXT = """
The harbour master wrote down every ship that came in, and the weight of what it carried. He didn't trust memory.
"Three hundred and twelve barrels," he said; "that's 312, and they've paid for 290." In 1847 the ledger had 1,204 pages.
Salt, rope, timber (some of it rotten), glass: nothing was too small. Who'd have thought it'd be read 170 years later?
La facture était de 45,50 €, payée à l'avance. Der Schlüssel hängt über der Tür. ¿Dónde está el puerto?
Корабль пришёл в гавань утром. Το λιμάνι είναι κλειστό. הנמל סגור. الميناء مغلق اليوم.
船は朝、港に着いた。海港今天关闭。배가 항구에 도착했다.
    if (weight > limit) {
        return refuse(ship, "too heavy");   // never happens
    }
x = a[i] + b[j] - 3.14159; y += 0x1F; http://example.org/path?query=1&page=2
• first point
• second point — with a dash… and “quotes”, ‘single ones’ too.
""" * 3

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA.replace(r"\p{N}{1,3}", r"\p{N}")
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
]
READER = ["<|pad|>", "<|end|>", "<|question|>", "<|summarise|>", "<|doc|>", "<|title|>", "<|text|>", "<|answer|>",
          "<|open|>", "<|close|>", "<|none|>"] + ["<|rank%d|>" % i for i in range(1, 10)]


def splits(*patterns):
    return [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


SHAPES = {
    "gpt2": (None, byte_level(True), False, ["<|endoftext|>"]),
    "llama3": (None, pre_tokenizers.Sequence(splits(LLAMA) + [byte_level(False)]), True,
               ["<|begin_of_text|>", "<|end_of_text|>"]),
    "qwen2": (normalizers.NFC(), pre_tokenizers.Sequence(splits(QWEN) + [byte_level(False)]), False,
              ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
    "glm": (None, pre_tokenizers.Sequence(splits(LLAMA) + [byte_level(False)]), False,
            ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
             "<think>", "</think>"]),
    "deepseek": (None, pre_tokenizers.Sequence(splits(*DEEPSEEK) + [byte_level(False)]), False,
                 ["<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
                  "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<think>", "</think>"]),
    "reader": (None, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]), False,
               READER),
}

ALPHABET = (list("abcXYZ  .,'\"-()0189\n\t") + ["'s", "'LL", "  ", " \n", "the ", " ship", "312", "é", "e\u0301",
            "ü", "ß", "ſ", "İ", "Ω", "\u2126", "船", "港に", "\u9fa6", "한", "\u1112\u1161\u11ab", "ก", "\u0e33", "ह\u093f",
            "😀", "👩\u200d👧", "\u00a0", "\u2003", "\u3000", "\u0085", "\u180e", "\u200b", "\ufeff", "½", "Ⅷ", "٣", "_",
            "…", "“", "”", "—", "€", "\u0000", "\u001b", "\uffff", "\U0001d11e", "\U000e0041", "\U0010ffff"])


def cases(names):
    rng = random.Random(7)
    texts = ["", " ", "\n", "a", TEXT[:400], TEXT[400:900], "a" * 300, " " * 70 + "x", "ab" * 100, "\n" * 60 + " "]
    texts += ["".join(rng.choice(ALPHABET) for _ in range(rng.randrange(1, 60))) for _ in range(150)]
    plain = [(text, False) for text in texts]
    mixed = [("".join(rng.choice(names + ALPHABET[:30] + ["text ", " "]) for _ in range(12)), True) for _ in range(30)]
    return plain + mixed


def make(folder, name, normalizer, pre_tokenizer, ignore_merges, specials):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=560, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=[AddedToken(text, special=True, normalized=False) for text in specials])
    tokenizer.train_from_iterator([TEXT], trainer)
    if name == "glm":  # tokens that take white space along, and one that is matched in the second pass
        tokenizer.add_tokens([AddedToken("<left>", lstrip=True, normalized=False),
                              AddedToken("<right>", rstrip=True, normalized=False), AddedToken("ship", normalized=True)])
        specials = specials + ["<left>", "<right>"]
    if name == "llama3":  # an entry that no merge makes: ignore_merges finds it
        state = json.loads(tokenizer.to_str())
        state["model"]["vocab"]["\u0120zyx"] = tokenizer.get_vocab_size()
        tokenizer = Tokenizer.from_str(json.dumps(state))
    path = os.path.join(folder, name)
    tokenizer.save(path + ".json", pretty=False)
    names = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    out = []
    for text, special in cases(specials):
        if not special and any(added in text for added in names):
            continue
        out.append({"text": text, "special": special, "ids": tokenizer.encode(text, add_special_tokens=False).ids})
    if name == "llama3":
        out.append({"text": "a zyx", "special": False, "ids": tokenizer.encode("a zyx").ids})
    with open(path + ".cases.json", "w", encoding="ascii") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in out) + "\n]\n")


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "tests/vectors/tokenizer"
    for name, shape in SHAPES.items():
        make(folder, name, *shape)


if __name__ == "__main__":
    main()
