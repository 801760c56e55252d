"""More questions by rule, made on the spare cores of the training machine from the text that training reads.

    grow.py --data DATA --text FOLDER --out MORE [--per-article 8] [--processes 6] [--words]

Each chunk of token ids that appears in FOLDER (text-NNN.bin) is turned back into articles, and becomes one shard,
MORE/shard-NNN.npz, with the arrays of DATA/reading: passages, questions, candidates, quotations, and with --words the
numbers of their words (prior.py). A third of the questions lose more of their words than the others. For a fifth, source
"without", the passage that the question was made from is not among the candidates: what answers it best then, or that
nothing does, only a teacher's labels say (teacher.py). Ends when no chunk has come for a minute, and leaves MORE/grown.
"""
import argparse
import collections
import glob
import multiprocessing
import os
import random
import re
import time

import numpy as np

import prior
import prompt

LONGEST = 120000  # characters: longer texts are pieces of books


def articles(vocabulary, ids):
    """(title, body) of the whole texts with a title of one chunk."""
    doc, title, text, end = (vocabulary[name] for name in ("doc", "title", "text", "end"))
    starts = np.nonzero(ids == doc)[0]
    for start, after in zip(starts, [*starts[1:], len(ids)]):
        piece = ids[start:after]
        marks = [np.nonzero(piece == mark)[0] for mark in (title, text, end)]
        if any(len(mark) != 1 for mark in marks):
            continue
        a, b, c = (int(mark[0]) for mark in marks)
        if a + 1 < b < c:
            body = vocabulary.text(piece[b + 1:c])
            if len(body) < LONGEST:
                yield vocabulary.text(piece[a + 1:b]), body


def make(job):
    path, target, data, per_article, limit, words = job
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer
    import prepare_reading as preparation
    import questions
    import sentences
    vocabulary = prompt.Vocabulary(os.path.join(data, "tokenizer.json"))
    tokenizer = Tokenizer.from_file(os.path.join(data, "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    writer = preparation.Writer(tokenizer, vocabulary.bytes)
    ids = np.fromfile(path, dtype="<u2")
    found, counts = [], collections.Counter()
    for title, body in articles(vocabulary, ids):
        bodies = sentences.passages(body)
        if len(bodies) >= 4:
            counts.update(re.findall(r"\b[a-z]+\b", body))
            found.append((title, bodies))
        if limit and len(found) >= limit:
            break
    seed = int(re.sub(r"\D", "", os.path.basename(path)) or 0) + 100
    maker, chooser = questions.Maker(seed, counts), random.Random(seed)
    for title, bodies in found:
        first = len(writer.passage_text)
        for body in bodies:
            writer.passage(title, body)
        index = preparation.Bm25([title + " " + body for body in bodies])
        taken = 0
        for place, start, end, question, answer in preparation.asked(maker, chooser, title, bodies):
            if chooser.random() < 0.33:
                question = thinned(question, chooser)
            ranked = index.rank(question, preparation.CANDIDATES + 1)
            if chooser.random() < 0.2:
                ranked = [r for r in ranked if r != place][:preparation.CANDIDATES]
                if len(ranked) >= 3:
                    writer.record("without", question, [first + r for r in ranked], [])
                    taken += 1
            else:
                ranked = ranked[:preparation.CANDIDATES]
                if place not in ranked:
                    ranked = ranked[:preparation.CANDIDATES - 1] + [place]
                writer.record("enwiki", question, [first + r for r in ranked], [(first + place, start, end)],
                              [answer] if len(answer) > 3 else [])
                taken += 1
            if taken == per_article:
                break
    if writer.records:
        arrays = writer.arrays()
        if words:  # here, where there is time: not in the loaders
            arrays.update(prior.Words(vocabulary).arrays(arrays.get))
        part = os.path.join(os.path.dirname(target), "new-" + os.path.basename(target))
        np.savez(part, sources=np.array(preparation.SOURCES), **arrays)
        os.rename(part, target)
    return os.path.basename(path), len(found), len(writer.records)


def thinned(question, chooser):
    """A question with up to half of its words left out; the first two stay."""
    words = question.split()
    share = chooser.uniform(0.15, 0.5)
    kept = words[:2] + [word for word in words[2:] if chooser.random() > share]
    return " ".join(kept) if len(kept) >= 4 else question


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--per-article", type=int, default=8)
    parser.add_argument("--processes", type=int, default=max(1, min(8, (os.cpu_count() or 2) - 9)))
    parser.add_argument("--words", action="store_true", help="for marks that are learnt with a prior")
    parser.add_argument("--articles", type=int, help="at most so many of a chunk (smoke runs)")
    parser.add_argument("--patience", type=float, default=60, help="seconds without a new chunk until it ends")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    seen, last, running = set(), time.time(), []
    with multiprocessing.get_context("spawn").Pool(args.processes, maxtasksperchild=4) as pool:
        while running or time.time() - last < args.patience:
            for path in sorted(glob.glob(os.path.join(args.text, "text-*.bin"))):
                if path in seen:
                    continue
                seen.add(path)
                last = time.time()
                target = os.path.join(args.out, "shard-%s.npz" % os.path.basename(path)[5:-4])
                if not os.path.exists(target):
                    running.append(pool.apply_async(make, ((path, target, args.data, args.per_article, args.articles,
                                                            args.words),)))
            for done in [job for job in running if job.ready()]:
                running.remove(done)
                try:
                    print(*done.get(), flush=True)
                except Exception as problem:  # one chunk less
                    print("failed:", repr(problem)[:500], flush=True)
            time.sleep(0.5)
    open(os.path.join(args.out, "grown"), "w", encoding="utf-8").close()


if __name__ == "__main__":
    main()
