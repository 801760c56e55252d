#!/usr/bin/env python3
"""Writes engine/nfc_tables.h: what normalisation form C needs, from this Python's unicodedata.

    make-nfc-tables.py > engine/nfc_tables.h

Restricted to Unicode 9, which is what the `tokenizers` package 0.23 normalises by, so that both agree: characters
assigned since have neither a class nor a decomposition here."""
import unicodedata

# Characters with a combining class or a decomposition that are younger than Unicode 9.
YOUNGER = """07FD 0898-089F 08CA-08D3 09FE 0C3C 0D3B-0D3C 0EBA 1715 1ABF-1ACE 1DF6-1DFA A82C 10D24-10D27 10EAB-10EAC
10F46-10F50 10F82-10F85 11070 1133B 1145E 11839-1183A 11938 1193D-1193E 11943 119E0 11A34 11A47 11A99 11D42 11D44-11D45
11D97 16FF0-16FF1 1E130-1E136 1E2AE 1E2EC-1E2EF"""


def younger():
    codes = set()
    for item in YOUNGER.split():
        first, _, last = item.partition("-")
        codes.update(range(int(first, 16), int(last or first, 16) + 1))
    return codes


def hangul(code):
    return 0xAC00 <= code <= 0xD7A3


def main():
    pairs, composed, classes = [], [], []
    left_out = younger()
    for code in range(0x110000):
        if code in left_out:
            continue
        text = chr(code)
        ccc = unicodedata.combining(text)
        if ccc:
            if classes and classes[-1][1] == code - 1 and classes[-1][2] == ccc:
                classes[-1][1] = code
            else:
                classes.append([code, code, ccc])
        mapping = unicodedata.decomposition(text)
        if not mapping or mapping.startswith("<") or hangul(code):
            continue
        parts = [int(part, 16) for part in mapping.split()]
        pairs.append((code, parts[0], parts[1] if len(parts) > 1 else 0))
        if len(parts) == 2 and unicodedata.normalize("NFC", text) == text:
            composed.append((parts[0], parts[1], code))
    composed.sort()
    print("/* engine/nfc_tables.h: canonical decompositions, compositions and combining classes of Unicode 9, without")
    print(" * Hangul, which is computed. Made by tools/make-nfc-tables.py. */")
    print("#ifndef ENGINE_NFC_TABLES_H\n#define ENGINE_NFC_TABLES_H\n\n#include <stdint.h>\n")

    def table(name, comment, rows, form):
        print("/* %s */" % comment)
        print("static const uint32_t %s[%d][3] = {" % (name, len(rows)))
        line = "   "
        for row in rows:
            cell = " {" + form % tuple(row) + "},"
            if len(line) + len(cell) > 118:
                print(line)
                line = "   "
            line += cell
        print(line + "\n};\n")

    table("NFC_DECOMPOSED", "Character, what it decomposes to in one step: one character (then 0) or two.", pairs,
          "0x%X, 0x%X, 0x%X")
    table("NFC_COMPOSED", "First, second, what they compose to.", composed, "0x%X, 0x%X, 0x%X")
    table("NFC_CLASSES", "First and last character of a run, their combining class.", classes, "0x%X, 0x%X, %d")
    seconds = sorted({second for _, second, _ in composed if not unicodedata.combining(chr(second))})
    print("/* Second characters of compositions that are of class 0. */")
    print("static const uint32_t NFC_SECONDS[%d] = {" % len(seconds))
    for i in range(0, len(seconds), 10):
        print("    " + " ".join("0x%X," % code for code in seconds[i:i + 10]))
    print("};\n")
    print("#endif")


if __name__ == "__main__":
    main()
