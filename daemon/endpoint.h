/* daemon/endpoint.h: where clients connect: the socket's directory, its lock, and CURVE for tcp.
 *
 * ipc: libzmq takes over an existing path without a word, so a lock file beside the socket comes first. The
 * directory is made with mode 0750 where it is missing; what may open the socket is what may enter it.
 * tcp: only with a secret key and a list of public keys. */
#ifndef DAEMON_ENDPOINT_H
#define DAEMON_ENDPOINT_H

#include <stdbool.h>

#include "base/status.h"
#include "daemon/config.h"

enum { ENDPOINT_MAX_IPC_BYTES = 107, CURVE_KEY_CHARS = 40 };

struct endpoint_key {
    char text[CURVE_KEY_CHARS + 1];
    bool is_operator;
};

struct endpoint {
    char *address;        /* "ipc:///…" or "tcp://…" */
    char *note;           /* STORE/run/endpoint: says the address to clients that know the store */
    int lock_fd;          /* ipc; -1 otherwise */
    bool published;       /* the note is ours to remove */
    bool curve;
    char secret_key[CURVE_KEY_CHARS + 1], public_key[CURVE_KEY_CHARS + 1];
    struct endpoint_key *keys;
    size_t key_count;
};

enum status endpoint_open(const struct config *config, struct endpoint *endpoint, struct error *err) MUST_CHECK;
/* Writes STORE/run/endpoint, once the socket is bound at `address`. */
enum status endpoint_publish(struct endpoint *endpoint, const char *address, struct error *err) MUST_CHECK;
void endpoint_close(struct endpoint *endpoint); /* removes the note and the socket */

#endif
