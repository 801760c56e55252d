"""A log-odds for every sentence of a pack before any network has read it: how its words meet the question's.

    prior.py --data DATA [--packs 12000]      fits WEIGHTS anew on people's training questions, measures, prints them

The features are those of retrieval/best_sentence.c, of which the engine's rules make their weighted sum, as far as
they can be had from token ids at the loader's speed: words are token runs, lower case, without diacritics, with the
common endings cut off (the engine has Porter's stemmer), and their document frequencies are those of the reading
passages. A word is a number of BITS bits, made of its stem alone, so that shards made by other processes agree without
a common list; two stems of one number are rare (8 words of a question among 400 of a pack: one pack in 650) and do
little harm.

The work is split for speed. Of each pack only the words are looked up, in a table; what follows is done for all packs
of a batch at once, on the words that were found.
"""
import argparse
import os
import re
import unicodedata
import zlib

import numpy as np

BITS = 21
TERMS = 32  # of a question, in its order; later ones are not looked for
COUNT = np.arange(1, TERMS + 1, dtype=np.uint8)
NAMES = ("rank 1", "rank 2", "rank 3", "overlap", "overlap squared", "overlap without title", "function words",
         "previous adds", "next adds", "overlap of passage", "rarest", "pairs", "density", "first", "position",
         "length", "short", "one")
# Made by `prior.py --data DATA`: 12,000 packs of squad, qamr and nq, seed 1.
WEIGHTS = np.array((
    0.723, -0.324, -0.883, 9.523, -1.912, 1.726, 0.923, 2.700, 1.085, -2.906, -0.676, 0.611, -2.470, 0.152, -0.294,
    -2.547, -0.672, -2.330), dtype=np.float32)

# Stemmed, as in retrieval/query.c.
STOP = frozenset(
    "a about after all also an and ani ar as at be been befor but by can could did do doe dure each for from had "
    "ha have he her him hi how i if in into is it list mai me might more most my no not of on or other our out "
    "over pleas s shall she should so some such t tell than that the their them then there these thei thi those "
    "to under us wa we were what when where which while who whom whose why will with would you your".split())


def fold(text):
    return "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))


def stem(word):
    """Steps 1 and 5 of Porter's stemmer, and -ly."""
    vowel = lambda part: re.search("[aeiouy]", part)
    if len(word) < 3:
        return word
    if word.endswith("sses") or word.endswith("ies"):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    if word.endswith("eed"):
        word = word[:-1] if len(word) > 4 else word
    else:
        for ending in ("ed", "ing"):
            if word.endswith(ending) and vowel(word[:-len(ending)]):
                word = word[:-len(ending)]
                if len(word) > 2 and word[-1] == word[-2] and word[-1] not in "aeioulsz":
                    word = word[:-1]
                break
    if word.endswith("ly") and len(word) > 5:
        word = word[:-2]
    if word.endswith("y") and vowel(word[:-1]):
        word = word[:-1] + "i"
    if word.endswith("e") and len(word) > 3:
        word = word[:-1]
    return word


def number_of(text):
    """1 … 2^BITS − 1; 0 is no word."""
    return zlib.crc32(stem(fold(text)).encode()) % ((1 << BITS) - 1) + 1


class Words:
    """Token ids → numbers of words, each at its word's first token, 0 at the others."""
    def __init__(self, vocabulary):
        self.bytes = vocabulary.bytes
        self.space = np.array([token[:1] == b" " for token in self.bytes])
        self.letters = np.zeros(len(self.bytes), dtype=bool)
        self.single = np.zeros(len(self.bytes), dtype=np.uint32)
        for token, value in enumerate(self.bytes):
            text = value.strip().decode("utf-8", "ignore")
            if text.isalnum() or (value.strip() and not text):  # a part of a character is of a letter, mostly
                self.letters[token], self.single[token] = True, number_of(text)
        mixed = np.random.default_rng(1).integers(1, 1 << 63, (64, len(self.bytes)), dtype=np.uint64)
        self.mixed = mixed  # one number for each token at each place of a word: their sum tells words apart

    def of(self, ids, lengths):
        """ids of many texts in one array; no word reaches from one into the next"""
        if not len(ids):
            return np.zeros(0, dtype=np.uint32)
        letters = self.letters[ids]
        begin = self.space[ids]
        begin[1:] |= ~letters[:-1]
        starts = np.concatenate(([0], np.cumsum(lengths.astype(np.int64))))[:-1]
        begin[starts[starts < len(ids)]] = True
        begin &= letters
        out = np.where(begin, self.single[ids], np.uint32(0))
        more = letters & ~begin
        run = more.copy()
        run[:-1] |= more[1:]
        where = np.nonzero(run)[0]  # tokens of words that have several
        if not len(where):
            return out
        first = np.nonzero(begin[where])[0]
        place = np.arange(len(where)) - np.repeat(first, np.diff(np.append(first, len(where))))
        keys = np.add.reduceat(self.mixed[np.minimum(place, 63), ids[where]], first)
        _, example, which = np.unique(keys, return_index=True, return_inverse=True)
        ends = np.append(first[1:], len(where))
        numbers = np.empty(len(example), dtype=np.uint32)
        at = where[first]
        for i, word in enumerate(example.tolist()):
            a = int(at[word])
            value = b"".join([self.bytes[t] for t in ids[a:a + int(ends[word] - first[word])].tolist()])
            numbers[i] = number_of(value.strip().decode("utf-8", "ignore"))
        out[at] = numbers[which]
        return out

    def arrays(self, of):
        """of(name) → array: what a shard keeps of its words, by name."""
        return {name + "_words": self.of(of(name), of(name + "_len")) for name in ("passage", "title", "question")}


