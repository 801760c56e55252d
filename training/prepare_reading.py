"""Reading records: a question, candidate passages in retrieval order, and the sentence to quote.

Questions come from the training records (SQuAD, QAMR, NQ, QED, CLAPnq, QuoteSum, PubMedQA, MedQuAD) and, most of them,
from the encyclopedia by rule (questions.py). Candidates come from BM25: FTS5 over the set a record belongs to, or, for
the encyclopedia, over the article's own passages. Some SQuAD articles are held out whole as the development set.

Files (all xz, little-endian): see ARRAYS. Written to DATA/reading/; load.py reads them.
"""
import argparse
import collections
import itertools
import json
import lzma
import math
import os
import random
import re
import sqlite3

import numpy as np
from tokenizers import Tokenizer

import prompt
import questions
import sentences
from prepare_text import FILTERS, is_reading_article, texts

CANDIDATES = 12
QUOTES = 3
SOURCES = ["squad", "qamr", "nq", "medquad", "enwiki", "needle", "summary", "pubmedqa", "dev", "dev-enwiki", "eval",
           "without"]
DEV_TITLES = {"Kenya", "Normans", "Oxygen", "Doctor Who"}
STOP = questions.STOP


def sentence_ends(text, lengths):
    """The numbers of the tokens that hold the last byte of each sentence; lengths: bytes of each token of `text`."""
    ends, after, size, place = np.cumsum(lengths), 0, 0, 0
    out = []
    for _, end in sentences.split(text):
        size += len(text[place:end].encode())
        place = end
        after = int(np.searchsorted(ends, size))
        if after < len(ends) and (not out or after > out[-1]):
            out.append(after)
    return out


