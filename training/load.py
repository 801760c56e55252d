"""Batches: rows of text for pre-training, packs of passages with a question for reading.

A batch has a fixed number of tokens in all; its rows are as long as the phase asks (512 … 8192). Packs are put together
anew each time: how many passages, in which order, with or without ranks, with the gold passage left out or not.
"""
import glob
import json
import lzma
import os
import threading
import time

import numpy as np
import torch

from prompt import Vocabulary

QUOTES = 3
ANSWER_WEIGHT, DECISION_WEIGHT, START_WEIGHT = 1.0, 2.0, 3.0
SHARPNESS = 0.7  # the teacher's scores are multiplied by this before they become shares
IGNORED = -1
NOT_MARKED, MARK_ONE, MARK_EACH = 0, 1, 2  # of a row: no marks to learn; one sentence, or none, is right; any may be


class Reading:
    """The arrays of DATA/reading (see prepare_reading.py)."""
    def __init__(self, folder):
        with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
            manifest = json.load(file)
        for name, what in manifest["arrays"].items():
            with lzma.open(os.path.join(folder, name + ".xz")) as file:
                array = np.frombuffer(file.read(), dtype=what["dtype"]).reshape(what["shape"])
            setattr(self, name, array)
        self.sources = manifest["sources"]
        self.add_up()

    @classmethod
    def from_shard(cls, path):
        """The same arrays from one file of grow.py."""
        self = cls.__new__(cls)
        with np.load(path) as arrays:
            for name in arrays.files:
                setattr(self, name, arrays[name])
        self.sources = self.sources.tolist()
        self.add_up()
        return self

    def add_up(self):
        for name in ("passage", "question", "title", "sentence"):
            lengths = getattr(self, name + "_len").astype(np.int64)
            setattr(self, name + "_at", np.concatenate(([0], np.cumsum(lengths))))

    def tokens(self, name, number):
        at = getattr(self, name + "_at")
        return getattr(self, name)[at[number]:at[number + 1]]

    def numbers(self, source):
        """The records of one source that are whole."""
        if source not in self.sources:
            return np.zeros(0, dtype=np.int64)
        return np.nonzero((self.source == self.sources.index(source)) & (self.keep > 0))[0]


class Labels:
    """What the teacher says of the records of one shard (teacher.py): scores of the sentences of some passages."""
    def __init__(self, path, reading):
        with np.load(path) as arrays:
            self.slots, self.at, self.scores = arrays["slots"], arrays["at"], arrays["scores"]
        self.count = reading.sentence_len.astype(np.int64)
        self.records = np.nonzero((self.slots[:, 0] >= 0) & (reading.keep > 0))[0]

    def of(self, record):
        """passage → scores; empty where the record has no labels"""
        out, at = {}, int(self.at[record])
        for passage in self.slots[record]:
            if passage < 0:
                break
            out[int(passage)] = self.scores[at:at + self.count[passage]].astype(np.float32) * SHARPNESS
            at += self.count[passage]
        return out


def gold_answers(folder, name):
    with lzma.open(os.path.join(folder, name + ".json.xz"), "rt", encoding="utf-8") as file:
        return json.load(file)


class Pack:
    """One prompt; `blocks` holds (passage, start, end): where each block's text lies in `tokens`; `parts` the same for
    each passage, neighbours in one block apart, and `ranks` their blocks' ranks."""
    __slots__ = ("tokens", "blocks", "parts", "starts", "ranks")

    def marks(self, reading):
        """For each passage: where its sentences end in `tokens`, the place of each one's last token."""
        return [(passage, start, start + reading.tokens("sentence", passage).astype(np.int64))
                for passage, start in self.parts]