class Lexicon:
    """The words of the reading passages with their weights; the features and the prior of packs."""
    def __init__(self, vocabulary, reading, weights=WEIGHTS):
        self.words, self.weights = Words(vocabulary), weights
        self.annotate(reading)
        lengths = reading.passage_len.astype(np.int64)
        said = np.nonzero(reading.passage_words)[0]
        passage = np.repeat(np.arange(len(lengths)), lengths)[said]
        pairs = np.sort(passage << BITS | reading.passage_words[said])
        pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])]
        rows = np.bincount(pairs & ((1 << BITS) - 1), minlength=1 << BITS)
        self.idf = np.log(1 + (len(lengths) - rows + 0.5) / (rows + 0.5)).astype(np.float32)
        self.idf[[zlib.crc32(word.encode()) % ((1 << BITS) - 1) + 1 for word in STOP]] = 0
        self.table = np.zeros(1 << BITS, dtype=np.uint8)

    def annotate(self, reading):
        if not hasattr(reading, "passage_words"):
            for name, array in self.words.arrays(lambda name: getattr(reading, name)).items():
                setattr(reading, name, array)

    def find(self, reading, pack, question):
        """What `features` needs of one pack (load.Pack); question: the numbers of its words."""
        sequence = question[question > 0].tolist()
        terms = {word: number for number, word in enumerate(list(dict.fromkeys(sequence))[:TERMS])}
        terms_ids = np.array(list(terms), dtype=np.int64)
        self.table[terms_ids] = COUNT[:len(terms)]
        passage_at, title_at, title_of = reading.passage_at, reading.title_at, reading.passage_title
        text, title = reading.passage_words, reading.title_words
        pieces, bounds = [], []
        for passage, _ in pack.parts:
            t = title_of.item(passage)
            a, b, c, d = title_at.item(t), title_at.item(t + 1), passage_at.item(passage), passage_at.item(passage + 1)
            pieces += (title[a:b], text[c:d])
            bounds += (b - a, d - c)
        code = self.table.take(np.concatenate(pieces))
        self.table[terms_ids] = 0
        hits = code.nonzero()[0]
        order = [terms.get(word, TERMS - 1) for word in sequence]
        return (self.idf[terms_ids], order, hits, code[hits], bounds, [start for _, start in pack.parts],
                pack.ranks, [reading.sentence_len.item(passage) for passage, _ in pack.parts])

    def features(self, found, places):
        """found, places: of each pack what `find` gave and where its sentences end → one row a sentence, one column a
        feature."""
        count = len(found)
        sentences = np.array([len(p) for p in places])
        place = np.concatenate(places)
        total = len(place)
        parts = np.array([len(f[5]) for f in found])
        part_first = np.cumsum(parts) - parts
        part_start = np.array([start for f in found for start in f[5]], dtype=np.int64)
        part_rank = np.array([rank for f in found for rank in f[6]], dtype=np.int64)
        part_sentences = np.array([number for f in found for number in f[7]], dtype=np.int64)
        row_of = np.repeat(np.arange(count), sentences)
        part_of = np.repeat(np.arange(len(part_start)), part_sentences)
        number_in = np.arange(total) - np.repeat(np.cumsum(part_sentences) - part_sentences, part_sentences)
        # Weights of the terms, by pack.
        width = max(1, max(len(f[0]) for f in found))
        idf = np.zeros((count, width), dtype=np.float32)
        function = np.zeros((count, width), dtype=np.float32)
        for row, f in enumerate(found):
            idf[row, :len(f[0])], function[row, :len(f[0])] = f[0], f[0] == 0
        # Hits: their pack, part, sentence, term.
        hits = np.concatenate([f[2] for f in found])  # places among the words of its pack's titles and passages
        term = np.concatenate([f[3] for f in found]).astype(np.int64) - 1
        row = np.repeat(np.arange(count), [len(f[2]) for f in found])
        bounds = np.concatenate(([0], np.cumsum([bound for f in found for bound in f[4]])))
        base = bounds[2 * part_first] if len(bounds) > 1 else np.zeros(count, dtype=np.int64)
        segment = np.searchsorted(bounds, hits + base[row], side="right") - 1
        part = segment >> 1
        at = hits + base[row] - bounds[segment] + part_start[part]  # token of its pack
        in_title = np.zeros((len(part_start), width), dtype=bool)
        titled = (segment & 1) == 0
        in_title[part[titled], term[titled]] = True
        # The first sentence that ends here or later, of the same part: packs laid end to end, far apart.
        far = np.int64(1) << 32
        sentence = np.searchsorted(place + row_of * far, at + row * far)
        inside = ~titled & (sentence < total)
        inside[inside] = part_of[sentence[inside]] == part[inside]
        sentence, term, at, row = sentence[inside], term[inside], at[inside], row[inside]
        has = np.zeros((total, width), dtype=bool)
        has[sentence, term] = True

        whole = np.maximum(idf.sum(1), 1e-6)
        share = (idf / whole[:, None])[row_of]
        mean = lambda mask, weight: np.einsum("ij,ij->i", mask, weight, dtype=np.float32)
        overlap = mean(has, share)
        same = part_of[1:] == part_of[:-1]
        adds = np.zeros((2, total), dtype=np.float32)
        new = mean(has[:-1] & ~has[1:], share[1:]) * same
        adds[0, 1:] = new
        adds[1, :-1] = mean(has[1:] & ~has[:-1], share[:-1]) * same
        filled = part_sentences > 0
        passage_has = np.zeros((len(part_start), width), dtype=bool)
        passage_has[filled] = np.logical_or.reduceat(has, np.nonzero(number_in == 0)[0], axis=0)
        part_row = np.repeat(np.arange(count), parts)
        part_weight = passage_has * idf[part_row]
        rarest = part_weight.argmax(1)
        any_content = part_weight.max(1) > 0
        body = idf[part_row] * ~in_title
        body /= np.maximum(body.sum(1, keepdims=True), 1e-6)
        function /= np.maximum(function.sum(1, keepdims=True), 1)

        # Pairs of neighbours in the question that are neighbours here, or one word apart.
        asked = np.array([term for f in found for term in f[1][:-1]], dtype=np.int64)
        then = np.array([term for f in found for term in f[1][1:]], dtype=np.int64)
        asking = np.repeat(np.arange(count), [max(0, len(f[1]) - 1) for f in found])
        content = (idf[asking, asked] > 0) | (idf[asking, then] > 0)
        pair = np.zeros((count, width, width), dtype=bool)
        pair[asking, asked, then] = content
        pairs_asked = np.bincount(asking, content, count)
        pairs = np.zeros(total)
        for step in (1, 2):
            a, b = slice(0, -step), slice(step, None)
            near = (sentence[a] == sentence[b]) & (at[b] - at[a] <= 3)
            near[near] = pair[row[a][near], term[a][near], term[b][near]]
            pairs += np.bincount(sentence[a][near], minlength=total)
        pairs = np.minimum(1, pairs / np.maximum(1, pairs_asked)[row_of])

        before = np.empty(total, dtype=np.int64)
        before[1:] = place[:-1]
        opens = number_in == 0
        before[opens] = part_start[part_of[opens]] - 1
        length = (place - before).astype(np.float32)
        rank = part_rank[part_of]
        out = np.empty((total, len(NAMES)), dtype=np.float32)
        of_passage = mean(passage_has, idf[part_row] / whole[part_row, None])
        columns = (rank == 1, rank == 2, rank == 3, overlap, overlap * overlap, mean(has, body[part_of]),
                   mean(has, function[row_of]), adds[0], adds[1], of_passage[part_of],
                   has[np.arange(total), rarest[part_of]] & any_content[part_of], pairs,
                   overlap * 10 / (10 + 0.75 * length),  # four tokens are three words
                   opens, number_in / part_sentences[part_of], np.log(length) / 5, length < 9, 1)
        for number, column in enumerate(columns):
            out[:, number] = column
        return out

    def of(self, reading, pack, record):
        """The prior of one pack that asks a record's question, one number a sentence."""
        at = reading.question_at[record:record + 2]
        found = self.find(reading, pack, reading.question_words[at[0]:at[1]])
        ends = [part for _, _, part in pack.marks(reading)]
        return self.priors([found], [np.concatenate(ends)])[0]

    def priors(self, found, places):
        """One array a pack."""
        if not sum(len(p) for p in places):
            return [np.zeros(0, dtype=np.float32) for _ in places]
        return np.split(self.features(found, places) @ self.weights, np.cumsum([len(p) for p in places])[:-1])


