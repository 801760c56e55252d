"""Questions that look answerable and are not: the questions by people, altered by rule, added to DATA/reading.

    alter.py --data DATA [--seed 1]

SQuAD's unanswerable questions were written by people who read the passage: a name or a number is another one, a word is
its opposite, a `not` is put in, another thing is asked about. The same is done here to questions whose answer is known,
with names, numbers and words of the same passages wherever there are some, so that a strange word is no sign. The records
(source "altered") have the candidates of the question they were made from, the passage that answered it among the first
three, and nothing to quote. A few of them can be answered all the same: the rules do not understand what they alter.
"""
import argparse
import json
import lzma
import os
import random
import re

import numpy as np
from tokenizers import Tokenizer

import load
from prepare_reading import SOURCES
from prepare_text import FILTERS
from prompt import Vocabulary
from questions import STOP

SHORTEST = 6  # words of a question that is altered: a shorter one becomes nonsense
FROM = {"squad": 1.0, "nq": 1.0, "qamr": 0.7}  # source → share of its questions that are altered
OPPOSITES = [pair.split("/") for pair in (
    "first/last earliest/latest largest/smallest biggest/smallest highest/lowest most/least best/worst oldest/youngest "
    "longest/shortest more/fewer larger/smaller higher/lower older/younger longer/shorter before/after north/south "
    "northern/southern east/west eastern/western above/below increase/decrease increased/decreased rise/fall rose/fell "
    "begin/end began/ended started/ended start/end won/lost win/lose winner/loser accepted/rejected accept/reject "
    "allowed/forbidden supported/opposed support/oppose joined/left built/destroyed created/destroyed born/died "
    "married/divorced bought/sold buy/sell attacked/defended gained/lost appointed/dismissed early/late public/private "
    "old/new major/minor male/female men/women man/woman father/mother son/daughter husband/wife brother/sister "
    "king/queen strong/weak strongest/weakest fast/slow fastest/slowest rich/poor hot/cold warm/cool wet/dry hard/soft "
    "heavy/light deep/shallow wide/narrow common/rare popular/unpopular likely/unlikely legal/illegal always/never "
    "positive/negative internal/external upper/lower inside/outside minimum/maximum majority/minority advantage/disadvantage "
    "advantages/disadvantages friend/enemy friends/enemies victory/defeat cause/prevent caused/prevented import/export "
    "imported/exported arrived/departed entered/left summer/winter morning/evening day/night urban/rural modern/ancient "
    "domestic/foreign professional/amateur include/exclude included/excluded easy/difficult good/bad similar/different "
    "open/closed opened/closed raised/lowered founded/dissolved employed/dismissed improved/worsened slower/faster").split()]
OPPOSITE = {a: b for one in OPPOSITES for a, b in (one, one[::-1])}
NAME = re.compile(r"\b[A-Z][\w’'.-]*(?: (?:of |the |de |van |von )?[A-Z][\w’'-]*)*")
NUMBER = re.compile(r"\b\d[\d,.]*\d\b|\b\d\b")
VERB = re.compile(r"\b(did|does|do|was|were|is|are|can|could|will|would|has|have|had)\b", re.IGNORECASE)
ENDINGS = ("tion", "ment", "ness", "ing", "ed", "er", "ers", "ity", "ies", "al", "ic", "s", "ly", "")


def ending(word):
    return next(e for e in ENDINGS if word.endswith(e))