def build(vocabulary, reading, question, passages, ranks, summarise=False):
    """passages in order of appearance, a tuple standing for neighbours in one block; ranks: 1 … 9, 0 for none."""
    v = vocabulary
    ask = [v["summarise"]] if summarise else [v["question"], *question.tolist()]
    out, blocks, starts, places, rank_of = list(ask), [], [], [], []
    for number, (passage, rank) in enumerate(zip(passages, ranks), 1):
        starts.append(len(out))
        out.append(v["doc"])
        out += v.number[number]
        if rank:
            out.append(v["rank%d" % min(rank, 9)])
        out.append(v["title"])
        parts = passage if isinstance(passage, tuple) else (passage,)
        out += reading.tokens("title", reading.passage_title[parts[0]]).tolist()
        out.append(v["text"])
        text = []
        for part in parts:
            text += [v.newline] if text else []
            places.append((int(part), len(out) + len(text)))
            rank_of.append(rank)
            text += reading.tokens("passage", part).tolist()
        blocks.append((int(parts[0]), len(out), len(out) + len(text)))
        out += text
    starts.append(len(out))
    out += ask
    out.append(v["answer"])
    pack = Pack()
    pack.tokens, pack.blocks, pack.parts, pack.starts, pack.ranks = out, blocks, places, starts, rank_of
    return pack


def document_order(reading, passages):
    """By document, in document order inside, the document of the best passage last. passages: best first."""
    titles = {}
    for passage in passages:
        titles.setdefault(int(reading.passage_title[passage]), []).append(int(passage))
    return [p for group in reversed(list(titles.values())) for p in sorted(group)]


def evaluation_pack(vocabulary, reading, record, count=5):
    """As the daemon packs: the best passages of the whole set."""
    best = [int(p) for p in reading.candidates[record] if p >= 0][:count]
    rank = {p: place + 1 for place, p in enumerate(best)}
    ordered = document_order(reading, best)
    return build(vocabulary, reading, reading.tokens("question", record), ordered, [rank[p] for p in ordered])


class Shard:
    """Records with what training needs of them: numbers by source, passages to fill packs with, labels once there are."""
    def __init__(self, reading):
        self.reading, self.labels = reading, None
        held_out = set()
        for source in ("dev", "eval"):
            if source in reading.sources:
                for row in reading.candidates[reading.source == reading.sources.index(source)]:
                    held_out.update(int(p) for p in row if p >= 0)
        pool = np.ones(len(reading.passage_len), dtype=bool)
        pool[list(held_out)] = False
        self.pool = np.nonzero(pool & (reading.passage_len > 20) & (reading.passage_len < 500))[0]


def cumulated(weights):
    """To draw by: as Generator.choice draws, the same numbers for the same seed, but summed up only once."""
    sums = np.cumsum(np.array(weights) / sum(weights))
    return sums / sums[-1]