# --- Fitting -------------------------------------------------------------------------------------------------------

PENALTY = 1e-3  # L2, per pack, on standardised features


def fit(x, right, known, packs, steps=30):
    """Weights by Newton's method: cross entropy over a pack's sentences and "none of them", whose score is 0.

    x [sentences, features], right and known [sentences], packs: the pack of each sentence → weights, loss.
    """
    count = int(packs[-1]) + 1
    scale = np.maximum(x.std(0), 1e-6)
    scale[x.std(0) < 1e-6] = 1
    x = (x / scale)[known]
    right, packs = right[known], packs[known]
    answered = np.bincount(packs, right, count) > 0

    def shares(w):
        """Of all and of the right sentences, and the loss."""
        score = x @ w
        top = np.maximum(score.max(), 0)  # of all packs: their scores are alike
        score, none = np.exp(score - top), np.exp(-top)
        every, good = none + np.bincount(packs, score, count), np.bincount(packs, score * right, count)
        loss = -np.log(np.where(answered, good, none) / every + 1e-30).mean() + PENALTY * w @ w
        return score / every[packs], score * right / np.where(answered, good, 1)[packs], loss

    w = np.zeros(x.shape[1])
    p, q, loss = shares(w)
    for _ in range(steps):
        mean = np.stack([np.bincount(packs, p * column, count) for column in x.T], 1)
        gradient = x.T @ (p - q) / count + 2 * PENALTY * w
        hessian = (x.T * p) @ x / count - mean.T @ mean / count + 2 * PENALTY * np.eye(len(w))
        move, size = np.linalg.solve(hessian, gradient), 1.0
        while size > 1e-4 and shares(w - size * move)[2] > loss:
            size /= 2
        w = w - size * move
        p, q, loss = shares(w)
    return w / scale, float(loss)


