"""A teacher for the marks: a small pretrained encoder that reads one passage with the question and scores its sentences.

    teacher.py pack --model MODEL --out DATA/teacher            the weights as a training run carries them (BF16, 44 MB)
    teacher.py run --data DATA --out DATA/teacher/labels        learns on people's questions, then labels every record

MODEL is a folder of all-MiniLM-L6-v2 (config.json, model.safetensors, tokenizer.json). `run` first fine-tunes it: the score
of a sentence is the log of the summed exponentials of one number per token, and the loss is that of the reader's marks,
cross entropy over all sentences of some passages of a record and "none of them". Then it writes, for each record and each
of its first passages, a score for every sentence. The scores of one passage do not depend on the others, so a pack may
put any of them together. It is a process of its own, beside training: training uses labels as they appear, and does
without where this fails.
"""
import argparse
import contextlib
import json
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import load
from prompt import Vocabulary

LONGEST = 384      # of question and passage together, in the teacher's tokens
QUESTION = 64
PASSAGES = 5       # of a record that are labelled: its best candidates, and the gold passages
PEOPLE = ("squad", "qamr", "nq")  # sources of questions by people: what it is fine-tuned on


class Encoder(nn.Module):
    """BERT, in the shape of the checkpoint's config; → the last hidden states."""
    def __init__(self, c):
        super().__init__()
        self.heads, self.eps, width = c["num_attention_heads"], c["layer_norm_eps"], c["hidden_size"]
        self.words = nn.Embedding(c["vocab_size"], width)
        self.places = nn.Embedding(c["max_position_embeddings"], width)
        self.kinds = nn.Embedding(c["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, eps=self.eps)
        self.layers = nn.ModuleList(nn.ModuleDict({
            "qkv": nn.Linear(width, 3 * width), "out": nn.Linear(width, width), "norm1": nn.LayerNorm(width, eps=self.eps),
            "up": nn.Linear(width, c["intermediate_size"]), "down": nn.Linear(c["intermediate_size"], width),
            "norm2": nn.LayerNorm(width, eps=self.eps)}) for _ in range(c["num_hidden_layers"]))
        self.score = nn.Linear(width, 1)
        self.dropout = 0.0

    def drop(self, x):
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def forward(self, ids, kinds, real):
        """ids, kinds, real [N, L] → [N, L, width]"""
        n, length = ids.shape
        x = self.words(ids) + self.places(torch.arange(length, device=ids.device)) + self.kinds(kinds)
        x = self.drop(self.norm(x))
        bias = torch.zeros(n, 1, 1, length, dtype=x.dtype, device=x.device).masked_fill_(
            ~real.bool()[:, None, None], float("-inf"))
        for layer in self.layers:
            q, k, v = layer["qkv"](x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            if hasattr(F, "scaled_dot_product_attention"):
                out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
            else:
                out = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias, -1) @ v
            x = layer["norm1"](x + self.drop(layer["out"](out.transpose(1, 2).reshape(n, length, -1))))
            x = layer["norm2"](x + self.drop(layer["down"](F.gelu(layer["up"](x)))))
        return x

    def sentences(self, ids, kinds, real, sentence, count):
        """sentence [N, L]: which sentence a token is of, 0 … count-1, or count for none → scores [N, count]; of a
        sentence that is not there, about −69."""
        token = self.score(self(ids, kinds, real)).squeeze(-1).float()
        top = token.detach().amax(1, keepdim=True)
        total = torch.zeros(ids.shape[0], count + 1, device=ids.device).scatter_add(1, sentence, (token - top).exp())
        return total[:, :count].clamp(min=1e-30).log() + top


def names(number_of_layers):
    """The checkpoint's names: ours → theirs (a list is put together by rows)."""
    out = {"words.weight": "embeddings.word_embeddings.weight", "places.weight": "embeddings.position_embeddings.weight",
           "kinds.weight": "embeddings.token_type_embeddings.weight"}
    pairs = [("norm", "embeddings.LayerNorm")]
    for i in range(number_of_layers):
        theirs = "encoder.layer.%d." % i
        pairs += [("layers.%d.%s" % (i, ours), theirs + name) for ours, name in (
            ("out", "attention.output.dense"), ("norm1", "attention.output.LayerNorm"), ("up", "intermediate.dense"),
            ("down", "output.dense"), ("norm2", "output.LayerNorm"))]
        for part in ("weight", "bias"):
            out["layers.%d.qkv.%s" % (i, part)] = [theirs + "attention.self.%s.%s" % (x, part)
                                                   for x in ("query", "key", "value")]
    for ours, theirs in pairs:
        for part in ("weight", "bias"):
            out["%s.%s" % (ours, part)] = "%s.%s" % (theirs, part)
    return out


def pack(args):
    from checkpoint import Checkpoint
    source = Checkpoint(args.model)
    state = {}
    for ours, theirs in names(source.config["num_hidden_layers"]).items():
        parts = [source.get(name) for name in ([theirs] if isinstance(theirs, str) else theirs)]
        state[ours] = torch.cat(parts).to(torch.bfloat16)
    os.makedirs(args.out, exist_ok=True)
    torch.save({"config": source.config, "state": state}, os.path.join(args.out, "teacher.pt"))
    with open(os.path.join(args.model, "tokenizer.json"), "rb") as file, \
            open(os.path.join(args.out, "teacher-tokenizer.json"), "wb") as out:
        out.write(file.read())


def read_teacher(folder):
    from tokenizers import Tokenizer
    saved = torch.load(os.path.join(folder, "teacher.pt"), map_location="cpu")
    model = Encoder(saved["config"])
    left = model.load_state_dict({name: value.float() for name, value in saved["state"].items()}, strict=False)
    if left.unexpected_keys or set(left.missing_keys) - {"score.weight", "score.bias"}:
        raise ValueError("teacher.pt: %s" % (left,))
    nn.init.normal_(model.score.weight, 0, 0.02)
    nn.init.constant_(model.score.bias, -4.0)  # a passage's sentences together about as likely as "none of them"
    tokenizer = Tokenizer.from_file(os.path.join(folder, "teacher-tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return model, tokenizer


# --- Texts in the teacher's tokens ------------------------------------------------------------------------------------

class Texts:
    """Questions and passages of some records, in flat arrays on the device; rows are put together there."""
    def __init__(self, vocabulary, reading, tokenizer, records, passages, device):
        self.device, self.special = device, [tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "[PAD]")]
        encode = lambda texts: [e for at in range(0, len(texts), 8192)
                                for e in tokenizer.encode_batch(texts[at:at + 8192], add_special_tokens=False)]
        questions = encode([vocabulary.text(reading.tokens("question", r)) for r in records])
        self.question_row = {int(r): row for row, r in enumerate(records)}
        self.question, self.question_at, self.question_len = self.flat([e.ids[:QUESTION] for e in questions])
        titles = sorted({int(reading.passage_title[p]) for p in passages})
        head = dict(zip(titles, encode([vocabulary.text(reading.tokens("title", t)) for t in titles])))
        size = np.array([len(token) for token in vocabulary.bytes], dtype=np.int64)
        ids, which = [], []
        texts = [vocabulary.text(reading.tokens("passage", p)) for p in passages]
        for p, text, body in zip(passages, texts, encode(texts)):
            ends = np.cumsum(size[reading.tokens("passage", p)])[reading.tokens("sentence", p)]
            raw = text.encode()
            if len(raw) != len(text):
                ends = np.array([len(raw[:end].decode("utf-8", "ignore")) for end in ends], dtype=np.int64)
            start = np.array([a for a, _ in body.offsets], dtype=np.int64)
            title = head[int(reading.passage_title[p])].ids[:24]
            title = title + [self.special[1]] if title else []
            ids.append(title + body.ids)
            which.append(np.concatenate((np.full(len(title), 255), np.where(
                start < (ends[-1] if len(ends) else 0), np.searchsorted(ends, start, side="right"), 255))).clip(0, 255))
        self.body_row = {int(p): row for row, p in enumerate(passages)}
        self.body, self.body_at, self.body_len = self.flat(ids)
        self.which, _, _ = self.flat(which)

    def flat(self, lists):
        lengths = np.array([len(x) for x in lists], dtype=np.int64)
        at = np.cumsum(lengths) - lengths
        whole = np.concatenate([np.asarray(x, dtype=np.int32) for x in lists]) if len(lists) else np.zeros(0, np.int32)
        return (torch.from_numpy(np.append(whole, 0).astype(np.int32)).to(self.device), torch.from_numpy(at).to(self.device),
                torch.from_numpy(lengths).to(self.device))

    def lengths(self, questions, bodies):
        return (self.question_len[questions] + self.body_len[bodies] + 3).clamp(max=LONGEST)

    def rows(self, questions, bodies, count):
        """Numbers of questions and of bodies [N] → ids, kinds, real, sentence [N, L]."""
        length = int(self.lengths(questions, bodies).max())
        length = min(LONGEST, -(-length // 16) * 16)
        j = torch.arange(length, device=self.device)[None]
        q, b = self.question_len[questions][:, None], self.body_len[bodies][:, None]
        b = torch.minimum(b, length - 3 - q)
        inside = j - q - 2
        of_question, of_body = (j >= 1) & (j <= q), (inside >= 0) & (inside < b)
        at = (self.body_at[bodies][:, None] + inside).clamp(min=0, max=len(self.body) - 1)
        ids = torch.full(at.shape, self.special[2], dtype=torch.int32, device=self.device)
        ids = torch.where(of_body, self.body[at], ids)
        at_question = (self.question_at[questions][:, None] + j - 1).clamp(min=0, max=len(self.question) - 1)
        ids = torch.where(of_question, self.question[at_question], ids)
        ids = torch.where((j == q + 1) | (inside == b), torch.full_like(ids, self.special[1]), ids)
        ids[:, 0] = self.special[0]
        sentence = torch.where(of_body, self.which[at].long(), torch.full_like(at, count)).clamp(max=count)
        return ids.long(), (inside >= 0).long(), inside <= b, sentence


def passages_of(reading, record):
    """The passages of a record that are labelled."""
    row = [int(p) for p in reading.candidates[record] if p >= 0]
    gold = [int(g[0]) for g in reading.gold[record] if g[0] >= 0]
    first = row[:PASSAGES]
    return first + [p for p in dict.fromkeys(gold) if p not in first]


def hard_labels(reading, record, passage):
    """As load.Packer.marks: 1 for a sentence to quote, 0, or IGNORED; also for a passage that may hold the answer."""
    ends = reading.tokens("sentence", passage).astype(np.int64)
    gold = [g for g in reading.gold[record] if g[0] >= 0]
    row = reading.candidates[record].tolist()
    unsure = passage in row and reading.holds[record] >> row.index(passage) & 1 and passage not in {int(g[0]) for g in gold}
    label = np.full(len(ends), load.IGNORED if unsure else 0, dtype=np.int64)
    for _, first, last in (g for g in gold if g[0] == passage):
        label[(ends >= first) & (ends < last - 1)] = load.IGNORED
        where = int(np.searchsorted(ends, last - 1))
        if where < len(ends):
            label[where] = 1
    return label


class Training:
    def __init__(self, args, folder):
        self.args = args
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(args.seed)
        self.random = np.random.default_rng(args.seed)
        self.vocabulary = Vocabulary(os.path.join(args.data, "tokenizer.json"))
        self.folder = os.path.join(args.data, "reading")
        self.reading = load.Reading(self.folder)
        self.model, self.tokenizer = read_teacher(folder)
        self.model.to(self.device)
        self.began = time.time()
        self.log = open(os.path.join(args.more, "teacher.jsonl"), "a", encoding="utf-8")

    def say(self, **fields):
        self.log.write(json.dumps({"teacher_second": round(time.time() - self.began, 1), **fields}) + "\n")
        self.log.flush()
        print(fields, flush=True)

    def scores(self, texts, questions, bodies, count):
        with torch.autocast("cuda", torch.bfloat16) if self.device == "cuda" else contextlib.nullcontext():
            return self.model.sentences(*texts.rows(questions, bodies, count), count)

    def learn(self, minutes):
        """Fine-tunes by the clock."""
        args, reading, r = self.args, self.reading, self.random
        records = np.concatenate([reading.numbers(source) for source in PEOPLE])
        if args.records:
            records = r.permutation(records)[:args.records]
        wanted = sorted({p for record in records for p in passages_of(reading, record)})
        texts = Texts(self.vocabulary, reading, self.tokenizer, records, wanted, self.device)
        parts = [([], 0.01, 1.0), ([], 0.0, 1.0), ([], 0.0, 10.0)]  # weight decay, times the learning rate; the new part
        for name, p in self.model.named_parameters():
            parts[2 if name.startswith("score.") else p.dim() < 2][0].append(p)
        optimiser = torch.optim.AdamW([{"params": params, "weight_decay": decay, "times": times}
                                       for params, decay, times in parts], lr=args.lr, betas=(0.9, 0.98))
        self.model.train()
        self.model.dropout = 0.1
        self.say(event="learns", records=len(records), passages=len(wanted))
        began, step, total = time.time(), 0, 0.0
        while time.time() - began < 60 * minutes and not (args.steps and step >= args.steps):
            batch = records[r.integers(len(records), size=args.batch)]
            questions, bodies, labels = [], [], []
            for record in batch:
                record = int(record)
                gold = list(dict.fromkeys(int(g[0]) for g in reading.gold[record] if g[0] >= 0))
                others = [p for p in passages_of(reading, record) if p not in gold]
                others = [others[i] for i in sorted(r.permutation(len(others))[:max(0, args.passages - len(gold))])]
                chosen = (gold + others)[:args.passages]
                if gold and r.random() < 0.12:
                    chosen = [p for p in others if load.IGNORED not in hard_labels(reading, record, p)] or chosen
                chosen = chosen + [-1] * (args.passages - len(chosen))
                questions += [texts.question_row[record]] * args.passages
                bodies += [texts.body_row[p] if p >= 0 else 0 for p in chosen]
                labels += [hard_labels(reading, record, p) if p >= 0 else np.zeros(0, np.int64) for p in chosen]
            count = max(1, min(60, max(len(x) for x in labels)))
            label = np.full((len(labels), count), load.IGNORED, dtype=np.int64)
            for row, x in enumerate(labels):
                label[row, :len(x[:count])] = x[:count]
            label = torch.from_numpy(label).to(self.device).view(args.batch, -1)
            share = min(1.0, (time.time() - began) / (60 * minutes))
            share = step / args.steps if args.steps else share
            for group in optimiser.param_groups:
                group["lr"] = group["times"] * args.lr * min(1.0, (step + 1) / 60) * (1 - 0.97 * share)
            scores = self.scores(texts, torch.tensor(questions, device=self.device),
                                 torch.tensor(bodies, device=self.device), count).view(args.batch, -1)
            scores = scores.clamp(min=-30)
            known, right = label >= 0, label == 1
            none = torch.zeros_like(scores[:, :1])
            every = torch.cat((scores.masked_fill(~known, -1e4), none), 1)
            chosen = torch.cat((scores.masked_fill(~right, -1e4), none.masked_fill(right.any(1, keepdim=True), -1e4)), 1)
            loss = (torch.logsumexp(every, 1) - torch.logsumexp(chosen, 1)).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimiser.step()
            step += 1
            total = total + loss.detach()
            if step % args.log_steps == 0:
                self.say(step=step, loss=round(float(total) / args.log_steps, 4))
                total = 0.0
        self.model.eval()
        self.model.dropout = 0.0
        self.say(event="learnt", steps=step)
        return self.measure()

    def measure(self):
        """Of the development questions: how often the best scored sentence of five passages holds an answer."""
        reading, gold = self.reading, load.gold_answers(self.folder, "dev")
        every = np.nonzero(reading.source == reading.sources.index("dev"))[0]
        gold = {int(record): answers for record, answers in zip(every, gold)}
        records = [int(r) for r in every][::max(1, len(every) // self.args.dev)]
        slots = [[int(p) for p in reading.candidates[r] if p >= 0][:5] for r in records]
        hits, best = [], ([], [])
        for record, passages, scores in zip(records, slots, self.label(reading, records, slots)):
            spots = [(p, s) for p, row in zip(passages, scores) for s in range(len(row))]
            flat = np.concatenate(scores) if spots else np.array([-30.0])
            best[1 if gold[record] else 0].append(float(flat.max()))
            if gold[record]:
                p, s = spots[int(flat.argmax())] if spots else (0, 0)
                ends = reading.tokens("sentence", p).astype(int)
                text = self.vocabulary.text(reading.tokens("passage", p)[(ends[s - 1] + 1 if s else 0):ends[s] + 1])
                hits.append(any(answer.lower() in text.lower() for answer in gold[record]))
        right = float(np.mean(hits))
        line = float(np.quantile(best[1], 0.15))
        self.say(event="teacher measured", questions=len(hits), marked_right=round(100 * right, 1),
                 abstains_at_15=round(100 * float((np.array(best[0]) < line).mean()), 1) if best[0] else None)
        return right

    @torch.no_grad()
    def label(self, reading, records, slots):
        """For each record a list of score arrays, one a passage of its slots."""
        wanted = sorted({p for row in slots for p in row})
        texts = Texts(self.vocabulary, reading, self.tokenizer, records, wanted, self.device)
        pairs = [(n, p) for n, row in enumerate(slots) for p in row]
        questions = torch.tensor([n for n, _ in pairs], device=self.device)
        bodies = torch.tensor([texts.body_row[p] for _, p in pairs], device=self.device)
        order = torch.argsort(texts.lengths(questions, bodies), descending=True)
        lengths = texts.lengths(questions, bodies)[order].cpu().numpy()
        order_cpu = order.cpu().numpy()
        sentences = reading.sentence_len.astype(np.int64)
        out, at = [None] * len(pairs), 0
        held = []
        while at < len(pairs) or held:
            if at < len(pairs):
                rows = max(1, self.args.tokens // int(lengths[at]))
                part = slice(at, at + rows)
                count = max(1, min(60, int(max(sentences[pairs[i][1]] for i in order_cpu[part]))))
                held.append((order_cpu[part], self.scores(texts, questions[order[part]], bodies[order[part]], count)))
                at += rows
            if len(held) > 1 or at >= len(pairs):  # read one batch late, so that the device is not waited for
                numbers, scores = held.pop(0)
                scores = scores.clamp(-30, 30).cpu().numpy().astype(np.float32)
                for i, row in zip(numbers, scores):
                    found = np.full(sentences[pairs[i][1]], -30, dtype=np.float32)
                    found[:len(row)] = row[:len(found)]
                    out[i] = found
        at, lists = 0, []
        for row in slots:
            lists.append(out[at:at + len(row)])
            at += len(row)
        return lists

    def write(self, name, reading, records):
        """labels-NAME.npz: for every record which passages are labelled, and the scores of their sentences."""
        target = os.path.join(self.args.more, "labels-%s.npz" % name)
        if os.path.exists(target):
            return
        began = time.time()
        slots = [passages_of(reading, int(r)) for r in records]
        scores = self.label(reading, records, slots)
        table = np.full((len(reading.source), PASSAGES + load.QUOTES), -1, dtype=np.int32)
        at = np.zeros(len(reading.source), dtype=np.int64)
        flat, used = [], 0
        for record, row, values in zip(records, slots, scores):
            table[record, :len(row)] = row
            at[record] = used
            flat += values
            used += sum(len(v) for v in values)
        part = os.path.join(self.args.more, "new-labels-%s.npz" % name)
        np.savez(part, slots=table, at=at, scores=np.concatenate(flat).astype(np.float16))
        os.rename(part, target)
        self.say(event="labelled", of=name, records=len(records), seconds=round(time.time() - began, 1))


def run(args):
    import glob
    os.makedirs(args.more, exist_ok=True)
    folder = os.path.join(args.data, "teacher")
    while not all(os.path.exists(os.path.join(folder, name)) for name in ("teacher.pt", "teacher-tokenizer.json")):
        time.sleep(1)  # they may arrive with a later piece of the data
    training = Training(args, folder)
    tuned = os.path.join(args.more, "tuned.pt")
    if os.path.exists(tuned):
        saved = torch.load(tuned, map_location="cpu")
        training.model.load_state_dict(saved["state"])
        training.model.eval()
        right = saved["right"]
    else:
        right = training.learn(args.minutes)
        torch.save({"state": training.model.state_dict(), "right": right}, tuned + ".part")
        os.rename(tuned + ".part", tuned)
    if right < args.least:
        training.say(event="teacher no better than a reader: no labels", right=right)
        return
    reading = training.reading
    records = np.concatenate([reading.numbers(source) for source in PEOPLE])
    training.write("reading", reading, records[:args.records] if args.records else records)
    end = time.time() + 60 * args.patience
    while time.time() < end:
        for path in sorted(glob.glob(os.path.join(args.more, "shard-*.npz"))):
            name = os.path.basename(path)[:-4]
            if not os.path.exists(os.path.join(args.more, "labels-%s.npz" % name)):
                shard = load.Reading.from_shard(path)
                records = np.nonzero(shard.keep > 0)[0]
                training.write(name, shard, records[:args.records] if args.records else records)
        if os.path.exists(os.path.join(args.more, "grown")):
            missing = [p for p in glob.glob(os.path.join(args.more, "shard-*.npz")) if not os.path.exists(
                os.path.join(args.more, "labels-%s" % os.path.basename(p)))]
            if not missing:
                break
        time.sleep(1)
    training.say(event="teacher done")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pack", "run"))
    parser.add_argument("--model", help="folder of the pretrained encoder")
    parser.add_argument("--out", help="of pack")
    parser.add_argument("--data", help="a training run's data")
    parser.add_argument("--more", help="where shards appear and labels go")
    parser.add_argument("--minutes", type=float, default=1.8, help="of fine-tuning")
    parser.add_argument("--least", type=float, default=0.71, help="share of development questions it must get right")
    parser.add_argument("--patience", type=float, default=8, help="minutes to wait for the last shard")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--passages", type=int, default=4, help="of a record in one step")
    parser.add_argument("--tokens", type=int, default=49152, help="of one batch when labelling")
    parser.add_argument("--dev", type=int, default=2000)
    parser.add_argument("--records", type=int, help="at most so many (smoke runs)")
    parser.add_argument("--steps", type=int, help="at most so many (smoke runs)")
    parser.add_argument("--log-steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = True
    {"pack": pack, "run": run}[args.what](args)


if __name__ == "__main__":
    main()