class Packer:
    """Random training packs from the first shard and those that appear in `more` (grow.py), with the teacher's labels
    where they have appeared."""
    MIX = {"squad": 0.17, "qamr": 0.16, "nq": 0.06, "medquad": 0.03, "enwiki": 0.38, "needle": 0.03, "summary": 0.03,
           "pubmedqa": 0.02, "without": 0.12}
    LABELLED = 6  # how much more often a record by rule is drawn from a shard with labels

    def __init__(self, vocabulary, reading, seed, more=None, lexicon=None):
        self.v, self.more, self.looked, self.lexicon = vocabulary, more, 0.0, lexicon
        self.random = np.random.default_rng(seed)
        self.shards = {"reading": Shard(reading)}
        self.starts_word = np.array([token[:1] == b" " for token in vocabulary.bytes])
        self.count_up()

    def count_up(self):
        """How often which source, and in it which shard, is drawn."""
        self.records = {}
        for source in self.MIX:
            for shard in self.shards.values():
                if source == "without":  # only a teacher knows what is right
                    if not shard.labels:
                        continue
                numbers = shard.reading.numbers(source)
                if source == "without":
                    numbers = np.intersect1d(numbers, shard.labels.records)
                if len(numbers):
                    labelled = shard.labels is not None and source == "enwiki" and shard.labels.slots[numbers[0], 0] >= 0
                    self.records.setdefault(source, []).append((shard, numbers, len(numbers) * (
                        self.LABELLED if labelled else 1)))
        self.sources = list(self.records)
        self.share = cumulated([self.MIX[source] for source in self.sources])
        self.weights = {source: cumulated([entry[2] for entry in entries]) for source, entries in self.records.items()}

    def look(self):
        if not self.more or time.time() - self.looked < 10:
            return
        self.looked, changed = time.time(), False
        for path in sorted(glob.glob(os.path.join(self.more, "shard-*.npz"))):
            name = os.path.basename(path)[:-4]
            if name not in self.shards:
                self.shards[name] = Shard(Reading.from_shard(path))
                if self.lexicon:
                    self.lexicon.annotate(self.shards[name].reading)
                changed = True
                break  # one at a time: the batches must not wait
        for name, shard in self.shards.items():
            path = os.path.join(self.more, "labels-%s.npz" % name)
            if shard.labels is None and os.path.exists(path):
                shard.labels = Labels(path, shard.reading)
                changed = True
        if changed:
            self.count_up()
            self.looked -= 9

    def thinned(self, question):
        """Which tokens stay: now and then some words of the question are left out, others each time, not the first."""
        r = self.random
        if r.random() > 0.4 or len(question) < 8:
            return slice(None)
        word = np.cumsum(self.starts_word[question])
        out = r.random(word[-1] + 1) < r.uniform(0.05, 0.25)
        out[:2] = False
        return ~out[word]

    def draw(self, length):
        """(tokens, weights, positions, marks, source) of one pack that fits `length`, or None when it did not fit; the
        last of the marks is what their prior is made of (prior.py)."""
        self.look()
        r = self.random
        source = self.sources[self.share.searchsorted(r.random(), side="right")]
        shard, numbers, _ = self.records[source][self.weights[source].searchsorted(r.random(), side="right")]
        self.reading, self.pool = shard.reading, shard.pool
        reading = self.reading
        record = int(numbers[r.integers(len(numbers))])
        taught = shard.labels.of(record) if shard.labels else {}
        summarise = bool(reading.summarise[record])
        gold = [tuple(int(x) for x in g) for g in reading.gold[record] if g[0] >= 0]
        row = reading.candidates[record]
        candidates = [(int(p), place + 1, bool(reading.holds[record] >> place & 1))
                      for place, p in enumerate(row) if p >= 0]
        listed = {c[0] for c in candidates}
        gold = [g for g in gold if g[0] in listed]
        question = reading.tokens("question", record)
        stays = self.thinned(question)
        question = question[stays]
        reserve = 2 * len(question) + 12 + sum(g[2] - g[1] + 6 for g in gold)
        room = length - reserve
        if summarise:
            chosen = candidates
        else:
            want = int(r.choice((3, 4, 5, 5, 5, 6, 7, 8))) if length > 600 else int(r.choice((1, 2, 3, 3)))
            if length > 1100:
                want = int(r.integers(5, 13))
            if gold and r.random() < 0.16:
                gold_out = {g[0] for g in gold}
                candidates = [c for c in candidates if not c[2] and c[0] not in gold_out]
                gold = []
            chosen = candidates[:want]
            missing = [c for c in candidates if c[0] in {g[0] for g in gold} and c not in chosen]
            if missing:
                if r.random() < 0.9:
                    chosen = chosen[:max(0, want - len(missing))] + missing
                else:
                    gold = [g for g in gold if g[0] in {c[0] for c in chosen}]
        # What does not fit goes, from the worst rank up, gold passages last of all.
        keep = {g[0] for g in gold}
        cost = lambda p: int(reading.passage_len[p]) + int(reading.title_len[reading.passage_title[p]]) + 8
        used = sum(cost(c[0]) for c in chosen)
        for c in sorted(chosen, key=lambda c: (c[0] in keep, -c[1])):
            if used <= room:
                break
            if c[0] in keep or summarise:
                return None
            chosen = [other for other in chosen if other is not c]
            used -= cost(c[0])
        if not chosen:
            return None
        ranked = {c[0]: c[1] for c in chosen}
        gold = [g for g in gold if g[0] in ranked]
        order = [c[0] for c in sorted(chosen, key=lambda c: c[1])]
        extra = 0
        fill = 0.93 if length > 1100 else (0.5 if r.random() < 0.15 else 0.0)
        while not summarise and used < room * fill and extra < 200:
            passage = int(self.pool[r.integers(len(self.pool))])
            extra += 1
            if passage in ranked or used + cost(passage) > room:
                continue
            ranked[passage] = 9
            order.append(passage)
            used += cost(passage)
        way = r.random()
        if summarise:
            order = [c[0] for c in chosen]
        elif way < 0.6:
            order = document_order(reading, order)
        elif way < 0.85:
            r.shuffle(order)
        else:
            order = order[::-1]
        with_ranks = not summarise and r.random() < 0.88
        order = self.merged(order)
        best = lambda p: min(ranked[part] for part in p) if isinstance(p, tuple) else ranked[p]
        pack = build(self.v, reading, question, order, [best(p) if with_ranks else 0 for p in order], summarise)
        unsure = {c[0] for c in chosen if c[2]} - {g[0] for g in gold}
        marks = self.marks(pack, gold, unsure, summarise, taught)
        answer, weights = self.answer(order, gold)
        if source == "without":
            answer, weights = self.taught_answer(order, taught, float(marks[4]))
        tokens = pack.tokens + answer
        if len(tokens) > length + 1:
            return None
        weight = np.zeros(len(tokens) - 1, dtype=np.float32)
        weight[len(pack.tokens) - 1:] = weights
        if source == "without":
            marks = (NOT_MARKED, *marks[1:])
        found = None
        if self.lexicon and not summarise:
            at = reading.question_at[record:record + 2]
            found = self.lexicon.find(reading, pack, reading.question_words[at[0]:at[1]][stays])
        marks = (*marks, found)
        return (tokens, weight, self.positions(pack, len(tokens) - 1, length), marks,
                list(self.MIX).index(source))

    def marks(self, pack, gold, unsure, summarise, taught):
        """(kind, places, labels, shares, none): labels are 1 for a sentence to quote, 0 for another, IGNORED where nobody
        knows (a passage that holds the answer's words somewhere, a sentence inside a longer quotation). Shares are the
        teacher's, `none` that of no sentence; −1 for a sentence of which nothing is known, and for `none` without labels."""
        places, labels, scores = [], [], []
        for passage, start, ends in pack.marks(self.reading):
            label = np.full(len(ends), IGNORED if passage in unsure else 0, dtype=np.int8)
            for _, first, last in (g for g in gold if g[0] == passage):
                label[(ends >= start + first) & (ends < start + last - 1)] = IGNORED
                which = int(np.searchsorted(ends, start + last - 1))
                if which < len(ends):
                    label[which] = 1
            places.append(ends)
            labels.append(label)
            # A passage that the teacher was not asked about is not a candidate of note: nothing to quote there, unless
            # it may hold the answer.
            scores.append(taught.get(passage, np.where(label == IGNORED, np.nan, -30.0).astype(np.float32)))
        places, labels, scores = np.concatenate(places), np.concatenate(labels), np.concatenate(scores)
        shares, none = np.full(len(places), -1, dtype=np.float32), -1.0
        if taught and not summarise and any(passage in taught for passage, _, _ in pack.marks(self.reading)):
            known = ~np.isnan(scores)
            top = max(0.0, float(scores[known].max()) if known.any() else 0.0)
            each = np.exp(scores[known] - top)
            none = float(np.exp(-top) / (each.sum() + np.exp(-top)))
            shares[known] = each / (each.sum() + np.exp(-top))
        if not len(places) or (not summarise and not gold and unsure) or (gold and not (labels == 1).any()):
            return NOT_MARKED, places, labels, shares, none
        return MARK_EACH if summarise else MARK_ONE, places, labels, shares, none

    def taught_answer(self, order, taught, none):
        """The sentence that the teacher finds best, where it is sure of one; nothing, where it is sure of that; else no
        lesson (every weight 0)."""
        v, best = self.v, None
        place = {part: number for number, p in enumerate(order, 1) for part in (p if isinstance(p, tuple) else (p,))}
        for passage, scores in taught.items():
            if passage in place and len(scores) and (best is None or scores.max() > best[0]):
                best = (float(scores.max()), passage, int(scores.argmax()))
        if none > 0.6 or best is None:
            return [v["none"], v["end"]], [DECISION_WEIGHT * (none > 0.6)] * 2
        ends = self.reading.tokens("sentence", best[1]).astype(np.int64)
        span = (best[1], int(ends[best[2] - 1] + 1 if best[2] else 0), int(ends[best[2]] + 1))
        tokens, weights = self.answer(order, [span])
        return tokens, weights if none < 0.3 else [0.0] * len(weights)

    def merged(self, order):
        """Some neighbours of one article become one block, as packing merges them."""
        out, titles = [], self.reading.passage_title
        for passage in order:
            before = (out[-1] if isinstance(out[-1], tuple) else (out[-1],)) if out else None
            if before and before[-1] + 1 == passage and titles[before[-1]] == titles[passage] and self.random.random() < 0.4:
                out[-1] = (*before, passage)
            else:
                out.append(passage)
        return out

    def answer(self, order, gold):
        v = self.v
        if not gold:
            return [v["none"], v["end"]], [DECISION_WEIGHT, ANSWER_WEIGHT]
        place = {part: number for number, p in enumerate(order, 1) for part in (p if isinstance(p, tuple) else (p,))}
        tokens, weights = [], []
        for passage, start, end in sorted(gold, key=lambda g: (place[g[0]], g[1])):
            quoted = self.reading.tokens("passage", passage)[start:end].tolist()
            name = v.number[place[passage]]
            tokens += [v["open"], *quoted, v["close"], *name]
            weights += [DECISION_WEIGHT, *([START_WEIGHT] * min(4, len(quoted))),
                        *([0.3] * max(0, len(quoted) - 4)), ANSWER_WEIGHT, *([0.5] * len(name))]
        return tokens + [v["end"]], weights + [0.5]

    def positions(self, pack, count, length):
        """Usually 0, 1, 2, …; sometimes with gaps between blocks, so that far distances are seen in short packs."""
        positions = np.arange(count)
        r = self.random
        if r.random() < 0.2:
            top = int(r.choice((4096, 8192, 16384, 32000)))
            spare = top - length
            if spare > 0:
                cuts = np.sort(r.integers(0, spare, len(pack.starts)))
                shift = np.zeros(count, dtype=np.int64)
                for start, cut in zip(pack.starts, cuts):
                    shift[start:] = cut
                positions = positions + shift
        return positions