def measure(vocabulary, reading, folder, lexicon, name):
    """(percentage of answerable questions whose sentence of the highest prior holds an answer, how many)"""
    import evaluate
    import load
    gold = load.gold_answers(folder, name)
    every = np.nonzero(reading.source == reading.sources.index(name))[0]
    hits = []
    for record, answers in zip(every, gold):
        if answers and reading.keep[record]:
            pack = load.evaluation_pack(vocabulary, reading, record)
            text, _ = evaluate.best_marked(vocabulary, reading, pack, lexicon.of(reading, pack, record))
            hits.append(any(answer.lower() in text.lower() for answer in answers))
    return 100 * float(np.mean(hits)), len(hits)


def main():
    import load
    from prompt import Vocabulary
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--packs", type=int, default=12000)
    parser.add_argument("--sources", default="squad,qamr,nq")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    vocabulary = Vocabulary(os.path.join(args.data, "tokenizer.json"))
    folder = os.path.join(args.data, "reading")
    reading = load.Reading(folder)
    lexicon = Lexicon(vocabulary, reading)
    print("as it is: %.1f%% of %d development questions" % measure(vocabulary, reading, folder, lexicon, "dev"))
    load.Packer.MIX = {source: load.Packer.MIX[source] for source in args.sources.split(",")}
    packer = load.Packer(vocabulary, reading, args.seed, lexicon=lexicon)
    found, places, labels = [], [], []
    while len(found) < args.packs:
        drawn = packer.draw(1024)
        if drawn and drawn[3][0] == load.MARK_ONE:
            places.append(drawn[3][1])
            labels.append(drawn[3][2])
            found.append(drawn[3][5])
    x = np.concatenate([lexicon.features(found[at:at + 64], places[at:at + 64]) for at in range(0, len(found), 64)])
    label = np.concatenate(labels)
    pack_of = np.repeat(np.arange(len(found)), [len(p) for p in places])
    weights, loss = fit(x, (label == 1).astype(float), label >= 0, pack_of)
    print("loss %.4f" % loss)
    for name, weight in zip(NAMES, weights):
        print("%-24s %8.3f" % (name, weight))
    lexicon.weights = weights.astype(np.float32)
    print("fitted: %.1f%% of %d development questions" % measure(vocabulary, reading, folder, lexicon, "dev"))
    print("WEIGHTS = (" + ", ".join("%.3f" % weight for weight in weights) + ")")


if __name__ == "__main__":
    main()
