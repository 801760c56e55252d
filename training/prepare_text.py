"""Pre-training text → chunks of token ids (uint16, xz).

Every text becomes  <|doc|> "1" <|title|> TITLE <|text|> BODY <|end|>  so that the specials mean the same in
pre-training as in a prompt. Every eighth article of the encyclopedia is left out here: prepare_reading.py makes its
questions from those, and their tokens travel with them. Chunks interleave the sources, so that any prefix of them is
a fair mixture.
"""
import argparse
import lzma
import os
import re

import numpy as np
from tokenizers import Tokenizer

import prompt

CHUNK = 4 << 20  # tokens
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 16 << 20, "lc": 0, "lp": 1, "pb": 1}]


def texts(path):
    """(title, body) of every text of a file whose texts are separated by <|endoftext|>."""
    held = ""
    with open(path, encoding="utf-8", errors="replace") as file:
        while True:
            piece = file.read(1 << 22)
            held += piece
            parts = held.split("<|endoftext|>")
            held = parts.pop() if piece else ""
            for part in parts:
                part = part.strip()
                if not part:
                    continue
                first, _, rest = part.partition("\n")
                title = re.sub(r"^#+ *(Title:)? *", "", first).strip()[:120]
                yield (title, rest.strip()) if first.startswith("#") else ("", part)
            if not piece:
                return


def is_reading_article(number):
    return number % 8 == 3


def streams(train):
    """Texts of all sources, interleaved by size."""
    sources = {"enwiki.txt": 1.0, "books.txt": 1.0, "books_b.txt": 1.0, "docs.txt": 1.0}
    open_files, done = {}, {}
    for name in sources:
        path = os.path.join(train, name)
        open_files[name] = (enumerate(texts(path)), os.path.getsize(path))
        done[name] = 0
    while open_files:
        name = min(open_files, key=lambda n: done[n] / open_files[n][1])
        item = next(open_files[name][0], None)
        if item is None:
            del open_files[name]
            continue
        number, (title, body) = item
        done[name] += len(body) + 1
        if name == "enwiki.txt" and is_reading_article(number):
            continue
        if name.startswith("books"):  # long texts in pieces, so that one book does not fill a chunk
            for start in range(0, len(body), 200000):
                yield title, body[start:start + 200000]
        else:
            yield title, body


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True)
    parser.add_argument("--data", required=True, help="folder with tokenizer.json; chunks go to its text/")
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(os.path.join(args.data, "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    special = prompt.special_ids(tokenizer)
    one = tokenizer.encode("1", add_special_tokens=False).ids
    out = os.path.join(args.data, "text")
    os.makedirs(out, exist_ok=True)
    held, count, number, total = [], 0, 0, 0
    batch = []

    def flush():
        nonlocal held, count, number
        ids = np.concatenate(held)
        held, count = [ids[CHUNK:]] if len(ids) > CHUNK else [], max(0, len(ids) - CHUNK)
        path = os.path.join(out, "text-%03d.xz" % number)
        with lzma.open(path + ".part", "wb", format=lzma.FORMAT_XZ, filters=FILTERS) as file:
            file.write(ids[:CHUNK].astype("<u2").tobytes())
        os.rename(path + ".part", path)
        number += 1

    def encode():
        nonlocal count, total
        titles = tokenizer.encode_batch([title for title, _ in batch], add_special_tokens=False)
        bodies = tokenizer.encode_batch([body for _, body in batch], add_special_tokens=False)
        for title, body in zip(titles, bodies):
            ids = [special["<|doc|>"], *one, special["<|title|>"], *title.ids, special["<|text|>"], *body.ids,
                   special["<|end|>"]]
            held.append(np.array(ids, dtype=np.uint16))
            count += len(ids)
            total += len(ids)
        batch.clear()
        while count >= CHUNK:
            flush()

    size = 0
    for item in streams(args.train):
        batch.append(item)
        size += len(item[1])
        if size > 4_000_000:
            encode()
            size = 0
    encode()
    if count:
        flush()
    print(total, "tokens in", number, "chunks")


if __name__ == "__main__":
    main()
