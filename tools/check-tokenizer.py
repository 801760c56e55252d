#!/usr/bin/env python3
"""Compares the C tokenizer with the `tokenizers` package on random text.

    check-tokenizer.py BUILD/tests/engine/tokenize TOKENIZER.json [CASES] [SEED]

Every character that the Unicode version of this Python assigns is tried on its own and between letters; then random
strings over letters, marks, digits, punctuation, white space, contractions and added tokens. Prints the first
differences and, for single characters, the code points that differ."""
import random
import subprocess
import sys
import unicodedata

from tokenizers import Tokenizer

ASSIGNED = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs") and c != 0]
POOLS = [
    [chr(c) for c in range(0x20, 0x7F)],
    list(" \t\n\r\u00a0\u2003\u3000\u0085\u180e\u200b\u2028"),
    [chr(c) for c in range(0x300, 0x370)] + list("éüßſİıKſ"),
    [chr(c) for c in range(0x3040, 0x3100)] + list("一龥龦龿中文字"),
    list("0123456789٣४Ⅷ½²①"),
    list("!?.,;:—–…“”‘’«»()[]{}€$±×÷"),
    ["'s", "'S", "'LL", "'ll", "'ſ", "'re", "'VE", "'d", "'t ", "'m"],
]


def random_text(rng):
    parts = []
    for _ in range(rng.randrange(1, 40)):
        pick = rng.random()
        if pick < 0.15:
            parts.append(chr(rng.choice(ASSIGNED)))
        elif pick < 0.25:
            parts.append(rng.choice(POOLS[1]) * rng.randrange(1, 5))
        else:
            parts.append(rng.choice(rng.choice(POOLS)))
    return "".join(parts)


def run(program, path, texts, special):
    words = [program, path] + (["special"] if special else [])
    out = subprocess.run(words, input="\0".join(texts).encode(), capture_output=True, check=True)
    lines = out.stdout.decode().split("\n")[:-1]
    assert len(lines) == len(texts), (len(lines), len(texts))
    return [[int(word) for word in line.split()] for line in lines]


def main():
    program, path = sys.argv[1:3]
    cases = int(sys.argv[3]) if len(sys.argv) > 3 else 20000
    rng = random.Random(int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    reference = Tokenizer.from_file(path)
    added = [token.content for token in reference.get_added_tokens_decoder().values()]
    failures = 0

    def compare(name, texts, special):
        wrong = []
        expected = [e.ids for e in reference.encode_batch_fast(texts, add_special_tokens=False)]
        for text, ours, theirs in zip(texts, run(program, path, texts, special), expected):
            if ours != theirs:
                wrong.append((text, ours, theirs))
        print(f"{name}: {len(texts)} cases, {len(wrong)} differ")
        for text, ours, theirs in wrong[:5]:
            print("   ", ascii(text), "ours", ours, "theirs", theirs)
        return wrong

    singles = [template % chr(c) for c in ASSIGNED for template in ("%s", "a%sb", " %s1")]
    singles = [text for text in singles if not any(token in text for token in added)]
    codes = sorted({ord(c) for text, _, _ in compare("single characters", singles, False) for c in text if ord(c) > 127})
    if codes:
        print("    code points:", " ".join(f"U+{c:04X}" for c in codes[:200]))
    plain = [text for text in (random_text(rng) for _ in range(cases)) if not any(token in text for token in added)]
    failures += len(compare("random text", plain, False))
    if added:
        POOLS.append(added)
        mixed = [random_text(rng) for _ in range(cases // 4)]
        failures += len(compare("random text with added tokens", mixed, True))
    return 1 if failures or codes else 0


if __name__ == "__main__":
    sys.exit(main())
