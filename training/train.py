"""The whole recipe, by the clock: pre-training, reading, indexer warm-up, sparse reading, FP8-aware finish, export.

    train.py --data DATA --out OUT --minutes pre=6.5,read=6.6,warm=0.6,sparse=2.2,fp8=1.1

Runs on one GPU, or slowly on a CPU. Every phase lasts the minutes given. It goes on from weights alone with --weights.
While it runs: OUT/log.jsonl and OUT/log.txt grow; `touch OUT/next` ends the phase, `touch OUT/stop` ends training now
(both still measure and export); `touch OUT/save` writes OUT/weights.pt and takes the flag away. Chunks of text that
appear in DATA/text or in a folder of --more are picked up. Beside it run grow.py, which makes more questions, and
teacher.py, which labels them (OUT/more; what they print is in OUT/grow.txt and OUT/teacher.txt): training does without
where one of them fails.
"""
import argparse
import atexit
import collections
import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import time
import traceback

import torch

import evaluate
import export
import load
from model import (FAST, TOY, Attention, Config, Linear, Reader, count_parameters, loss_of, mark_loss, score_loss,
                   try_compile)
from optimise import Optimiser
from prior import Lexicon
from prompt import Vocabulary

# Share of reading batches; then the shares of rows of 512, 1024, 2048, 4096, 8192 tokens: reading, text.
PHASES = {
    "pre":    dict(mode="dense", plan=(0.35, .65, .35, 0, 0, 0, 0, .85, .15, 0, 0), lr=(1.0, 1.0)),
    "read":   dict(mode="dense", plan=(0.78, .15, .64, .13, .05, .03, 0, .4, .3, .2, .1), lr=(1.0, 0.4)),
    "warm":   dict(mode="warm", plan=(0.70, 0, .45, .35, .15, .05, 0, .3, .5, .2, 0), lr=(1.0, 0.5), ramp=20),
    "sparse": dict(mode="sparse", plan=(0.95, 0, .70, .20, .07, .03, 0, .6, .4, 0, 0), lr=(0.4, 0.15)),
    "fp8":    dict(mode="sparse", plan=(0.97, 0, .80, .15, .04, .01, 0, .6, .4, 0, 0), lr=(0.15, 0.02), fp8=True),
}


class Helpers:
    """The processes beside training, and what the teacher has said since it was last asked."""
    def __init__(self, args, text):
        here = os.path.dirname(os.path.abspath(__file__))
        self.more, self.at, self.running = os.path.join(args.out, "more"), 0, []
        os.makedirs(self.more, exist_ok=True)
        for name, options in (("grow", ["--text", text, "--out", self.more, *["--words"] * args.prior,
                                        *shlex.split(args.grow)]),
                              ("teacher", ["run", "--more", self.more, *shlex.split(args.teacher)])):
            if self.alive(name):  # training died and was started again; its helpers lived on
                continue
            command = [sys.executable, os.path.join(here, name + ".py"), *options, "--data", args.data]
            environment = dict(os.environ)
            if name == "teacher" and args.teacher_gpu is not None:
                environment["CUDA_VISIBLE_DEVICES"] = args.teacher_gpu
            with open(os.path.join(args.out, name + ".txt"), "ab") as output:
                self.running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                                     env=environment))
            with open(os.path.join(self.more, name + ".pid"), "w", encoding="utf-8") as file:
                file.write("%d" % self.running[-1].pid)
        atexit.register(self.end)

    def alive(self, name):
        try:
            with open(os.path.join(self.more, name + ".pid"), encoding="utf-8") as file:
                pid = int(file.read())
            with open("/proc/%d/cmdline" % pid, "rb") as file:
                return (name + ".py").encode() in file.read()
        except (OSError, ValueError):
            return False

    def news(self):
        try:
            with open(os.path.join(self.more, "teacher.jsonl"), encoding="utf-8") as file:
                file.seek(self.at)
                new = file.read()
        except FileNotFoundError:
            return
        whole = new[:new.rfind("\n") + 1]
        self.at += len(whole.encode())
        for line in whole.splitlines():
            yield json.loads(line)

    def made(self):
        """How many shards of questions there are, and how many have labels."""
        names = os.listdir(self.more)
        return {kind: sum(name.startswith(kind) for name in names) for kind in ("shard", "labels")}

    def end(self):
        for process in self.running:
            if process.poll() is None:
                process.terminate()


class Log:
    def __init__(self, folder):
        self.began = time.time()
        self.lines = open(os.path.join(folder, "log.jsonl"), "a", encoding="utf-8")
        self.text = open(os.path.join(folder, "log.txt"), "a", encoding="utf-8")

    def put(self, **fields):
        fields = {"minute": round((time.time() - self.began) / 60, 2), **fields}
        self.lines.write(json.dumps(fields) + "\n")
        self.lines.flush()
        line = "  ".join("%s %s" % item for item in fields.items())
        for out in (self.text, sys.stdout):
            out.write(line + "\n")
            out.flush()


