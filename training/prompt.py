"""The reader's prompt, as engine/README.md "The reader's prompt" defines it. Ids are read from tokenizer.json.

    prompt    = ask block { block } ask "<|answer|>"
    ask       = "<|question|>" QUESTION | "<|summarise|>"
    block     = "<|doc|>" ID [ "<|rankN|>" ] "<|title|>" HEADING "<|text|>" TEXT
    answer    = ( "<|none|>" | quotation { quotation } ) "<|end|>"
    quotation = "<|open|>" QUOTED "<|close|>" ID

Plain Python without the tokenizers package: texts reach the trainer as ids, and only block numbers are encoded here.
"""
import json

SPECIALS = ["<|pad|>", "<|end|>", "<|question|>", "<|summarise|>", "<|doc|>",
            *("<|rank%d|>" % rank for rank in range(1, 10)),
            "<|title|>", "<|text|>", "<|answer|>", "<|open|>", "<|close|>", "<|none|>"]
MAX_ID = 999


def special_ids(tokenizer):
    """Content → id of every special token; tokenizer is a tokenizers.Tokenizer."""
    ids = {content: tokenizer.token_to_id(content) for content in SPECIALS}
    missing = [content for content, number in ids.items() if number is None]
    if missing:
        raise ValueError("tokenizer lacks " + ", ".join(missing))
    return ids


def byte_alphabet():
    """The character that byte-level BPE writes for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {byte: chr(byte) for byte in plain}, 0
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + extra)
            extra += 1
    return table


class Vocabulary:
    """Ids of the specials, bytes of every token, and the tokens of block numbers."""
    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            model = json.load(file)
        vocab = model["model"]["vocab"]
        self.special = {token["content"]: token["id"] for token in model["added_tokens"]}
        self.size = 1 + max(max(vocab.values()), max(self.special.values()))
        back = {char: byte for byte, char in byte_alphabet().items()}
        self.bytes = [b""] * self.size
        for token, number in vocab.items():
            if token not in self.special:
                self.bytes[number] = bytes(back[char] for char in token)
        merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
                  for merge in model["model"]["merges"]]
        self.merge_rank = {merge: rank for rank, merge in enumerate(merges)}
        self.vocab = vocab
        self.newline = vocab[byte_alphabet()[10]]
        self.number = [self.encode_digits(str(value)) for value in range(MAX_ID + 1)]

    def encode_digits(self, text):
        """BPE of a short run of digits: one piece of the pre-tokeniser."""
        parts = list(text)
        while len(parts) > 1:
            ranked = [(self.merge_rank.get((parts[i], parts[i + 1]), len(self.merge_rank)), i)
                      for i in range(len(parts) - 1)]
            rank, at = min(ranked)
            if rank == len(self.merge_rank):
                break
            parts[at:at + 2] = [parts[at] + parts[at + 1]]
        return [self.vocab[part] for part in parts]

    def text(self, ids):
        return b"".join(self.bytes[number] for number in ids).decode("utf-8", "replace")

    def __getitem__(self, name):
        return self.special["<|%s|>" % name]
