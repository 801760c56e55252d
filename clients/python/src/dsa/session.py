"""The protocol without sockets: what was asked, what still has to come, what must be said again after a break.

Both clients drive one Session: they give it what arrives, send what lies in `outgoing`, call connected() when there is
a new connection, and tick() now and then.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from typing import Any, Deque, Dict, List, Optional, Tuple, Union

from . import events

MAGIC = b"DSA1"
MINOR = 1
OVERHEAD = 512
WINDOW = 256 * 1024
NUMBERED = "etcfr"
PING_S = 0.5
RESEND_S = 5.0

Frames = List[bytes]
Item = Union[events.Event, events.Error, Tuple[Dict[str, Any], bytes]]


def cost(header: bytes, body: bytes) -> int:
    return OVERHEAD + len(header) + len(body)


class Request:
    def __init__(self, type_: str, header: Dict[str, Any], body: bytes, stream: bool) -> None:
        self.id = os.urandom(16)
        self.type, self.header, self.body, self.stream = type_, header, body, stream
        self.job = 0
        self.next_seq = 0
        self.accepted = self.resuming = self.done = False
        self.sent_at = 0.0
        self.uncredited = 0
        self.items: Deque[Tuple[Item, int]] = deque()  # with what each costs


class Session:
    def __init__(self, window: int = WINDOW) -> None:
        self.window = window
        self.requests: Dict[bytes, Request] = {}
        self.outgoing: Deque[Frames] = deque()
        self.pinged_at = 0.0

    # Asking

    def ask(self, question: Union[str, bytes], options: Dict[str, Any]) -> Request:
        header = dict(options, credit=self.window)
        header.setdefault("key", os.urandom(16).hex())
        body = question.encode() if isinstance(question, str) else question
        return self._start(Request("S", header, body, True))

    def attach(self, job: int, from_seq: int) -> Request:
        request = Request("A", {}, b"", True)
        request.job, request.next_seq = job, from_seq
        return self._start(request)

    def request(self, type_: str, header: Dict[str, Any]) -> Request:
        return self._start(Request(type_, header, b"", False))

    def cancel(self, request: Request) -> None:
        """Forgets the request here, and ends its job there."""
        self.requests.pop(request.id, None)
        if request.job:
            self._put("X", os.urandom(16), {"job": request.job})
        elif "key" in request.header:
            self._put("X", os.urandom(16), {"key": request.header["key"]})

    def forget(self, request: Request) -> None:
        self.requests.pop(request.id, None)

    def consumed(self, request: Request, bytes_: int) -> None:
        """The program took an item: its cost is granted again, a quarter of the window at a time."""
        request.uncredited += bytes_
        if request.uncredited >= self.window // 4 and not request.done:
            self._put("C", request.id, {"bytes": request.uncredited})
            request.uncredited = 0

    # What arrives

    def receive(self, frames: Frames) -> Optional[Request]:
        """Takes one message; the request that has a new item, if any."""
        if len(frames) not in (4, 5) or frames[0] != MAGIC or len(frames[1]) != 1:
            return None
        type_, body = frames[1].decode("latin-1"), frames[4] if len(frames) == 5 else b""
        try:
            header = json.loads(frames[3])
        except ValueError:
            return None
        request = self.requests.get(frames[2])
        if request is None:
            if type_ == "o":
                self._on_pong(header)
            elif type_ == "b":  # all that came before it was taken: the daemon may go
                self._put("B", frames[2], {})
            return None
        if not request.stream:
            return self._end(request, _error(header) if type_ == "r" else (header, body))
        return self._on_stream(request, type_, header, body, cost(frames[3], body))

    def _on_stream(self, request: Request, type_: str, header: Dict[str, Any], body: bytes, price: int) -> Optional[Request]:
        seq = header.get("seq", -1)
        if type_ in NUMBERED and seq >= 0:
            if seq != request.next_seq:
                if seq < request.next_seq:
                    self.consumed(request, price)
                elif not request.resuming:
                    self._send(request)
                return None
            request.next_seq += 1
            if type_ in "fr":
                return self._end(request, _error(header) if type_ == "r" else events.make(type_, header, body, request.job))
            request.items.append((events.make(type_, header, body, request.job), price))
            return request
        if type_ == "r":
            return self._end(request, _error(header))
        if type_ == "s":
            request.job, request.resuming, first = header.get("job", request.job), False, not request.accepted
            request.accepted = True
            if not first:
                return None
        elif type_ == "z":
            request.next_seq = 0
        elif type_ != "p":
            return None
        request.items.append((events.make(type_, header, body, request.job), 0))
        return request

    def _end(self, request: Request, item: Item) -> Request:
        request.done = True
        request.items.append((item, 0))
        self.requests.pop(request.id, None)
        return request

    def _on_pong(self, header: Dict[str, Any]) -> None:
        open_streams = sum(r.stream and r.accepted for r in self.requests.values())
        if header.get("streams", 0) < open_streams:  # it took us for dead
            for request in list(self.requests.values()):
                if request.accepted:
                    self._send(request)

    # Connections and time

    def connected(self) -> None:
        """A new connection: everything that has not ended is said again, or taken up where it stands."""
        self.pinged_at = -PING_S
        for request in list(self.requests.values()):
            self._send(request)

    def tick(self, now: float) -> None:
        if now - self.pinged_at >= PING_S:
            self.pinged_at = now
            self._put("P", os.urandom(16), {"minor": MINOR})
        for request in list(self.requests.values()):
            if not request.accepted and now - request.sent_at >= RESEND_S:
                self._send(request)

    def unsent(self, frames: Frames) -> None:
        """There was no connection to take it: connected() makes requests true again, the rest is said anew anyway."""
        request = self.requests.get(frames[2])
        if request is not None:
            request.resuming = False

    # Sending

    def _start(self, request: Request) -> Request:
        self.requests[request.id] = request
        self._send(request)
        return request

    def _send(self, request: Request) -> None:
        request.sent_at = time.monotonic()
        if request.stream and request.job:
            request.uncredited, request.resuming = 0, True
            self._put("A", request.id, {"job": request.job, "from": request.next_seq, "credit": self.window})
        else:
            self._put(request.type, request.id, request.header, request.body)

    def _put(self, type_: str, id_: bytes, header: Dict[str, Any], body: bytes = b"") -> None:
        frames = [MAGIC, type_.encode("latin-1"), id_, json.dumps(header).encode()]
        self.outgoing.append(frames + [body] if body else frames)


def _error(header: Dict[str, Any]) -> events.Error:
    return events.Error(header.get("code", "internal"), header.get("message", ""), header.get("retryable") is True)