def stem(word):
    for suffix in ("ings", "ing", "edly", "ed", "ies", "es", "s", "ly"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[:-len(suffix)]
    return word


def terms(text):
    return [stem(word) for word in re.findall(r"\w+", text.lower()) if word not in STOP]


class Bm25:
    """BM25 over a small set of texts (an article's passages, the sentences of QAMR)."""
    def __init__(self, bodies):
        self.postings = collections.defaultdict(list)
        lengths = []
        for number, body in enumerate(bodies):
            found = collections.Counter(terms(body))
            lengths.append(sum(found.values()))
            for term, count in found.items():
                self.postings[term].append((number, count))
        mean = sum(lengths) / max(1, len(lengths))
        self.norm = [1.2 * (0.25 + 0.75 * length / mean) for length in lengths]
        self.count = len(bodies)

    def rank(self, question, limit):
        scores = collections.defaultdict(float)
        for term in set(terms(question)):
            posting = self.postings.get(term)
            if posting:
                idf = math.log(1 + (self.count - len(posting) + 0.5) / (len(posting) + 0.5))
                for number, count in posting:
                    scores[number] += idf * count * 2.2 / (count + self.norm[number])
        return sorted(scores, key=lambda n: (-scores[n], n))[:limit]


class Fts:
    """FTS5 over (title, text), as retrieval does it: quoted terms, OR, bm25 with title weight 2."""
    def __init__(self, items):
        self.db = sqlite3.connect(":memory:")
        self.db.execute("CREATE VIRTUAL TABLE t USING fts5(title, body, tokenize='porter unicode61 remove_diacritics 2')")
        self.db.executemany("INSERT INTO t(rowid, title, body) VALUES (?, ?, ?)",
                            [(i, title, body) for i, (title, body) in enumerate(items)])

    def rank(self, question, limit):
        words = re.findall(r"\w+", question.lower())
        words = [w for w in words if w not in STOP] or words
        if not words:
            return []
        query = " OR ".join('"%s"' % w for w in dict.fromkeys(words))
        return [row[0] for row in self.db.execute(
            "SELECT rowid FROM t WHERE t MATCH ? ORDER BY bm25(t, 2.0, 1.0), rowid LIMIT ?", (query, limit))]


def tidy(text):
    """Undo the spaces that tokenised sources put before punctuation."""
    text = re.sub(r" ([,.;:?!%)\]’])", r"\1", text)
    text = re.sub(r"([(\[]) ", r"\1", text)
    text = re.sub(r" ('s|n't|'re|'ve|'ll)\b", r"\1", text)
    text = text.replace(" - - ", " – ").replace(" -- ", " – ").replace("`` ", '"').replace(" ''", '"')
    return re.sub(r"(\w) - (\w)", r"\1-\2", re.sub(r"[ \t]+", " ", text)).strip()


class Writer:
    def __init__(self, tokenizer, bytes_of):
        self.tokenizer, self.bytes = tokenizer, bytes_of
        self.passage_text, self.passage_title, self.titles = [], [], {}
        self.records = []

    def passage(self, title, text):
        self.passage_text.append(text)
        self.passage_title.append(self.titles.setdefault(title, len(self.titles)))
        return len(self.passage_text) - 1

    def record(self, source, question, ranked, gold, answers=(), summarise=False):
        """ranked: passage numbers, best first; gold: [(passage, start, end)] in characters, [] when unanswerable."""
        self.records.append((source, question, list(ranked)[:CANDIDATES], gold[:QUOTES], list(answers), summarise))

    def arrays(self):
        encode = lambda items: [e for at in range(0, len(items), 4096)
                                for e in self.tokenizer.encode_batch(items[at:at + 4096], add_special_tokens=False)]
        arrays = {}

        def flat(name, lists):
            arrays[name] = np.array([i for ids in lists for i in ids], dtype="<u2")
            arrays[name + "_len"] = np.array([len(ids) for ids in lists], dtype="<u2")

        flat("title", [e.ids for e in encode(list(self.titles))])
        flat("question", [e.ids for e in encode([r[1] for r in self.records])])
        wanted = collections.defaultdict(list)
        for number, record in enumerate(self.records):
            for slot, (passage, start, end) in enumerate(record[3]):
                wanted[passage].append((number, slot, start, end))
        gold = np.full((len(self.records), QUOTES, 3), -1, dtype="<i4")
        ids, lengths, ends = [], [], []
        size = [len(token) for token in self.bytes]
        for at in range(0, len(self.passage_text), 4096):
            for offset, encoding in enumerate(encode(self.passage_text[at:at + 4096])):
                number = at + offset
                ids.append(np.array(encoding.ids, dtype="<u2"))
                lengths.append(len(encoding.ids))
                ends.append(sentence_ends(self.passage_text[number], [size[i] for i in encoding.ids]))
                if number not in wanted:
                    continue
                text, spans = self.passage_text[number], encoding.offsets
                for record, slot, start, end in wanted[number]:
                    first = next((i for i, (a, b) in enumerate(spans) if b > start), None)
                    last = next((i for i in range(len(spans) - 1, -1, -1) if spans[i][0] < end), None)
                    if first is None or last is None or last < first:
                        continue
                    before, after = text[spans[first][0]:start], text[end:spans[last][1]]
                    if len(before) > 1 or before.strip() or after.strip():
                        continue
                    gold[record, slot] = number, first, last + 1
        arrays["passage"] = np.concatenate(ids)
        arrays["passage_len"] = np.array(lengths, dtype="<u2")
        flat("sentence", ends)
        arrays["passage_title"] = np.array(self.passage_title, dtype="<i4")
        lowered = {}
        ranked = np.full((len(self.records), CANDIDATES), -1, dtype="<i4")
        holds = np.zeros(len(self.records), dtype="<u2")
        keep = np.ones(len(self.records), dtype=bool)
        for number, (source, _, candidates, quotes, answers, _) in enumerate(self.records):
            ranked[number, :len(candidates)] = candidates
            gold_passages = {quote[0] for quote in quotes}
            for place, passage in enumerate(candidates):
                if passage in gold_passages:
                    holds[number] |= 1 << place
                elif answers:
                    if passage not in lowered:
                        lowered[passage] = self.passage_text[passage].lower()
                    if any(answer.lower() in lowered[passage] for answer in answers):
                        holds[number] |= 1 << place
            if quotes and (gold[number, :len(quotes), 0] < 0).any():
                keep[number] = False
        arrays["candidates"], arrays["holds"], arrays["gold"] = ranked, holds, gold
        arrays["source"] = np.array([SOURCES.index(r[0]) for r in self.records], dtype="u1")
        arrays["summarise"] = np.array([r[5] for r in self.records], dtype="u1")
        arrays["keep"] = keep.astype("u1")
        return arrays

    def finish(self, folder):
        os.makedirs(folder, exist_ok=True)
        arrays, manifest = self.arrays(), {}
        keep = arrays["keep"] > 0
        for name, array in arrays.items():
            manifest[name] = {"dtype": array.dtype.str, "shape": list(array.shape)}
            with lzma.open(os.path.join(folder, name + ".xz"), "wb", format=lzma.FORMAT_XZ, filters=FILTERS) as file:
                file.write(array.tobytes())
        with open(os.path.join(folder, "manifest.json"), "w", encoding="utf-8") as file:
            json.dump({"sources": SOURCES, "arrays": manifest}, file, indent=1)
        print({SOURCES[s]: (int(((arrays["source"] == s) & keep).sum()), int((arrays["source"] == s).sum()))
               for s in range(len(SOURCES))})
        print(len(self.passage_text), "passages,", len(arrays["passage"]), "tokens")


def find_sentence(text, answers, quote=None):
    """(start, end) of the sentence that holds an answer: the one most annotators' answers fall into."""
    edges = sentences.split(text)
    if quote:
        for probe in (quote, quote[:60], quote[:30]):
            at = text.find(probe)
            if at >= 0:
                return next(((a, b) for a, b in edges if a <= at < b), None)
    votes = collections.Counter()
    for answer in answers:
        hits = [edge for edge in edges if answer and answer in text[edge[0]:edge[1]]]
        for edge in hits[:3]:
            votes[edge] += len(answer) if len(hits) == 1 else len(answer) / (2 * len(hits))
    return votes.most_common(1)[0][0] if votes else None


def best_sentence(text, question, answers):
    """As find_sentence; among several sentences that hold an answer, the one that shares most words with the question."""
    asked = set(terms(question))
    best = None
    for edge in sentences.split(text):
        body = text[edge[0]:edge[1]]
        count = sum(answer in body for answer in answers)
        if count:
            score = len(asked & set(terms(body))) + 0.5 * count
            if best is None or score > best[0]:
                best = (score, edge)
    return best and best[1]


def add_squad(writer, records, source):
    numbers, items = {}, []
    for record in records:
        passage = record["passages"][0]
        if passage["text"] not in numbers:
            numbers[passage["text"]] = writer.passage(passage["title"], passage["text"])
            items.append((passage["title"], passage["text"], numbers[passage["text"]]))
    fts = Fts([(title, text) for title, text, _ in items])
    for record in records:
        text = record["passages"][0]["text"]
        ranked = [items[row][2] for row in fts.rank(record["question"], CANDIDATES)]
        gold = []
        if record["answerable"]:
            edge = best_sentence(text, record["question"], record["answers"])
            if not edge:
                continue
            gold = [(numbers[text], *edge)]
        if numbers[text] not in ranked:
            ranked = (ranked[:CANDIDATES - 1] + [numbers[text]])
        writer.record(source, record["question"].strip(), ranked, gold, record["answers"])


def add_open(writer, records, fillers):
    """NQ, QED, CLAPnq, QuoteSum, PubMedQA: their passages and some of the encyclopedia are one set."""
    numbers, items = {}, []
    for title, text in fillers:
        items.append((title, text, writer.passage(title, text)))
    for record in records:
        for passage in record["passages"]:
            text = tidy(passage.get("text", ""))
            if text and text not in numbers:
                numbers[text] = writer.passage(passage["title"], text)
                items.append((passage["title"], text, numbers[text]))
    fts = Fts([(title, text) for title, text, _ in items])
    for record in records:
        own = [tidy(passage.get("text", "")) for passage in record["passages"]]
        if not all(own):
            continue
        question = tidy(record["question"])
        ranked = [items[row][2] for row in fts.rank(question, CANDIDATES)]
        gold = []
        answers = [tidy(answer) for answer in record["answers"]]
        if record["source"] == "quotesum":
            marked = re.findall(r"\[ (\d+) (.*?) \]", record["answers"][0])
            for index, quote in marked:
                if 0 < int(index) <= len(own):
                    edge = find_sentence(own[int(index) - 1], [], tidy(quote))
                    if edge:
                        gold.append((numbers[own[int(index) - 1]], *edge))
        elif record["source"] == "pubmedqa":
            text = own[-1]
            asked, best = set(terms(question + " " + record["answers"][0])), None
            for edge in sentences.split(text):
                score = len(asked & set(terms(text[edge[0]:edge[1]])))
                if best is None or score > best[0]:
                    best = (score, edge)
            gold = [(numbers[text], *best[1])] if best else []
        elif record["answerable"]:
            quotes = record.get("quote")
            quotes = [quotes] if isinstance(quotes, str) else (quotes or [])
            text = own[0]
            if record["source"] == "clapnq" and quotes:
                edges = [find_sentence(text, [], tidy(quote)) for quote in quotes]
                gold = [(numbers[text], *edge) for edge in dict.fromkeys(edges) if edge]
            else:
                edge = best_sentence(text, question, answers)
                gold = [(numbers[text], *edge)] if edge else []
        if record["answerable"] and not gold:
            continue
        gold = sorted(set(gold))
        for quote in gold:
            if quote[0] not in ranked:
                ranked = ranked[:CANDIDATES - 1] + [quote[0]]
        source = "pubmedqa" if record["source"] == "pubmedqa" else "nq"
        writer.record(source, question, ranked, gold, [a for a in answers if len(a) < 60])


def add_qamr(writer, records, fillers, seed):
    """QAMR gives single sentences: they are set into passages of several, in different company each time."""
    chooser = random.Random(seed)
    by_sentence = collections.defaultdict(list)
    for record in records:
        by_sentence[tidy(record["passages"][0]["text"])].append(record)
    rounds = 8
    for turn in range(rounds):
        pool = [(text, True) for text in by_sentence]
        pool += [(text, False) for text in chooser.sample(fillers, min(len(fillers), len(pool)))]
        chooser.shuffle(pool)
        bodies, where = [], {}
        while pool:
            count = chooser.randint(3, 7)
            part, pool = pool[:count], pool[count:]
            body = ""
            for text, own in part:
                start = len(body) + (1 if body else 0)
                body = body + (" " if body else "") + text
                if own:
                    where[text] = (len(bodies), start, start + len(text))
            bodies.append(body)
        passages = [writer.passage("", body) for body in bodies]
        index = Bm25(bodies)
        for text, own in by_sentence.items():
            for number, record in enumerate(own):
                if number % rounds != turn:
                    continue
                question = tidy(record["question"])
                body, start, end = where[text]
                ranked = index.rank(question, CANDIDATES)
                if body not in ranked:
                    ranked = ranked[:CANDIDATES - 1] + [body]
                writer.record("qamr", question, [passages[r] for r in ranked], [(passages[body], start, end)],
                              record["answers"])


def add_medquad(writer, records, seed):
    chooser = random.Random(seed)
    items, kept = [], []
    for record in records:
        text = record["passages"][0].get("text", "")
        text = re.sub(r"^Key Points\s*- ?", "", re.sub(r"[ \t]+", " ", text)).strip()
        edges = sentences.split(text)
        edges = [(a, b) for a, b in edges if b <= 1300]
        if not edges or len(text) < 60 or not 30 < edges[0][1] - edges[0][0] < 400:
            continue
        text = text[:edges[-1][1]]
        kept.append((record["question"], writer.passage(record["passages"][0]["title"], text), edges[0]))
        items.append((record["passages"][0]["title"], text))
    fts = Fts(items)
    first = kept[0][1]
    for question, passage, edge in chooser.sample(kept, min(5000, len(kept))):
        ranked = [first + row for row in fts.rank(question, CANDIDATES)]
        if passage not in ranked:
            ranked = ranked[:CANDIDATES - 1] + [passage]
        writer.record("medquad", question, ranked, [(passage, *edge)])


NEEDLES = [
    ("The {a} for the {b} is {n}.", "What is the {a} for the {b}?"),
    ("{p} keeps the {a} of the {b} in {c}.", "Where does {p} keep the {a} of the {b}?"),
    ("On that day {p} paid {n} dollars for the {b}.", "How much did {p} pay for the {b}?"),
    ("The {b} was delivered to {p} at {c}.", "Who received the {b} at {c}?"),
    ("According to {p}, the {b} weighs {n} kilograms.", "How heavy is the {b} according to {p}?"),
    ("The {a} of {c} was set to {n} by {p}.", "Who set the {a} of {c} to {n}?"),
    ("{p} signed the {a} for the {b} in {c} on {d}.", "When did {p} sign the {a} for the {b}?")]
THINGS = {
    "a": "access code,account number,reference number,passphrase,serial number,invoice,contract,key,certificate,deposit,"
         "warranty,permit,licence,combination,budget,limit".split(","),
    "b": "blue warehouse,north gate,red archive,lighthouse,steel cabinet,old printing press,river barge,generator,"
         "telescope,greenhouse,engine room,second safe,harbour crane,glass ceiling,signal tower,stone bridge".split(","),
    "c": "Lisbon,Tromsø,the cellar,the upper drawer,Brno,Galway,the east wing,Valparaíso,the reading room,Tartu,Leeds,"
         "the boathouse,Matera,the attic,Bergen,Kaunas".split(","),
    "p": "Ada Kessler,Tomas Brandt,Mira Olsen,Jonas Feld,Priya Nair,Elena Voss,Samuel Okoro,Ruth Lindqvist,Karl Weiss,"
         "Ines Duarte,Paul Renner,Noor Haddad,Greta Holm,Victor Amsel,Lena Moreau,Oskar Tamm".split(","),
    "d": "3 March,14 July,the second of May,9 November,21 January,the last day of August,Easter Monday".split(",")}


def add_needles(writer, articles, count, seed):
    """A generated sentence inside an unrelated passage."""
    chooser = random.Random(seed)
    for _ in range(count):
        title, bodies, first = chooser.choice(articles)
        place = chooser.randrange(len(bodies))
        values = {key: chooser.choice(things) for key, things in THINGS.items()}
        values["n"] = str(chooser.randint(10, 99999))
        template, question = chooser.choice(NEEDLES)
        needle, question = template.format(**values), question.format(**values)
        text = bodies[place]
        edges = sentences.split(text)
        at = chooser.choice(edges)[0]
        passage = writer.passage(title, text[:at] + needle + " " + text[at:])
        others = chooser.sample(range(len(bodies)), min(len(bodies), 9))
        ranked = [passage] + [first + other for other in others if other != place]
        if chooser.random() < 0.3:
            chooser.shuffle(ranked)
        writer.record("needle", question, ranked, [(passage, at, at + len(needle))])


def is_person(lead):
    """Whether an article that begins so is about one."""
    return bool(re.search(r"\b(he|she|his|her)\b", lead[:600])) and bool(
        re.search(r"\((?:born|\d{4}|c\.|[A-Z][a-z]+ \d)", lead[:200]))


def asked(maker, chooser, title, bodies):
    """Questions by rule about sentences of an article, drawn at random: (passage, start, end, question, answer)."""
    person, short = is_person(bodies[0]), re.sub(r" \(.*\)$", "", title)
    spots = [(p, edge) for p, body in enumerate(bodies) for edge in sentences.split(body)
             if 40 <= edge[1] - edge[0] <= 330]
    chooser.shuffle(spots)
    for place, (start, end) in spots:
        made = maker.make(bodies[place][start:end], short, person)
        if made and not (made[0][:1].islower() and "?" not in made[0] and chooser.random() < 0.4):
            yield (place, start, end, *made)


def add_encyclopedia(writer, articles, per_article, counts, seed):
    maker = questions.Maker(seed, counts)
    chooser = random.Random(seed + 1)
    for number, (title, bodies, first) in enumerate(articles):
        dev = number % 97 == 5
        index = Bm25([title + " " + body for body in bodies])
        most = 10 if dev else per_article
        for place, start, end, question, answer in itertools.islice(asked(maker, chooser, title, bodies), most):
            ranked = index.rank(question, CANDIDATES)
            if place not in ranked:
                ranked = ranked[:CANDIDATES - 1] + [place]
            writer.record("dev-enwiki" if dev else "enwiki", question, [first + r for r in ranked],
                          [(first + place, start, end)], [answer] if len(answer) > 3 else [])


def add_summaries(writer, articles, tldrs, count, seed):
    """Quotations that cover what a lead (or a human's one-line summary) says, found greedily, in document order."""
    chooser = random.Random(seed)

    def cover(target, passages, limit):
        wanted, chosen = set(terms(target)), []
        spots = [(p, edge, set(terms(text[edge[0]:edge[1]]))) for p, text in passages for edge in sentences.split(text)
                 if 40 <= edge[1] - edge[0] <= 300]
        while len(chosen) < limit and spots:
            best = max(spots, key=lambda s: len(wanted & s[2]) / (6 + len(s[2])))
            if len(wanted & best[2]) < 2:
                break
            chosen.append((best[0], *best[1]))
            wanted -= best[2]
            spots.remove(best)
        return sorted(chosen)

    for record in tldrs:
        text = record["passages"][0].get("text", "")
        if not text:
            continue
        chosen = cover(" ".join(record["answers"][:1]), [(0, text)], 2)
        if chosen:
            passage = writer.passage(record["passages"][0]["title"], text)
            writer.record("summary", "", [passage], [(passage, a, b) for _, a, b in chosen], summarise=True)
    for title, bodies, first in chooser.sample(articles, min(count, len(articles))):
        if len(bodies) < 4:
            continue
        start = chooser.randint(1, max(1, len(bodies) - 8))
        part = list(range(start, min(len(bodies), start + chooser.randint(3, 8))))
        chosen = cover(title + " " + bodies[0], [(first + p, bodies[p]) for p in part], QUOTES)
        if chosen:
            writer.record("summary", "", [first + p for p in part], chosen, summarise=True)


def add_evaluation(writer, folder):
    """The evaluation questions as packs, to be measured and never trained on: gold answers go to eval.json."""
    corpus, questions_, gold = [], [], {}
    with open(os.path.join(folder, "qa", "qa_dev.jsonl"), encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            gold[record["id"]] = record["answers"]
    base = os.path.join(folder, "ir", "wiki-passages-dev")
    with open(os.path.join(base, "corpus.jsonl"), encoding="utf-8") as file:
        for line in file:
            passage = json.loads(line)
            corpus.append((passage["title"], passage["text"]))
    numbers = [writer.passage(title, text) for title, text in corpus]
    fts = Fts(corpus)
    answers = []
    with open(os.path.join(base, "queries.jsonl"), encoding="utf-8") as file:
        for line in file:
            query = json.loads(line)
            rows = fts.rank(query["text"], CANDIDATES)
            writer.record("eval", query["text"].strip(), [numbers[row] for row in rows], [])
            answers.append(gold[query["_id"]])
    return answers


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True)
    parser.add_argument("--evaluation", help="the evaluation folder; its questions are packed to be measured")
    parser.add_argument("--data", required=True)
    parser.add_argument("--articles", type=int, default=100000)
    parser.add_argument("--per-article", type=int, default=80)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(os.path.join(args.data, "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    writer = Writer(tokenizer, prompt.Vocabulary(os.path.join(args.data, "tokenizer.json")).bytes)
    records = collections.defaultdict(list)
    with open(os.path.join(args.train, "qa_train.jsonl"), encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            records[record["source"]].append(record)
    articles, counts = [], collections.Counter()
    for number, (title, body) in enumerate(texts(os.path.join(args.train, "enwiki.txt"))):
        if not is_reading_article(number) or len(articles) >= args.articles:
            continue
        bodies = sentences.passages(body)
        if len(bodies) < 4:
            continue
        if len(articles) < 800:
            counts.update(re.findall(r"\b[a-z]+\b", body))
        articles.append((title, bodies, len(writer.passage_text)))
        for body in bodies:
            writer.passage(title, body)
    print(len(articles), "articles", len(writer.passage_text), "passages")
    chooser = random.Random(5)
    fillers = [(t, b) for t, bodies, _ in chooser.sample(articles, min(700, len(articles))) for b in bodies[:4]]
    loose = [b[a:e] for _, b in fillers for a, e in sentences.split(b)[1:3] if 40 < e - a < 300]
    squad = records["squad"]
    dev = [r for r in squad if r["passages"][0]["title"] in DEV_TITLES]
    add_squad(writer, [r for r in squad if r["passages"][0]["title"] not in DEV_TITLES], "squad")
    add_squad(writer, dev, "dev")
    add_qamr(writer, records["qamr"], loose, 1)
    add_open(writer, records["nq-oracle"] + records["qed"] + records["clapnq"] + records["quotesum"]
             + records["pubmedqa"], fillers)
    add_medquad(writer, records["medquad"], 2)
    print("records", len(writer.records))
    add_encyclopedia(writer, articles, args.per_article, counts, 3)
    add_needles(writer, articles, 3000, 4)
    add_summaries(writer, articles, records["scitldr"], 3000, 6)
    print("records", len(writer.records))
    folder = os.path.join(args.data, "reading")
    os.makedirs(folder, exist_ok=True)
    if args.evaluation:
        answers = add_evaluation(writer, args.evaluation)
        with lzma.open(os.path.join(folder, "eval.json.xz"), "wt", encoding="utf-8") as file:
            json.dump(answers, file)
    writer.finish(folder)
    # Gold answers of the development questions, for scoring as the evaluation does.
    with lzma.open(os.path.join(folder, "dev.json.xz"), "wt", encoding="utf-8") as file:
        json.dump([r[4] for r in writer.records if r[0] == "dev"], file)


if __name__ == "__main__":
    main()
