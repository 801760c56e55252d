"""The asyncio client. Many generators may run at once; one task reads the socket for all of them."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, AsyncIterator, Dict, List, Optional, Tuple, Union

import zmq
import zmq.asyncio

from . import events
from .link import Link, endpoint_of
from .session import PING_S, WINDOW, Item, Request, Session


class AsyncClient:
    def __init__(self, endpoint: Optional[str] = None, *, store: Optional[str] = None, server_key: Optional[bytes] = None,
                 secret_key: Optional[bytes] = None, window: int = WINDOW) -> None:
        address, known_key = endpoint_of(endpoint, store)
        self._session = Session(window)
        self._context = zmq.asyncio.Context()
        self._link = Link(self._context, address, server_key or known_key, secret_key)
        self._arrived: Dict[bytes, asyncio.Event] = {}
        self._reader: Optional["asyncio.Task[None]"] = None
        self._failure: Optional[BaseException] = None

    async def __aenter__(self) -> "AsyncClient":
        self._reader = asyncio.ensure_future(self._read())
        self._reader.add_done_callback(self._wake_all)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _wake_all(self, reader: "asyncio.Task[None]") -> None:
        """Nothing arrives any more: who waits is told, not left waiting."""
        if not reader.cancelled():
            self._failure = reader.exception()
        for arrived in self._arrived.values():
            arrived.set()

    async def close(self) -> None:
        if self._reader:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._flush()
        self._link.close()
        self._context.term()

    def ask(self, question: Union[str, bytes], **options: Any) -> AsyncIterator[events.Event]:
        return self._events(self._session.ask(question, options), bool(options.get("detach")))

    def attach(self, job: int, from_seq: int = 0) -> AsyncIterator[events.Event]:
        return self._events(self._session.attach(job, from_seq), True)

    async def cancel(self, job: int) -> Dict[str, Any]:
        return (await self._reply("X", {"job": job}))[0]

    async def ack(self, job: int) -> Dict[str, Any]:
        return (await self._reply("K", {"job": job}))[0]

    async def status(self) -> Dict[str, Any]:
        return (await self._reply("Q", {}))[0]

    async def jobs(self, after: int = 0, all: bool = False) -> List[Dict[str, Any]]:
        found: List[Dict[str, Any]] = json.loads((await self._reply("L", {"after": after, "all": all}))[1])
        return found

    async def _next(self, request: Request) -> Tuple[Item, int]:
        arrived = self._arrived.setdefault(request.id, asyncio.Event())
        await self._flush()
        while not request.items:
            if self._reader is None or self._reader.done():
                raise RuntimeError("the client is not open") from self._failure
            arrived.clear()
            await arrived.wait()
        return request.items.popleft()

    async def _reply(self, type_: str, header: Dict[str, Any]) -> Tuple[Dict[str, Any], bytes]:
        request = self._session.request(type_, header)
        try:
            item, _ = await self._next(request)
        finally:
            self._arrived.pop(request.id, None)
            self._session.forget(request)
        if isinstance(item, events.Error):
            raise item
        assert isinstance(item, tuple)  # what is no stream ends in a reply
        return item

    async def _events(self, request: Request, detached: bool) -> AsyncIterator[events.Event]:
        try:
            while True:
                item, price = await self._next(request)
                if isinstance(item, events.Error):
                    raise item
                assert not isinstance(item, tuple)
                yield item
                self._session.consumed(request, price)
                if isinstance(item, events.Final):
                    return
        finally:
            self._arrived.pop(request.id, None)
            if not request.done:
                (self._session.forget if detached else self._session.cancel)(request)
                await asyncio.shield(self._flush())

    async def _read(self) -> None:
        while True:
            await self._watch()
            self._session.tick(time.monotonic())
            await self._flush()
            poller = zmq.asyncio.Poller()
            poller.register(self._link.socket, zmq.POLLIN)
            if not self._link.ended:
                poller.register(self._link.monitor, zmq.POLLIN)
            if self._link.socket in dict(await poller.poll(0 if self._link.ended else int(PING_S * 1000 / 2))):
                request = self._session.receive(await self._link.socket.recv_multipart(zmq.DONTWAIT))
                if request is not None and request.id in self._arrived:
                    self._arrived[request.id].set()
            elif self._link.ended:
                self._link.renew()

    async def _watch(self) -> None:
        while not self._link.ended and await self._link.monitor.poll(0):
            if self._link.note(await self._link.monitor.recv_multipart(zmq.DONTWAIT)):
                self._session.connected()

    async def _flush(self) -> None:
        while self._session.outgoing:
            frames = self._session.outgoing.popleft()
            try:
                if not self._link.up:
                    raise zmq.Again
                await self._link.socket.send_multipart(frames, zmq.DONTWAIT)
            except zmq.Again:
                self._session.unsent(frames)
