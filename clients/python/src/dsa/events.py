"""What a stream brings, as immutable values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple


class Error(Exception):
    """The daemon's ERROR: a stable code, a sentence, and whether it is worth trying again."""

    def __init__(self, code: str, message: str, retryable: bool = False) -> None:
        super().__init__(f"{message} ({code})")
        self.code, self.message, self.retryable = code, message, retryable


class Rect(NamedTuple):
    """Points from the page's top left."""

    page: int
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Event:
    job: int
    seq: int  #: -1: not numbered
    header: Dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Accepted(Event):
    """The job is on the daemon's disk."""


@dataclass(frozen=True)
class _Placed(Event):
    text: str
    document: int
    title: str
    path: str
    member: str
    label: str
    page: int
    rects: List[Rect]


@dataclass(frozen=True)
class Evidence(_Placed):
    """One passage that was found: number `rank` of `count`."""

    rank: int
    count: int
    score: float


@dataclass(frozen=True)
class Tokens(Event):
    """The answer goes on."""

    text: str


@dataclass(frozen=True)
class Citation(_Placed):
    """Where a quotation stands; verified: its bytes were compared with the stored page."""

    block: int
    verified: bool


@dataclass(frozen=True)
class Progress(Event):
    phase: str
    done: int
    total: int


@dataclass(frozen=True)
class Final(Event):
    """The end. answered_by: model, random-checkpoint, extractive-baseline or none."""

    reason: str
    answered_by: str


@dataclass(frozen=True)
class Reset(Event):
    """The stream starts again from its beginning: forget what came."""


def make(type_: str, header: Dict[str, Any], body: bytes, job: int) -> Event:
    base = {"job": header.get("job", job), "seq": header.get("seq", -1), "header": header}
    if type_ == "s":
        return Accepted(**base)
    if type_ == "t":
        return Tokens(**base, text=body.decode("utf-8", "replace"))
    if type_ == "p":
        return Progress(**base, phase=header.get("phase", ""), done=header.get("done", 0), total=header.get("total", 0))
    if type_ == "f":
        return Final(**base, reason=header.get("reason", ""), answered_by=header.get("answered_by", ""))
    if type_ == "z":
        return Reset(**base)
    placed = {
        "text": body.decode("utf-8", "replace"),
        "document": header.get("document", 0),
        "title": header.get("title", ""),
        "path": header.get("path", ""),
        "member": header.get("member", ""),
        "label": header.get("label", ""),
        "page": header.get("page", 0),
        "rects": [Rect(*r) for r in header.get("rects", []) if len(r) == 5],
    }
    if type_ == "e":
        return Evidence(**base, **placed, rank=header.get("rank", 0), count=header.get("count", 0),
                        score=header.get("score", 0.0))
    return Citation(**base, **placed, block=header.get("block", 0), verified=header.get("verified") is True)