class Alterer:
    """One change of a question; `gold` is the sentence that answers it, `near` and `far` are texts to take things from."""
    def __init__(self, seed):
        self.chooser = random.Random(seed)

    def pick(self, found, kept_out):
        found = sorted({x for x in found if x and x.lower() not in kept_out})
        return self.chooser.choice(found) if found else None

    def swap(self, question, spots, gold, near, far, things):
        """One of the spots gets another thing of its kind, which neither question nor answering sentence has."""
        if not spots:
            return None
        spot = self.chooser.choice(spots)
        kept_out = {x.lower() for x in things(question, spot) + things(gold, spot)}
        new = self.pick(things(near, spot), kept_out) if self.chooser.random() < 0.8 else None
        new = new or self.pick(things(far, spot), kept_out)
        return new and question[:spot.start()] + new + question[spot.end():]

    def name(self, question, gold, near, far):
        spots = [m for m in NAME.finditer(question) if m.start() > 0]
        names = lambda text, _: [m.group().rstrip(".") for m in NAME.finditer(text)
                                 if text[max(0, m.start() - 2):m.start()] not in ("", ". ") and len(m.group()) > 3]
        return self.swap(question, spots, gold, near, far, names)

    def number(self, question, gold, near, far):
        numbers = lambda text, spot: [m.group() for m in NUMBER.finditer(text)
                                      if len(m.group()) == len(spot.group())]
        return self.swap(question, list(NUMBER.finditer(question)), gold, near, far, numbers)

    def word(self, question, gold, near, far):
        """A word of the answering sentence becomes another word with the same ending."""
        inside = set(re.findall(r"\b[a-z]{4,}\b", gold))
        spots = [m for m in re.finditer(r"\b[a-z]{4,}\b", question)
                 if m.group() in inside and m.group() not in STOP and ending(m.group())]
        words = lambda text, spot: [w for w in re.findall(r"\b[a-z]{4,}\b", text)
                                    if w not in STOP and ending(w) == ending(spot.group())]
        return self.swap(question, spots, gold, near, far, words)

    def opposite(self, question, gold, near, far):
        spots = [m for m in re.finditer(r"\b[a-z]+\b", question) if m.group() in OPPOSITE]
        if not spots:
            return None
        spot = self.chooser.choice(spots)
        return question[:spot.start()] + OPPOSITE[spot.group()] + question[spot.end():]

    def negation(self, question, gold, near, far):
        verb = VERB.search(question)
        if not verb or verb.start() == 0 or re.search(r"\bnot\b|n't\b", question):
            return None
        if verb.group().lower() in ("did", "does", "do") or self.chooser.random() < 0.4:
            short = "ca" if verb.group() == "can" else "wo" if verb.group() == "will" else verb.group()
            return question[:verb.start()] + short + "n't" + question[verb.end():]
        return question[:verb.end()] + " not" + question[verb.end():]

    def alter(self, question, gold, near, far):
        rules = [(self.name, 0.3), (self.number, 0.2), (self.word, 0.3), (self.opposite, 0.5), (self.negation, 0.08)]
        while rules:
            rule = self.chooser.choices(rules, weights=[weight for _, weight in rules])[0]
            new = rule[0](question, gold, near, far)
            if new and new != question:
                return new
            rules.remove(rule)
        return None


def save(folder, reading, sources, new):
    """The arrays again, with `new` put behind those of the same name."""
    with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    for name, added in new.items():
        old = getattr(reading, name)
        array = np.concatenate((old, np.asarray(added, dtype=old.dtype).reshape(-1, *old.shape[1:])))
        manifest["arrays"][name]["shape"] = list(array.shape)
        with lzma.open(os.path.join(folder, name + ".xz"), "wb", format=lzma.FORMAT_XZ, filters=FILTERS) as file:
            file.write(array.tobytes())
    manifest["sources"] = sources
    with open(os.path.join(folder, "manifest.json"), "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    folder = os.path.join(args.data, "reading")
    reading, vocabulary = load.Reading(folder), Vocabulary(os.path.join(args.data, "tokenizer.json"))
    if len(reading.numbers("altered")):
        raise SystemExit("alter.py: %s has altered questions already" % folder)
    tokenizer = Tokenizer.from_file(os.path.join(args.data, "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    random_numbers, alterer = random.Random(args.seed), Alterer(args.seed)
    records = [int(r) for source, share in FROM.items() for r in reading.numbers(source)
               if reading.gold[r][0][0] >= 0 and random_numbers.random() < share]
    text = lambda p: vocabulary.text(reading.tokens("passage", p))
    asked = lambda r: vocabulary.text(reading.tokens("question", r))
    records = [r for r in records if len(asked(r).split()) >= SHORTEST]
    new = {name: [] for name in ("question", "question_len", "candidates", "holds", "gold", "source", "summarise", "keep")}
    for number, record in enumerate(records):
        passage, first, last = (int(x) for x in reading.gold[record][0])
        ranked = [int(p) for p in reading.candidates[record] if p >= 0]
        gold = vocabulary.text(reading.tokens("passage", passage)[first:last])
        near = " ".join(text(p) for p in dict.fromkeys([passage, *ranked[:4]]))
        question = alterer.alter(asked(record), gold, near.replace(gold, " "),
                                 text(int(reading.gold[random_numbers.choice(records)][0][0])))
        if not question:
            continue
        if passage in ranked[3:] or passage not in ranked:
            ranked = [p for p in ranked if p != passage]
            ranked.insert(random_numbers.randrange(3), passage)
        ids = tokenizer.encode(question, add_special_tokens=False).ids
        row = (ranked + [-1] * reading.candidates.shape[1])[:reading.candidates.shape[1]]
        for name, value in (("question", ids), ("question_len", [len(ids)]), ("candidates", row), ("holds", [0]),
                            ("gold", [-1] * reading.gold[0].size), ("source", [SOURCES.index("altered")]),
                            ("summarise", [0]), ("keep", [1])):
            new[name] += value
        if number % 997 == 0:
            print(repr(asked(record)), "→", repr(question), flush=True)
    save(folder, reading, SOURCES, new)
    print(len(new["keep"]), "altered questions from", len(records))


if __name__ == "__main__":
    main()
