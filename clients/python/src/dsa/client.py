"""The blocking client. One thread; several generators may be open at once."""

from __future__ import annotations

import json
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import zmq

from . import events
from .link import Link, endpoint_of
from .session import PING_S, WINDOW, Request, Session


class Client:
    def __init__(self, endpoint: Optional[str] = None, *, store: Optional[str] = None, server_key: Optional[bytes] = None,
                 secret_key: Optional[bytes] = None, window: int = WINDOW) -> None:
        address, known_key = endpoint_of(endpoint, store)
        self._session = Session(window)
        self._context = zmq.Context()
        self._link = Link(self._context, address, server_key or known_key, secret_key)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._flush()
        self._link.close()
        self._context.term()

    def ask(self, question: Union[str, bytes], **options: Any) -> Iterator[events.Event]:
        """Events of a new job, up to its FINAL. Options are SUBMIT's fields: collections, budget_tokens, seed, …"""
        return self._events(self._session.ask(question, options), bool(options.get("detach")))

    def attach(self, job: int, from_seq: int = 0) -> Iterator[events.Event]:
        """Events of a job from any number on. Closing this generator leaves the job alone."""
        return self._events(self._session.attach(job, from_seq), True)

    def cancel(self, job: int) -> Dict[str, Any]:
        return self._reply("X", {"job": job})[0]

    def ack(self, job: int) -> Dict[str, Any]:
        """Gives up what the daemon keeps of an ended job's answer."""
        return self._reply("K", {"job": job})[0]

    def status(self) -> Dict[str, Any]:
        return self._reply("Q", {})[0]

    def jobs(self, after: int = 0, all: bool = False) -> List[Dict[str, Any]]:
        found: List[Dict[str, Any]] = json.loads(self._reply("L", {"after": after, "all": all})[1])
        return found

    def _reply(self, type_: str, header: Dict[str, Any]) -> Tuple[Dict[str, Any], bytes]:
        request = self._session.request(type_, header)
        while not request.items:
            self._turn()
        item = request.items.popleft()[0]
        if isinstance(item, events.Error):
            raise item
        assert isinstance(item, tuple)  # what is no stream ends in a reply
        return item

    def _events(self, request: Request, detached: bool) -> Iterator[events.Event]:
        try:
            while True:
                while not request.items:
                    self._turn()
                item, price = request.items.popleft()
                if isinstance(item, events.Error):
                    raise item
                assert not isinstance(item, tuple)
                yield item
                self._session.consumed(request, price)
                if isinstance(item, events.Final):
                    return
        finally:
            if not request.done:
                (self._session.forget if detached else self._session.cancel)(request)
                self._flush()

    def _turn(self) -> None:
        self._watch()
        self._session.tick(time.monotonic())
        self._flush()
        poller = zmq.Poller()
        poller.register(self._link.socket, zmq.POLLIN)
        if not self._link.ended:
            poller.register(self._link.monitor, zmq.POLLIN)
        if self._link.socket in dict(poller.poll(0 if self._link.ended else int(PING_S * 1000 / 2))):
            self._session.receive(self._link.socket.recv_multipart(zmq.DONTWAIT))
        elif self._link.ended:
            self._link.renew()

    def _watch(self) -> None:
        while not self._link.ended and self._link.monitor.poll(0):
            if self._link.note(self._link.monitor.recv_multipart(zmq.DONTWAIT)):
                self._session.connected()

    def _flush(self) -> None:
        while self._session.outgoing:
            frames = self._session.outgoing.popleft()
            try:
                if not self._link.up:
                    raise zmq.Again
                self._link.socket.send_multipart(frames, zmq.DONTWAIT)
            except zmq.Again:
                self._session.unsent(frames)
