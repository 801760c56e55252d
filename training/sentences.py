"""Sentence edges of a passage, and the passages of an article."""
import re

EDGE = re.compile(r"[.!?][\"'”’)\]]*(\s+)(?=[\"'“‘(\[]?[A-Z0-9])")
ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Gen|Col|Lt|Sgt|Capt|Rev|Hon|Gov|Sen|Rep|Maj|Adm|No|Nos|Vol|vs|v|cf|ca|c|approx"
    r"|e\.g|i\.e|etc|al|Fig|Inc|Ltd|Co|Corp|Mt|Ft|Op|op|pp|p|ed|eds|trans|b|d|r|fl|Jan|Feb|Aug|Sept|Oct|Nov|Dec)"
    r"|\b[A-Z](?:\.[A-Z])*|\b[ap]\.m)\.$")


def split(text):
    """[(start, end)] of the sentences of one passage, white space between them left out."""
    edges, start = [], 0
    for match in EDGE.finditer(text):
        end = match.start(1)
        if text[end - 1] == "." and ABBREVIATION.search(text[max(0, end - 12):end]):
            continue
        edges.append((start, end))
        start = match.end(1)
    if start < len(text.rstrip()):
        edges.append((start, len(text.rstrip())))
    return edges


def passages(body, low=180, high=1400):
    """Paragraphs of an article as passages; long ones are cut between sentences, headings are left out."""
    found = []
    for line in body.split("\n"):
        line = line.strip()
        if len(line) < low or line.startswith(("*", "#", "|", "{")):
            continue
        if len(line) <= high:
            found.append(line)
            continue
        start = end = 0
        for _, edge in split(line):
            if edge - start > high and end > start:
                if end - start >= low:
                    found.append(line[start:end].strip())
                start = end
            end = edge
        if low <= len(line) - start <= high + 400:
            found.append(line[start:].strip())
    return found
