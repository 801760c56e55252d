/* tool.h: what dsa-query, dsactl and dsa-batch share: finding the daemon, printing what documents say. */
#ifndef CLIENTS_COMMON_TOOL_H
#define CLIENTS_COMMON_TOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "dsa/client.h"

/* sysexits.h */
enum {
    TOOL_USAGE = 64, TOOL_DATA = 65, TOOL_NO_INPUT = 66, TOOL_UNAVAILABLE = 69, TOOL_INTERNAL = 70, TOOL_IO = 74,
    TOOL_RETRY = 75, TOOL_DENIED = 77, TOOL_INTERRUPTED = 130
};

struct tool {
    const char *program;
    const char *store;     /* --store: the daemon of that store */
    const char *connect;   /* --connect: an endpoint */
    const char *key_file;  /* --key: CURVE secret key, for tcp */
    const char *server_key; /* --server-key; with --store it is found */
    bool json;
};

void tool_error(const struct tool *tool, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Opens a handle to the daemon that the options name, and waits until it is connected. On failure prints why and
 * returns an exit code. */
int tool_open(const struct tool *tool, struct dsa_client **client);

/* One request, one reply: DSA_EVENT_REPLY's event in *event (borrowed until the next call on the handle), or an exit
 * code, with the daemon's message printed. */
int tool_ask(const struct tool *tool, struct dsa_client *client, int type, const char *json,
             const struct dsa_event **event);

/* The exit code that an ERROR means. */
int tool_exit_code(const char *code);

/* Text of unknown origin: control characters and escape sequences never reach a terminal. */
void tool_print(FILE *out, const char *text, size_t len);
/* The same on one line: white space runs become one space, at most `most` bytes, "…" where it was cut. */
void tool_print_line(FILE *out, const char *text, size_t len, size_t most);
/* "report.pdf p. 12", "a.zip//notes.txt", safe to print. */
void tool_print_place(FILE *out, const char *path, const char *member, const char *label, int page);

/* Reads a whole file or standard input ("-"), at most `most` bytes. NULL with a message printed. */
char *tool_read(const struct tool *tool, const char *path, size_t most, size_t *len);

#endif