class Texts:
    """Chunks of pre-training tokens; those that arrive later (unpacked by Unpacker) are picked up."""
    def __init__(self, folder, seed):
        self.folder, self.random = folder, np.random.default_rng(seed)
        self.chunks, self.looked = [], 0

    def look(self):
        if time.time() - self.looked > 10 or not self.chunks:
            self.looked = time.time()
            paths = sorted(glob.glob(os.path.join(self.folder, "*.bin")))
            if len(paths) != len(self.chunks):
                self.chunks = [np.memmap(path, dtype="<u2", mode="r") for path in paths]

    def draw(self, length):
        self.look()
        chunk = self.chunks[self.random.integers(len(self.chunks))]
        at = int(self.random.integers(0, len(chunk) - length - 1))
        return chunk[at:at + length + 1]


class Unpacker(threading.Thread):
    """Turns text-*.xz that appear in any of `folders` into text-*.bin in `out`."""
    def __init__(self, folders, out):
        super().__init__(daemon=True)
        self.folders, self.out, self.done = folders, out, set()

    def once(self):
        for folder in self.folders:
            for path in sorted(glob.glob(os.path.join(folder, "text-*.xz"))):
                name = os.path.basename(path)
                target = os.path.join(self.out, name[:-3] + ".bin")
                if name in self.done or os.path.exists(target):
                    self.done.add(name)
                    continue
                try:
                    with lzma.open(path) as file:
                        data = file.read()
                except (lzma.LZMAError, EOFError, OSError):
                    continue  # still being copied; tried again
                with open(target + ".part", "wb") as file:
                    file.write(data)
                os.rename(target + ".part", target)
                self.done.add(name)

    def run(self):
        while True:
            self.once()
            time.sleep(3)


