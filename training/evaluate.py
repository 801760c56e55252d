"""Reading scores: quotations decoded under the rule of quote mode (a verbatim span of one block), greedily.

No cache: the whole pack is run again for each token until the quotation can be at one place only; one more run with the
text that follows there then shows where the model would close it. That is what greedy decoding does, in few runs.
"""
import argparse
import json
import os

import numpy as np
import torch

import load
from model import Linear, Reader, Config, mark_scores
from prior import Lexicon
from prompt import Vocabulary

MIN_BYTES, MAX_TOKENS, LIMIT = 12, 120, 16


def run(model, rows, device, mode, at):
    """Logits after each of the last positions asked for: rows of ids, at[i] = list of positions in row i."""
    longest = max(len(row) for row in rows)
    longest = (longest + 63) // 64 * 64
    tokens = torch.zeros(len(rows), longest, dtype=torch.int32)
    real = torch.zeros(len(rows), longest, dtype=torch.uint8)
    for number, row in enumerate(rows):
        tokens[number, :len(row)] = torch.tensor(row, dtype=torch.int32)
        real[number, :len(row)] = 1
    positions = torch.arange(longest, dtype=torch.int32).expand(len(rows), longest)
    hidden, _ = model(tokens.to(device), positions.to(device), real.to(device), mode)
    hidden = hidden.view(len(rows), longest, -1)
    index = [(number, place) for number, places in enumerate(at) for place in places]
    picked = torch.stack([hidden[number, place] for number, place in index]) if len(index) < 64 else hidden[
        torch.tensor([i[0] for i in index], device=device), torch.tensor([i[1] for i in index], device=device)]
    return picked


class Answer:
    """One pack being answered."""
    def __init__(self, vocabulary, pack):
        self.v, self.pack = vocabulary, pack
        self.given = []          # tokens of the quotation
        self.places = None       # positions in pack.tokens that could come next; None: a start
        self.closed = False
        bytes_of = vocabulary.bytes
        self.starts = []
        for _, start, end in pack.blocks:
            for at in range(start, end):
                here, before = bytes_of[pack.tokens[at]], bytes_of[pack.tokens[at - 1]] if at > start else b""
                if at == start or here[:1].isspace() or before[-1:].isspace() or before[-1:] in b"(\"[":
                    self.starts.append(at)
        self.ends = {end for _, _, end in pack.blocks}

    def allowed(self):
        """token → positions it continues at; the close mark maps to nothing."""
        out = {}
        for at in self.starts if self.places is None else self.places:
            if at not in self.ends:
                out.setdefault(self.pack.tokens[at], []).append(at + 1)
        if self.places is not None and (len(self.text()) >= MIN_BYTES or not out):
            out[self.v["close"]] = []
        return out

    def text(self):
        return self.v.text(self.given).strip()

    def take(self, token, places):
        if token == self.v["close"] or not places:
            self.closed = True
        else:
            self.given.append(token)
            self.places = places


def best_marked(vocabulary, reading, pack, scores):
    """(the sentence with the highest mark, its mark)"""
    spans = []
    for _, start, ends in pack.marks(reading):
        for first, last in zip([start, *(ends[:-1] + 1)], ends):
            spans.append((first, last + 1))
    if not spans:
        return "", float("-inf")
    best = int(np.argmax(scores))
    return vocabulary.text(pack.tokens[spans[best][0]:spans[best][1]]).strip(), float(scores[best])