class Trainer:
    def __init__(self, args):
        self.args = args
        os.makedirs(args.out, exist_ok=True)
        self.log = Log(args.out)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        Linear.compute = torch.bfloat16 if self.device == "cuda" else torch.float32
        torch.manual_seed(args.seed)
        self.vocabulary = Vocabulary(os.path.join(args.data, "tokenizer.json"))
        self.folder = os.path.join(args.data, "reading")
        self.reading = load.Reading(self.folder)
        self.lexicon = Lexicon(self.vocabulary, self.reading) if args.prior else None
        scratch = os.path.join(args.scratch or args.out, "text")
        os.makedirs(scratch, exist_ok=True)
        unpacker = load.Unpacker([os.path.join(args.data, "text"), *args.more], scratch)
        self.plan = multiprocessing.get_context("fork").Array("d", PHASES["pre"]["plan"], lock=False)
        first = sorted(os.listdir(os.path.join(args.data, "text")))[:1]
        while first and not os.listdir(scratch):
            unpacker.once()
        self.helpers = Helpers(args, scratch) if args.helpers else None
        batches = load.Batches(self.vocabulary, self.reading, scratch, args.tokens, self.plan, args.seed,
                               self.helpers and self.helpers.more, self.lexicon)
        loader = torch.utils.data.DataLoader(
            batches, batch_size=None, num_workers=args.workers, pin_memory=self.device == "cuda",
            **(dict(prefetch_factor=2, multiprocessing_context="fork") if args.workers else {}))
        self.batches = iter(loader)  # forks its workers, before the GPU is touched
        self.pending = next(self.batches)
        unpacker.start()
        Attention.kl_samples = args.kl_samples
        config = Config(**(TOY if args.toy else {}), vocab_size=self.vocabulary.size)
        self.model = Reader(config)
        if args.weights:
            saved = torch.load(args.weights, map_location="cpu")
            self.model.load_state_dict({name: value.float() for name, value in saved["model"].items()})
        self.model.to(self.device).train()
        total, active = count_parameters(self.model)
        self.log.put(event="start", torch=torch.__version__, device=self.device, parameters=total, active=active,
                     workers=args.workers, load_seconds=round(time.time() - self.log.began, 1))
        if args.compile and self.device == "cuda":
            self.log.put(event="compile", result=try_compile(self.model, args.tokens))
        self.step_count, self.tokens_seen, self.lr_factor = 0, 0, 1.0
        self.good, self.stopped = None, False

    def batch(self):
        batch, self.pending = self.pending, next(self.batches)
        return {name: value.to(self.device, non_blocking=True) if torch.is_tensor(value) else value
                for name, value in batch.items()}

    def save(self, name="weights.pt"):
        path = os.path.join(self.args.out, name)
        state = {key: value.detach().to("cpu", torch.bfloat16 if value.is_floating_point() and value.dim() >= 2
                                        else value.dtype) for key, value in self.model.state_dict().items()}
        torch.save({"config": vars(self.model.c), "model": state}, path + ".part")
        os.rename(path + ".part", path)

    def measure(self, name, mode, limit, label, keep=None):
        try:
            began = time.time()
            figures = evaluate.score(self.model, self.vocabulary, self.reading, self.folder, name, self.device,
                                     "dense" if mode in ("dense", "warm") else "select", limit, keep, self.lexicon)
            self.log.put(event="measure", of=label, mode=mode, seconds=round(time.time() - began, 1), **figures)
        except Exception:  # a measurement must not cost the training
            self.log.put(event="measure failed", error=traceback.format_exc()[-600:])
        finally:
            self.model.train()

    def remember(self):
        self.good = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def phase(self, name, minutes):
        what, args, model = PHASES[name], self.args, self.model
        self.plan[:] = what["plan"]
        mode, warm = what["mode"], what["mode"] == "warm"
        ramp = min(args.ramp, what.get("ramp", args.ramp))
        for p in model.parameters():
            p.requires_grad_(not warm)
        only = model.indexer_parameters() if warm else None
        for p in only or []:
            p.requires_grad_(True)
        model.set_fp8(what.get("fp8", False))
        optimiser = Optimiser(model, only)
        began = last_log = last_save = time.time()
        last_measure = began
        step, tokens, sums = 0, 0, collections.defaultdict(lambda: [0.0, 0])
        self.remember()
        held = None
        # Loss of the marks, packs, loss that the prior alone would have.
        by_source = torch.zeros(3, len(load.Packer.MIX), device=self.device)
        taught = torch.zeros((), device=self.device)
        bad = failures = 0
        self.log.put(event="phase", name=name, minutes=minutes)
        while True:
            now = time.time()
            share = (now - began) / (60 * minutes)
            if share >= 1 or (args.steps and step >= args.steps) or self.flag("next") or self.flag("stop"):
                break
            batch = self.batch()
            low, high = what["lr"][1], what["lr"][0]
            lr = args.lr * self.lr_factor * (high + (low - high) * share) * min(1.0, (step + 1) / ramp)
            try:
                hidden, kl = model(batch["tokens"], batch["positions"], batch["real"], mode, not warm)
                loss = kl if warm else loss_of(model, hidden, batch["targets"], batch["weights"])
                total = loss if warm or mode == "dense" else loss + 0.2 * kl / model.c.num_hidden_layers
                mark = None
                if batch["reading"] and not warm:
                    each, has = mark_loss(model, hidden, batch["mark_place"], batch["mark_label"], batch["mark_kind"],
                                          (self.vocabulary["open"], self.vocabulary["none"]), batch["mark_share"],
                                          batch["mark_none"], args.taught, batch.get("mark_prior"))
                    mark = each.sum() / has.sum().clamp(min=1)
                    total = total + args.mark_weight * mark
                    by_source[0].index_add_(0, batch["mark_source"], each.detach())
                    by_source[1].index_add_(0, batch["mark_source"], has.float())
                    if "mark_prior" in batch:
                        alone, _ = score_loss(batch["mark_prior"], batch["mark_label"], batch["mark_kind"],
                                              batch["mark_share"], batch["mark_none"], args.taught)
                        by_source[2].index_add_(0, batch["mark_source"], alone)
                    taught = taught + (batch["mark_none"] >= 0).float().sum()
                total.backward()
            except RuntimeError as problem:  # out of memory, or a compiled part that fails on a new case
                failures += 1
                FAST.clear()
                optimiser.zero()
                hidden = loss = total = kl = mark = held = None
                self.log.put(event="step failed", error=str(problem)[-400:].replace("\n", " "))
                if self.device == "cuda":
                    torch.cuda.empty_cache()
                if failures > 8:
                    raise
                continue
            if held is not None:  # the step before: read late, so that the device is never waited for
                kind, value = held[0], float(held[1])
                if value == value and value < 1e4:
                    sums[kind][0] += value
                    sums[kind][1] += 1
                    bad = 0
                    if held[2] is not None:
                        sums["mark"][0] += float(held[2])
                        sums["mark"][1] += 1
                else:
                    bad += 1
                    model.load_state_dict(self.good)
                    optimiser = Optimiser(model, only)
                    self.lr_factor *= 0.7
                    self.log.put(event="not finite", step=step, lr_factor=round(self.lr_factor, 3))
                    optimiser.zero()
                    held = None
                    continue
            held = ("reading" if batch["reading"] else "text", loss.detach(), None if mark is None else mark.detach())
            if warm:
                held = ("kl", loss.detach() / model.c.num_hidden_layers, None)
            if not warm and mode != "dense":
                sums["kl"][0] += float(kl.detach()) / model.c.num_hidden_layers
                sums["kl"][1] += 1
            norm = optimiser.step(lr)
            if not warm:
                for block in model.blocks:
                    if hasattr(block.mlp, "balance"):
                        block.mlp.balance(1e-3)
            step += 1
            self.step_count += 1
            tokens += batch["tokens"].numel()
            self.tokens_seen += batch["tokens"].numel()
            if step % 200 == 0 and bad == 0 and bool(torch.isfinite(norm + loss.detach())):
                self.remember()
            if time.time() - last_log > args.log_seconds:
                spent = time.time() - last_log
                self.log.put(phase=name, step=self.step_count, lr=float("%.3g" % lr),
                             **{kind: round(total / max(1, count), 4) for kind, (total, count) in sums.items()},
                             tokens_per_second=int(tokens / spent), tokens=self.tokens_seen,
                             chunks=len(os.listdir(os.path.join(args.scratch or args.out, "text"))),
                             **(self.helpers.made() if self.helpers else {}))
                if not warm:
                    lost, packs, before = by_source.tolist()
                    each = lambda sums: {name: round(sums[i] / packs[i], 3) for i, name in enumerate(load.Packer.MIX)
                                         if packs[i]}
                    self.log.put(marks=each(lost), **({"prior": each(before)} if self.lexicon else {}),
                                 taught=round(float(taught) / max(1, sum(packs)), 3))
                    by_source.zero_()
                    taught.zero_()
                for news in self.helpers.news() if self.helpers else ():
                    self.log.put(**news)
                last_log, tokens = time.time(), 0
                sums.clear()
            if time.time() - last_save > 100 or self.asked("save"):
                self.save()
                last_save = time.time()
                self.clear("save")
            if name != "pre" and not warm and time.time() - last_measure > args.measure_seconds:
                self.measure("dev", mode, args.measure_limit, "dev")
                last_measure = time.time()
        self.save()
        self.save("weights-%s.pt" % name)
        self.log.put(event="phase done", name=name, steps=step)
        if not args.quick or name == "fp8":
            self.measure("dev", mode, args.measure_limit, "dev")

    def asked(self, name):
        return os.path.exists(os.path.join(self.args.out, name))

    def clear(self, name):
        try:
            os.remove(os.path.join(self.args.out, name))
        except FileNotFoundError:  # nobody waits for it any more
            pass

    def flag(self, name):
        path = os.path.join(self.args.out, name)
        if name == "stop" and self.stopped:
            return True
        if os.path.exists(path):
            os.remove(path)
            self.stopped |= name == "stop"
            return True
        return False

    def finish(self):
        """Export first, measure after: what was learned is on disk before anything else can go wrong."""
        self.save()
        if self.helpers:
            self.helpers.end()
        for form in ("fp8", "bf16"):
            try:
                folder = os.path.join(self.args.out, "reader-" + form)
                size = export.write(self.model, self.vocabulary, os.path.join(self.args.data, "tokenizer.json"), folder,
                                    fp8=form == "fp8", random=False)
                self.log.put(event="export", form=form, bytes=size)
            except Exception:
                self.log.put(event="export failed", error=traceback.format_exc()[-800:])
        self.model.set_fp8(True)
        self.measure("dev", "sparse", None, "dev, whole, fp8")
        ids = self.reading.numbers("eval")
        titles = {int(r): int(self.reading.passage_title[self.reading.candidates[r][0]]) for r in ids}
        for label, odd in (("eval, even", 0), ("eval, odd", 1)):
            limit = self.args.measure_limit if self.args.quick else None
            self.measure("eval", "sparse", limit, label, lambda r: titles[r] % 2 == odd)
        self.log.put(event="end", steps=self.step_count, tokens=self.tokens_seen)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--more", action="append", default=[], help="another folder where chunks of text may appear")
    parser.add_argument("--scratch", help="for unpacked chunks (default OUT)")
    parser.add_argument("--minutes", default="pre=6.5,read=6.6,warm=0.6,sparse=2.2,fp8=1.1")
    parser.add_argument("--total", type=float, help="all phases end so many minutes after the start, loading included; "
                        "--minutes then gives their proportions")
    parser.add_argument("--weights", help="go on from these")
    parser.add_argument("--tokens", type=int, default=65536, help="of one step")
    parser.add_argument("--kl-samples", type=int, default=128, help="queries of a row that the indexer's loss looks at")
    parser.add_argument("--mark-weight", type=float, default=1.0, help="of the loss of the marks beside the answer's")
    parser.add_argument("--taught", type=float, default=0.6, help="share of the teacher in the loss of a pack's marks")
    parser.add_argument("--prior", type=int, choices=(0, 1), default=0,
                        help="1: marks are learnt as a correction of the lexical prior (prior.py); 0: alone")
    parser.add_argument("--no-helpers", dest="helpers", action="store_false", help="neither more questions nor a teacher")
    parser.add_argument("--teacher", default="", help="options of teacher.py run")
    parser.add_argument("--teacher-gpu", help="the teacher's GPU, by its number on the machine (default: training's)")
    parser.add_argument("--grow", default="", help="options of grow.py")
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--ramp", type=int, default=100, help="steps until the full learning rate, in each phase")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=max(2, min(8, (os.cpu_count() or 2) - 8)))
    parser.add_argument("--steps", type=int, help="at most so many a phase (smoke runs)")
    parser.add_argument("--toy", action="store_true", help="a model of a million parameters or so")
    parser.add_argument("--quick", action="store_true", help="measure little")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--log-seconds", type=float, default=15)
    parser.add_argument("--measure-seconds", type=float, default=120)
    parser.add_argument("--measure-limit", type=int, default=400)
    args = parser.parse_args()
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = True
    trainer = Trainer(args)
    plan = [(name, float(minutes)) for name, _, minutes in (part.partition("=") for part in args.minutes.split(","))]
    for number, (name, minutes) in enumerate(plan):
        if args.total:  # what is left, shared out in the plan's proportions
            left = args.total - (time.time() - trainer.log.began) / 60
            minutes *= max(0.0, left) / sum(m for _, m in plan[number:])
        if minutes > 0 and not trainer.stopped:
            trainer.phase(name, minutes)
    trainer.finish()


if __name__ == "__main__":
    main()
