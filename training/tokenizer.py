"""Train the reader's byte-level BPE and write tokenizer.json.

Pre-tokenisation is the usual one for English: a word carries the space before it, numbers fall into runs of at
most four digits, so that a year is one token.
"""
import argparse
import json
import os

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from prompt import SPECIALS

VOCAB = 12288
PATTERN = (r"'(?:[sdmt]|ll|ve|re)"
           r"| ?[\p{L}\p{M}]+"
           r"| ?\p{N}{1,4}"
           r"| ?[^\s\p{L}\p{M}\p{N}]+"
           r"|\s*[\r\n]|\s+(?!\S)|\s+")


def samples(train, megabytes):
    """Pieces of 64 KiB spread evenly over each file."""
    for name, share in (("enwiki.txt", 0.7), ("books.txt", 0.12), ("docs.txt", 0.04), ("qa_train.jsonl", 0.14)):
        path = os.path.join(train, name)
        want = int(megabytes * 1e6 * share)
        size = os.path.getsize(path)
        if name.endswith(".jsonl"):
            got = 0
            with open(path, encoding="utf-8") as lines:
                for number, line in enumerate(lines):
                    if number % 4:
                        continue
                    record = json.loads(line)
                    text = record["question"] + "\n" + "\n".join(p.get("text", "") for p in record["passages"])[:4000]
                    got += len(text)
                    yield text
                    if got > want:
                        break
            continue
        count = max(1, want // 65536)
        with open(path, "rb") as file:
            for i in range(count):
                file.seek(i * size // count)
                text = file.read(65536).decode("utf-8", "ignore").replace("<|endoftext|>", "\n")
                yield text[text.find("\n") + 1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True, help="folder with enwiki.txt, books.txt, docs.txt, qa_train.jsonl")
    parser.add_argument("--out", required=True)
    parser.add_argument("--megabytes", type=float, default=60)
    args = parser.parse_args()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=SPECIALS, min_frequency=2, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), max_token_length=24)
    tokenizer.train_from_iterator(samples(args.train, args.megabytes), trainer)
    tokenizer.save(args.out)
    print(tokenizer.get_vocab_size())


if __name__ == "__main__":
    main()
