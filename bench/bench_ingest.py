#!/usr/bin/python3
"""dsa-ingest beside pdftotext and a bare poppler loop, over the same documents in one run.

  bench/bench_ingest.py BUILD DATA [--runs N]

BUILD is the build folder, DATA the evaluation data (see bench/README.md). Each program runs N times in turn
(A B C A B C …), so that a busy machine is busy for all. Rates are per second of processor time, of all processes a
program started, and per second of the wall; the median run counts, the spread is (max - min) / median.
"""
import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time


ENDLESS = "bomb_giant.pdf"  # a bare loop takes minutes on it


def run(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return wall, cpu, done.stdout.decode("utf-8", "replace")


def ingest(build, files, jobs, totals):
    store = tempfile.mkdtemp()
    try:
        wall, cpu, out = run([build + "/ingest/dsa-ingest", "--store", store + "/s", "--json", "--jobs", str(jobs),
                              *files])
        totals.update(json.loads(out.splitlines()[-1])["summary"])
        totals["db_bytes"] = os.path.getsize(store + "/s/corpus.db")
        return wall, cpu
    finally:
        shutil.rmtree(store)


def pdftotext(files):
    with tempfile.TemporaryDirectory() as folder:
        return run(["/bin/sh", "-c", "for f; do pdftotext \"$f\" %s/out 2>/dev/null; done" % folder, "sh", *files])[:2]


def measure(what, build, files, runs):
    totals = {}
    poppler = build + "/bench/bench_poppler"
    kinds = [("poppler get_text", lambda: run([poppler, *files])[:2]),
             ("poppler get_text + layout", lambda: run([poppler, "--layout", *files])[:2]),
             ("pdftotext, a process each", lambda: pdftotext(files)),
             ("dsa-ingest --jobs 1", lambda: ingest(build, files, 1, totals)),
             ("dsa-ingest --jobs 2", lambda: ingest(build, files, 2, totals))]
    times = {name: [] for name, _ in kinds}
    for _ in range(runs):
        for name, call in kinds:
            times[name].append(call())
    pages, size = totals["pages"], sum(os.path.getsize(f) for f in files) / 1e6
    print("\n%s: %d documents, %d pages, %.1f MB; text %.2f MB, corpus.db %.2f MB; largest child %.1f MiB; %s" % (
        what, len(files), pages, size, totals["text_bytes"] / 1e6, totals["db_bytes"] / 1e6,
        totals["max_rss_bytes"] / 2**20, {k: totals[k] for k in ("ok", "partial", "failed", "skipped", "duplicates")}))
    print("| program | pages/s cpu | MB/s cpu | documents/s cpu | of get_text | spread | documents/s wall | pages/s wall |")
    print("|---|---|---|---|---|---|---|---|")
    base = statistics.median(c for _, c in times["poppler get_text"])
    for name, _ in kinds:
        cpu = statistics.median(c for _, c in times[name])
        wall = statistics.median(w for w, _ in times[name])
        spread = (max(c for _, c in times[name]) - min(c for _, c in times[name])) / cpu
        print("| %s | %.0f | %.2f | %.0f | %.2f | %.0f%% | %.0f | %.0f |" % (
            name, pages / cpu, size / cpu, len(files) / cpu, base / cpu, 100 * spread, len(files) / wall, pages / wall))


def pages_of(path):
    out = subprocess.run(["pdfinfo", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
    for line in out.decode("utf-8", "replace").splitlines():
        if line.startswith("Pages:"):
            return int(line.split()[1])
    return 0


def find(root):
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names
                  if name.lower().endswith(".pdf") and name != ENDLESS)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("data")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--set", choices=("filings", "short"), help="one of the two alone")
    options = parser.parse_args()
    print("load average at the start: %s; %d processors" % (os.getloadavg(), os.cpu_count()))
    if options.set != "short":
        filings = [f for f in find(options.data + "/e2e") if pages_of(f) >= 45]
        measure("Filings of 45 pages and more", options.build, filings, options.runs)
    if options.set != "filings":
        short = [f for part in ("pdf-robust", "pdf-plain", "pdf-groundtruth") for f in find(options.data + "/" + part)]
        measure("Short PDFs, many of them damaged", options.build, short, options.runs)
    print("\nload average at the end: %s" % (os.getloadavg(),))


main()
