/* dsa/client.h: ask a dsad for cited answers, from C11 or C++.
 *
 *   struct dsa_options options = {sizeof options};
 *   struct dsa_question question = {sizeof question};
 *   options.endpoint = "ipc:///run/dsad/dsad.sock";
 *   question.text = "Which tokens does the indexer keep?";
 *   if (dsa_open(&options, &client) || dsa_ask(client, &question, &request)) …
 *   while (dsa_next_event(client, 1000, &event) != DSA_ERROR)
 *       …
 *   dsa_close(client);
 *
 * Events. A question gives ACCEPTED (it is on the daemon's disk), EVIDENCE once for every passage, TOKENS,
 * CITATION, now and then PROGRESS, and ends with FINAL or ERROR. Numbered events (EVIDENCE, TOKENS, CITATION,
 * FINAL, ERROR) come once each, in order, whatever happens to the connection or the daemon in between: the
 * handle reconnects with back-off and resumes by itself. RESET is the exception: what came so far is void.
 *
 * Sizes. Structs that a caller fills begin with their size, so that later versions can grow: write
 * `struct dsa_question q = {sizeof q};`. Zero is the default of every field.
 * Text is UTF-8 with a length; strings given in are copied; strings handed out are borrowed until the next
 * dsa_next_event() or dsa_close() on that handle.
 * Flow. What an event costs is credited to the daemon when the following dsa_next_event() is called: a program
 * that does not call it stops its own streams, at most `credit_bytes` a stream are on the way, and nobody else
 * notices. After half a minute without a call the daemon takes the program for dead: streams resume with the
 * next call, but a job that is not detached may have been cancelled.
 * Threads. One handle belongs to one thread, different handles are independent; dsa_cancel() alone may be
 * called from any thread. A handle does not survive fork().
 * The library writes to no file or terminal, installs no signal handlers and keeps no global state. */
#ifndef DSA_CLIENT_H
#define DSA_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dsa_client; /* opaque: one connection to one daemon */

enum dsa_result {
    DSA_OK = 0,
    DSA_TIMEOUT = 1,  /* dsa_next_event: nothing within the time given        */
    DSA_ERROR = 2     /* see dsa_error(); the handle can only be closed       */
};

enum { DSA_API_VERSION = 1 };

struct dsa_options {
    size_t size;             /* sizeof (struct dsa_options) */
    const char *endpoint;    /* "ipc:///path" or "tcp://host:port"; required */
    const char *server_key;  /* CURVE, Z85 (40 characters): the daemon's public key; tcp only */
    const char *public_key;  /* CURVE: this client's keys */
    const char *secret_key;
    int64_t credit_bytes;    /* window of one stream; 0: 256 KiB; at least 128 KiB */
    int ping_ms;             /* between signs of life, sent inside dsa_next_event(); 0: 2000 */
    int dead_ms;             /* silence before the connection is made anew; 0: 10000 */
};

struct dsa_question {
    size_t size;             /* sizeof (struct dsa_question) */
    const char *text;        /* the question */
    size_t text_len;         /* 0: text ends at its NUL */
    const char *key;         /* idempotency: the same key gives the same job; NULL: a random one */
    const char *const *collections; /* search these only; count 0: all that the asker may see */
    size_t collection_count;
    const int64_t *documents; /* search these only; count 0: all */
    size_t document_count;
    int64_t budget_tokens;   /* of packed context; 0: the daemon's default */
    int64_t max_tokens;      /* of the answer; 0: the daemon's default */
    int64_t seed;
    double temperature;      /* 0: greedy */
    double top_p;            /* 0: off */
    double min_p;            /* 0: off */
    int whole_document;      /* not 0: pack whole documents */
    int detach;              /* not 0: the job goes on without its client */
    int night;               /* not 0: batch class, after everything interactive */
    int evidence;            /* passages to hand out; 0: the daemon's default */
    int64_t deadline_ms;     /* give up (ERROR "deadline", the job is cancelled) after that long; 0: never */
    const char *kind;        /* NULL or "query"; "batch": text is {"messages": […]} */
    const char *extra_json;  /* a JSON object whose fields are added to the request; NULL: none */
};

