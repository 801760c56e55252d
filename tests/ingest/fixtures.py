#!/usr/bin/python3
"""Fixtures and queries for test_ingest.sh: documents are written here, never copied from anywhere.

  fixtures.py pdf PATH PAGES [PASSWORD]   a PDF of so many pages of prose; encrypted (RC4, 40 bits) with a password
  fixtures.py text PATH WORD COUNT        COUNT sentences about WORD
  fixtures.py query STORE SQL             rows of corpus.db, columns parted by |
  fixtures.py verify STORE                checks every chunk against its spans; prints how many
  fixtures.py terminal COMMAND...         runs it with a terminal as standard error; prints what came there
"""
import hashlib
import os
import pty
import sqlite3
import subprocess
import sys

WORDS = b"Sentence Line Verse Remark Clause Report Account Record Entry Notice Article".split()
PAD = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")


def rc4(key, data):
    s, j, out = list(range(256)), 0, bytearray()
    for i in range(256):
        j = (j + s[i] + key[i % len(key)]) & 255
        s[i], s[j] = s[j], s[i]
    i = j = 0
    for byte in data:
        i = (i + 1) & 255
        j = (j + s[i]) & 255
        s[i], s[j] = s[j], s[i]
        out.append(byte ^ s[(s[i] + s[j]) & 255])
    return bytes(out)


def pdf(path, pages, password=None):
    ident = hashlib.md5(path.encode()).digest()
    key = None
    extra = b""
    if password:
        padded = (password.encode() + PAD)[:32]
        owner = rc4(hashlib.md5(padded).digest()[:5], padded)
        permissions = (-4).to_bytes(4, "little", signed=True)
        key = hashlib.md5(padded + owner + permissions + ident).digest()[:5]
        extra = b"/Encrypt 4 0 R /ID [<%s> <%s>]" % ((ident.hex().encode(),) * 2)
        crypt = b"<< /Filter /Standard /V 1 /R 2 /O <%s> /U <%s> /P -4 >>" % (
            owner.hex().encode(), rc4(key, PAD).hex().encode())
    objects = {1: b"<< /Type /Catalog /Pages 2 0 R >>",
               3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"}
    if password:
        objects[4] = crypt
    kids = []
    for p in range(pages):
        number = 10 + 2 * p
        kids.append(b"%d 0 R" % number)
        lines = [b"BT /F 9 Tf 60 760 Td (Running header of the report) Tj ET"]
        lines.append(b"BT /F 16 Tf 60 720 Td (Chapter %d of the book) Tj ET" % (p + 1))
        for i in range(30):
            lines.append(b"BT /F 10 Tf 60 %d Td (%s %d of page %d says that all is well with the %s.) Tj ET"
                         % (690 - 14 * i, WORDS[(p * 7 + i) % len(WORDS)], i, p + 1, os.path.basename(path).encode()))
        lines.append(b"BT /F 9 Tf 280 30 Td (Page %d of %d) Tj ET" % (p + 1, pages))
        content = b"\n".join(lines)
        if key:
            content = rc4(hashlib.md5(key + (number + 1).to_bytes(3, "little") + b"\0\0").digest()[:10], content)
        objects[number] = (b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
                           b"/Resources << /Font << /F 3 0 R >> >> >>" % (number + 1))
        objects[number + 1] = b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content)
    objects[2] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), pages)
    out, offsets = bytearray(b"%PDF-1.4\n"), {}
    for number in sorted(objects):
        offsets[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, objects[number])
    xref, size = len(out), max(objects) + 1
    out += b"xref\n0 %d\n0000000000 65535 f \n" % size
    for number in range(1, size):
        out += b"%010d 00000 n \n" % offsets[number] if number in offsets else b"0000000000 65535 f \n"
    out += b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (size, extra, xref)
    with open(path, "wb") as file:
        file.write(out)


def query(store, sql):
    # A reader like any other: the WAL of a killed run is replayed by this.
    db = sqlite3.connect(os.path.join(store, "corpus.db"))
    db.text_factory = lambda b: b.decode("utf-8", "surrogateescape")
    for row in db.execute(sql):
        print("|".join("" if v is None else str(v) for v in row))


def verify(store):
    db = sqlite3.connect(os.path.join(store, "corpus.db"))
    if db.execute("pragma integrity_check").fetchone()[0] != "ok":
        sys.exit("integrity_check failed")
    if not db.execute("select count(*) from sqlite_master").fetchone()[0]:
        print(0)  # killed before the first transaction
        return
    pages = {(d, n): bytes(t) for d, n, t in db.execute("select document_id, number, text from pages")}
    count = 0
    for chunk, document in db.execute("select id, document_id from chunks").fetchall():
        body = b"\n".join(pages[document, page][start:stop] for page, start, stop in db.execute(
            "select page, start, stop from chunk_spans where chunk_id = ? order by ordinal", (chunk,)))
        if not body or len(body) > 1200 or body != body.strip():
            sys.exit("chunk %d is %r" % (chunk, body[:80]))
        body.decode("utf-8")
        count += 1
    ids = {row[0] for row in db.execute("select id from documents")}
    for table in "pages", "chunks", "problems":
        for (document,) in db.execute("select distinct document_id from " + table):
            if document not in ids:
                sys.exit("%s of a document that is not there" % table)
    print(count)


def terminal(command):
    master, slave = pty.openpty()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=slave)
    os.close(slave)
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:
            break
        if not data:
            break
        sys.stdout.buffer.write(data)
    sys.exit(process.wait())


def main():
    what, *args = sys.argv[1:]
    if what == "pdf":
        pdf(args[0], int(args[1]), *args[2:])
    elif what == "text":
        with open(args[0], "w") as file:
            for i in range(int(args[2])):
                file.write("Sentence %d tells something about the %s.\n" % (i, args[1]))
    elif what == "query":
        query(*args)
    elif what == "verify":
        verify(*args)
    elif what == "terminal":
        terminal(args)


main()