class Batches(torch.utils.data.IterableDataset):
    """Endless batches; `plan` is a shared array [share of reading, then one weight per length]."""
    LENGTHS = (512, 1024, 2048, 4096, 8192)

    def __init__(self, vocabulary, reading, text_folder, tokens, plan, seed, more=None, lexicon=None):
        self.v, self.reading, self.text_folder, self.more = vocabulary, reading, text_folder, more
        self.lexicon, self.total, self.plan, self.seed = lexicon, tokens, plan, seed

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        seed = self.seed * 1000 + (info.id if info else 0)
        torch.set_num_threads(1)
        rng = np.random.default_rng(seed)
        packer = Packer(self.v, self.reading, seed + 1, self.more, self.lexicon)
        texts = Texts(self.text_folder, seed + 2)
        while True:
            plan = np.array(self.plan[:])
            reading = rng.random() < plan[0]
            weights = (plan[1:6] if reading else plan[6:11]) * (np.array(self.LENGTHS) <= max(self.total, 1024))
            length = self.LENGTHS[rng.choice(5, p=weights / weights.sum())]
            rows = max(1, self.total // length)
            tokens = np.full((rows, length), self.v["pad"], dtype=np.int32)
            targets = np.zeros((rows, length), dtype=np.int32)
            weight = np.zeros((rows, length), dtype=np.float32)
            positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
            real = np.zeros((rows, length), dtype=np.uint8)
            marks = []
            for row in range(rows):
                if reading:
                    drawn = None
                    while drawn is None:
                        drawn = packer.draw(length)
                    ids, w, p, mark, source = drawn
                    marks.append((*mark, source, row * length))
                    count = len(ids) - 1
                    tokens[row, :count], targets[row, :count] = ids[:-1], ids[1:]
                    weight[row, :count], positions[row, :count], real[row, :count] = w, p, 1
                else:
                    ids = texts.draw(length)
                    tokens[row], targets[row], weight[row], real[row] = ids[:-1], ids[1:], 1, 1
            yield {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets),
                   "weights": torch.from_numpy(weight), "positions": torch.from_numpy(positions),
                   "real": torch.from_numpy(real), "reading": reading, **(self.matrices(marks) if reading else {})}

    def matrices(self, marks):
        """One row a pack, as wide as the one with most sentences: where they end in the batch, their labels, shares
        and, with a lexicon, priors (0 in packs to summarise)."""
        width = max(1, max(len(mark[1]) for mark in marks))
        place = np.zeros((len(marks), width), dtype=np.int64)
        label = np.full((len(marks), width), IGNORED, dtype=np.int8)
        share = np.full((len(marks), width), -1, dtype=np.float32)
        for row, (_, places, labels, shares, _, _, _, start) in enumerate(marks):
            count = len(places)
            place[row, :count], label[row, :count], share[row, :count] = places + start, labels, shares
        before = {}
        if self.lexicon:
            prior = np.zeros((len(marks), width), dtype=np.float32)
            asked = [row for row, mark in enumerate(marks) if mark[5]]
            for row, each in zip(asked, self.lexicon.priors([marks[row][5] for row in asked],
                                                            [marks[row][1] for row in asked])):
                prior[row, :len(each)] = each
            before["mark_prior"] = torch.from_numpy(prior)
        return {**before, "mark_place": torch.from_numpy(place), "mark_label": torch.from_numpy(label),
                "mark_kind": torch.tensor([mark[0] for mark in marks], dtype=torch.int8),
                "mark_share": torch.from_numpy(share), "mark_none": torch.tensor([float(mark[4]) for mark in marks]),
                "mark_source": torch.tensor([mark[6] for mark in marks])}