enum dsa_event_type {
    DSA_EVENT_CONNECTED,     /* request 0; the handshake with the daemon is done, again after every reconnect */
    DSA_EVENT_DISCONNECTED,  /* request 0; for information: the handle goes on trying */
    DSA_EVENT_ACCEPTED,      /* job */
    DSA_EVENT_EVIDENCE,      /* one passage: number = rank, count = how many there are, text, place */
    DSA_EVENT_TOKENS,        /* text of the answer goes on */
    DSA_EVENT_CITATION,      /* a quotation of the answer: number = block id, text = the quoted bytes, place */
    DSA_EVENT_PROGRESS,      /* phase, done, total */
    DSA_EVENT_FINAL,         /* ends the request: reason, answered_by; json has usage and timings */
    DSA_EVENT_ERROR,         /* ends the request: code, message, retryable */
    DSA_EVENT_RESET,         /* the stream starts again from its beginning: forget what came */
    DSA_EVENT_REPLY          /* ends a dsa_request(): json, and text where the reply has a body */
};

struct dsa_rect {
    int page;
    float x0, y0, x1, y1;    /* points from the page's top left */
};

struct dsa_event {
    enum dsa_event_type type;
    uint64_t request;        /* as given by dsa_ask(), dsa_attach(), dsa_request(); 0: the connection */
    int64_t job;             /* 0 until accepted */
    int64_t seq;             /* of numbered events; -1 otherwise */
    const char *json;        /* the message's header as received, ends in NUL */
    size_t json_len;
    const char *text;        /* may contain any UTF-8: terminals need dsa_sanitize() */
    size_t text_len;
    int number, count;
    double score;            /* EVIDENCE */
    int64_t document;
    const char *title, *path, *member, *label; /* "" where there is none */
    int page;                /* physical, from 1; 0: a format without pages */
    const struct dsa_rect *rects;
    size_t rect_count;
    int verified;            /* CITATION: the quoted bytes stand on that page, compared with the stored text */
    const char *phase;
    int64_t done, total;
    const char *reason;      /* FINAL: "stop", "length" */
    const char *answered_by; /* FINAL: "model", "random-checkpoint", "extractive-baseline", "none" */
    const char *code, *message; /* ERROR: a stable code, and a sentence for people */
    int retryable;
};

/* Starts connecting; does not wait. DSA_ERROR only for arguments that can't be right or for lack of memory,
 * with *client NULL; `message` (may be NULL) then gets a sentence of at most `message_bytes`. */
int dsa_open(const struct dsa_options *options, struct dsa_client **client, char *message, size_t message_bytes);
void dsa_close(struct dsa_client *client); /* NULL allowed; jobs not detached are cancelled by the daemon */
const char *dsa_error(const struct dsa_client *client); /* "" when there was none */

/* Each starts a request and gives it a number, from 1. Nothing is lost while the daemon is away: requests are
 * sent, or sent again, when it is there. */
int dsa_ask(struct dsa_client *client, const struct dsa_question *question, uint64_t *request);
int dsa_attach(struct dsa_client *client, int64_t job, int64_t from_seq, uint64_t *request);
/* Any other verb: type is the letter of the protocol ('Q' status, 'L' list, 'X' cancel, …), json its header
 * (NULL: {}). The answer is one REPLY or ERROR. deadline_ms 0: never. */
int dsa_request(struct dsa_client *client, int type, const char *json, int64_t deadline_ms, uint64_t *request);
/* Cancels the job of an ask or attach. Its stream then ends with ERROR "cancelled". Any thread. */
int dsa_cancel(struct dsa_client *client, uint64_t request);

/* The next event, waiting up to timeout_ms (0: don't wait, -1: for ever). DSA_OK, DSA_TIMEOUT or DSA_ERROR. */
int dsa_next_event(struct dsa_client *client, int timeout_ms, const struct dsa_event **event);
/* For poll(): readable when dsa_next_event(client, 0, …) should be called, until it says DSA_TIMEOUT. */
int dsa_fd(const struct dsa_client *client);

/* Helper: calls `visit` for the events of one request until it ends (DSA_OK), `visit` returns non-zero
 * (DSA_OK) or an error occurs. Events of other requests are handed to `visit` too. */
int dsa_run(struct dsa_client *client, uint64_t request,
            int (*visit)(void *context, const struct dsa_event *event), void *context);

/* Copies text for a terminal: control characters (line feed and tab excepted), escape sequences and
 * bidirectional overrides become U+FFFD. Returns the bytes needed without the NUL; at most `cap` are written,
 * always ended by NUL when cap is not 0. 3 * text_len + 1 bytes always suffice. */
size_t dsa_sanitize(const char *text, size_t text_len, char *out, size_t cap);

int dsa_version(void); /* DSA_API_VERSION of the library that is loaded */

#ifdef __cplusplus
}
#endif
#endif
