"""One DEALER for one connection, and the monitor that says when it begins and ends.

When a connection ends, what it brought is read to the last message; then the socket goes, with all that was queued in
it, and a new one connects. Never ZMQ_IMMEDIATE, which would keep messages for an absent daemon from being queued too:
with libzmq 4.3 the end of the daemon then takes the rest of a half-read message away, and may abort this process.
Never a ZMTP heartbeat: a slow reader that has one aborts itself.
"""

from __future__ import annotations

import itertools
import os
import struct
from typing import Any, List, Optional, Tuple

import zmq

LINGER_MS = 500  # lets a last CANCEL leave
_numbers = itertools.count()


class Link:
    def __init__(self, context: Any, endpoint: str, server_key: Optional[bytes], secret_key: Optional[bytes]) -> None:
        if server_key and not secret_key:
            raise ValueError("the daemon asks for a key: give secret_key")
        self._context, self._endpoint, self._server_key, self._secret_key = context, endpoint, server_key, secret_key
        self._open()

    def _open(self) -> None:
        self.up = False  #: the handshake is done
        self.ended = False  #: the connection is gone: read what it brought, then renew()
        self.socket = self._context.socket(zmq.DEALER)
        for option, value in ((zmq.RCVHWM, 0), (zmq.LINGER, 0), (zmq.RECONNECT_IVL, 50), (zmq.RECONNECT_IVL_MAX, 2000)):
            self.socket.setsockopt(option, value)
        if self._server_key and self._secret_key:
            self.socket.curve_serverkey = self._server_key
            self.socket.curve_secretkey = self._secret_key
            self.socket.curve_publickey = zmq.curve_public(self._secret_key)
        address = f"inproc://dsa-monitor-{next(_numbers)}"
        self.socket.monitor(address, zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self.monitor = self._context.socket(zmq.PAIR)
        self.monitor.setsockopt(zmq.LINGER, 0)
        self.monitor.connect(address)
        self.socket.connect(self._endpoint)

    def note(self, frames: List[bytes]) -> bool:
        """Takes one message of the monitor; True when the connection is there from now on."""
        (event,) = struct.unpack_from("=H", frames[0])
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.up = True
            return True
        if event == zmq.EVENT_DISCONNECTED and self.up:
            self.up, self.ended = False, True
        return False

    def renew(self) -> None:
        self._close(0)
        self._open()

    def close(self) -> None:
        """What waits for a daemon that is not there waits for nobody."""
        self._close(LINGER_MS if self.up else 0)

    def _close(self, linger_ms: int) -> None:
        self.socket.disable_monitor()
        self.monitor.close()
        self.socket.close(linger=linger_ms)


def endpoint_of(endpoint: Optional[str], store: Optional[str]) -> Tuple[str, Optional[bytes]]:
    """The address, and for tcp the daemon's public key, as STORE/run/endpoint says."""
    if endpoint:
        return endpoint, None
    if not store:
        return "ipc:///run/dsad/dsad.sock", None
    with open(os.path.join(os.path.expanduser(store), "run", "endpoint"), encoding="utf-8") as note:
        lines = note.read().split("\n")
    return lines[0], lines[1].encode() if len(lines) > 1 and lines[1] else None
