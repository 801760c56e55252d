#!/usr/bin/python3
"""A dsa-extract that lies: stands beside dsa-ingest in test_ingest.sh. What it does is the name of the document."""
import array
import json
import os
import socket
import struct
import sys

START, META, PAGE_BEGIN, LINE, PAGE_END, OUTLINE, MEMBER_BEGIN, MEMBER_DATA, MEMBER_END, PROBLEM, PROGRESS, END = range(1, 13)


def frame(kind, payload=b"", magic=0x58415344):
    if isinstance(payload, dict):
        payload = json.dumps(payload).encode()
    return struct.pack("<III", magic, kind, len(payload)) + payload


def page(number):
    return frame(PAGE_BEGIN, struct.pack("<Iff", number, 612, 792) + struct.pack("<I", 0))


def line(text, words=()):
    payload = struct.pack("<BBBBfII", 0, 0, 0, 0, 10.0, len(words), len(text))
    for word in words:
        payload += struct.pack("<IIiiii", *word)
    return frame(LINE, payload + text)


start = frame(START, {"media_type": "text/plain", "extractor": "a lie"})
whole = start + page(1) + line(b"One page of text.") + frame(PAGE_END)
lies = {
    "honest.txt": whole + frame(END),
    "garbage.txt": os.urandom(5000),
    "nothing.txt": b"",
    "no-end.txt": whole,
    "mid-page.txt": whole + page(2) + line(b"Half of a page."),
    "mid-frame.txt": whole + frame(END)[:7],
    "huge-frame.txt": start + struct.pack("<III", 0x58415344, LINE, 0xFFFFFFF0) + b"x" * 1000,
    "no-start.txt": page(1),
    "pages-descend.txt": whole + page(1) + frame(PAGE_END) + frame(END),
    "words-outside.txt": start + page(1) + line(b"short", [(0, 4000000, 0, 0, 10, 10)]) + frame(PAGE_END) + frame(END),
    "words-many.txt": start + page(1) + frame(LINE, struct.pack("<BBBBfII", 0, 0, 0, 0, 10.0, 0x10000000, 1) + b"x"),
    "not-utf8.txt": start + page(1) + line(b"\xff\xfe") + frame(PAGE_END) + frame(END),
    "nan.txt": start + page(1) + frame(LINE, struct.pack("<BBBBfII", 0, 0, 0, 0, float("nan"), 0, 1) + b"x") + frame(END),
    "no-json.txt": frame(START, b"{\"media_type\": "),
    "json-types.txt": frame(START, {"media_type": 7, "extractor": [1]}) + frame(META, {"title": {"a": 1}, "author": None})
    + page(1) + line(b"Text.") + frame(PAGE_END) + frame(OUTLINE, b'[1, {"title": 5, "level": "x", "page": 1e99}, null]')
    + frame(PROBLEM, {"code": 9, "message": ["x"], "page": -5}) + frame(END),
    "escape.txt": start + frame(META, {"title": "a\u001b[31mred\nline\u202e"}) + page(1) + line(b"Text.") + frame(PAGE_END)
    + frame(END),
    "both.txt": whole + frame(MEMBER_BEGIN, {"name": "x"}) + frame(MEMBER_END, {"complete": True}) + frame(END),
    "long-name.txt": start + frame(MEMBER_BEGIN, {"name": "n" * 100000}) + frame(MEMBER_END, {"complete": True}) + frame(END),
    "member-cut.txt": start + frame(MEMBER_BEGIN, {"name": "x"}) + frame(MEMBER_DATA, b"abc"),
    "after-end.txt": whole + frame(END) + whole,
}


def main():
    server = socket.socket(fileno=3)
    server.send(json.dumps({"ready": True, "version": "0", "jail": {}}).encode())
    while True:
        packet, control, _, _ = server.recvmsg(16384, socket.CMSG_SPACE(8))
        if not packet:
            return
        request = json.loads(packet)
        if "kill" in request:
            continue
        fds = array.array("i")
        for _, _, data in control:
            fds.frombytes(data[:len(data) - len(data) % fds.itemsize])
        ident = request["id"]
        name = request["name"]
        if name == "server-dies.txt":
            sys.exit(1)
        server.send(json.dumps({"id": ident, "pid": 1}).encode())
        server.send(b"\xff\xff no message")
        server.send(json.dumps({"id": 10**9, "exit": "ok"}).encode())
        try:
            with os.fdopen(fds[1], "wb") as pipe:
                pipe.write(lies.get(name, start + frame(END)))
        except BrokenPipeError:
            pass
        os.close(fds[0])
        server.send(json.dumps({"id": ident, "exit": "ok", "reason": "ok", "max_rss_bytes": 1}).encode())


if sys.argv[1:2] == ["--names"]:
    print("\n".join(sorted(lies) + ["server-dies.txt"]))
else:
    main()