@torch.no_grad()
def answer_packs(model, vocabulary, reading, packs, device, mode="dense", tokens_per_run=65536, priors=None):
    """[(quotation, block number, log-odds of <|open|> against <|none|>, best marked sentence, its mark, and the best
    sentence by the marks alone)], one a pack. priors: one array a pack, added to the marks, but not to those alone."""
    v = vocabulary
    out = [None] * len(packs)
    order = sorted(range(len(packs)), key=lambda i: len(packs[i].tokens))
    at = 0
    while at < len(order):
        count = max(1, tokens_per_run // (len(packs[order[min(at + 200, len(order) - 1)]].tokens) + 160))
        numbers = order[at:at + count]
        at += count
        answers = [Answer(v, packs[i]) for i in numbers]
        rows = [packs[i].tokens for i in numbers]
        ends = [[int(end) for _, _, part in packs[i].marks(reading) for end in part] for i in numbers]
        hidden = run(model, rows, device, mode, [at + [len(row) - 1] for at, row in zip(ends, rows)])
        scores = mark_scores(model, hidden, slice(None), (v["open"], v["none"])).cpu().numpy()
        scores = np.split(scores, np.cumsum([len(at) + 1 for at in ends])[:-1])
        odds = [float(row[-1]) for row in scores]
        alone = [best_marked(v, reading, packs[i], row[:-1]) for i, row in zip(numbers, scores)]
        marked = alone if priors is None else [best_marked(v, reading, packs[i], row[:-1] + priors[i])
                                               for i, row in zip(numbers, scores)]
        for _ in range(LIMIT):
            live = [a for a in answers if not a.closed and (a.places is None or len(a.places) > 1)]
            if not live:
                break
            rows = [a.pack.tokens + [v["open"]] + a.given for a in live]
            logits = model.logits(run(model, rows, device, mode, [[len(row) - 1] for row in rows])).float().cpu().numpy()
            for a, row in zip(live, logits):
                allowed = a.allowed()
                token = max(allowed, key=lambda t: row[t])
                a.take(token, allowed[token])
        live = [a for a in answers if not a.closed]
        if live:
            rows, places, tails = [], [], []
            for a in live:
                start = a.places[0]
                end = min(next(e for e in sorted(a.ends) if e >= start), start + MAX_TOKENS)
                tail = a.pack.tokens[start:end]
                prefix = a.pack.tokens + [v["open"]] + a.given
                rows.append(prefix + tail)
                places.append(list(range(len(prefix) - 1, len(prefix) + len(tail))))
                tails.append(tail)
            hidden = run(model, rows, device, mode, places)
            used = 0
            for a, tail, place in zip(live, tails, places):
                logits = model.logits(hidden[used:used + len(place)]).float().cpu()
                used += len(place)
                for step, token in enumerate(tail):
                    if len(a.text()) >= MIN_BYTES and logits[step, v["close"]] > logits[step, token]:
                        break
                    a.given.append(token)
        for i, a, o, m, by_mark in zip(numbers, answers, odds, marked, alone):
            place = a.places[0] if a.places else 0
            block = next((n for n, (_, s, e) in enumerate(a.pack.blocks, 1) if s < place <= e or s <= place < e), 0)
            out[i] = (a.text(), block, o, *m, by_mark[0])
    return out


def score(model, vocabulary, reading, folder, name, device, mode="dense", limit=None, keep=None, lexicon=None):
    """A dict of figures over the `dev` or `eval` questions; `keep` picks records by number. With a lexicon the figures
    `marked` are of mark and prior together, and `mark_alone_right` of the mark without it."""
    records, gold = reading.numbers(name), load.gold_answers(folder, name)
    # gold lists follow the records as written, broken ones included
    every = np.nonzero(reading.source == reading.sources.index(name))[0]
    gold = {int(record): answers for record, answers in zip(every, gold)}
    records = [int(r) for r in records if keep is None or keep(int(r))]
    if limit and len(records) > limit:
        records = [records[i * len(records) // limit] for i in range(limit)]
    was = model.training
    model.eval()
    packs = [load.evaluation_pack(vocabulary, reading, record) for record in records]
    priors = [lexicon.of(reading, pack, record) for pack, record in zip(packs, records)] if lexicon else None
    answers = answer_packs(model, vocabulary, reading, packs, device, mode, priors=priors)
    model.train(was)
    hits, size, answerable, odds = 0, [], 0, ([], [])
    marked, marked_size, marks, alone = 0, [], ([], []), 0
    first = 0
    for record, pack, (text, block, odd, sentence, mark, by_mark) in zip(records, packs, answers):
        wanted = gold[record]
        odds[1 if wanted else 0].append(odd)
        marks[1 if wanted else 0].append(mark)
        if not wanted:
            continue
        answerable += 1
        hits += any(answer.lower() in text.lower() for answer in wanted)
        size.append(len(text))
        marked += any(answer.lower() in sentence.lower() for answer in wanted)
        alone += any(answer.lower() in by_mark.lower() for answer in wanted)
        marked_size.append(len(sentence))
        if block and reading.candidates[record][0] == pack.blocks[block - 1][0]:
            first += 1
    percent = lambda count: round(100 * count / max(1, answerable), 1)
    mean = lambda sizes: round(float(np.mean(sizes)) if sizes else 0, 1)
    figures = {"questions": answerable, "right": percent(hits), "bytes": mean(size), "from_best": percent(first),
               "marked_right": percent(marked), "marked_bytes": mean(marked_size)}
    if lexicon:
        figures["mark_alone_right"] = percent(alone)
    for name, (no, yes) in (("", odds), ("marked_", marks)):
        if no and yes:
            figures[name + "abstains_at_15"] = round(100 * float((np.array(no) < np.quantile(yes, 0.15)).mean()), 1)
            figures[name + "none_at_0"] = [round(100 * float((np.array(o) < 0).mean()), 1) for o in (no, yes)]
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True, help="a checkpoint of train.py")
    parser.add_argument("--set", default="dev", choices=("dev", "eval"))
    parser.add_argument("--mode", default="select", choices=("dense", "select"))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--fp8", action="store_true")
    parser.add_argument("--prior", type=int, choices=(0, 1), default=0, help="as the weights were trained")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    Linear.compute = torch.bfloat16 if device == "cuda" else torch.float32
    vocabulary = Vocabulary(os.path.join(args.data, "tokenizer.json"))
    folder = os.path.join(args.data, "reading")
    saved = torch.load(args.weights, map_location="cpu")
    model = Reader(Config(**saved["config"]))
    model.load_state_dict({name: value.float() for name, value in saved["model"].items()})
    model.to(device).set_fp8(args.fp8)
    reading = load.Reading(folder)
    lexicon = Lexicon(vocabulary, reading) if args.prior else None
    print(json.dumps(score(model, vocabulary, reading, folder, args.set, device, args.mode, args.limit,
                           lexicon=lexicon)))


if __name__ == "__main__":
    main()
