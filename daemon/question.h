/* daemon/question.h: the life of one question, in one place.
 *
 *     received ──commit──► accepted ──claim──► retrieving ──pack kept──► packed ──► prefill ──► decode ──► final
 *                              ▲                    │                       │          │           │
 *                              │                    └◄──── a summary's next pass ───┴─────┬─────┤
 *                              └────── parked (shutdown, lost store) ◄──────┴──────────┴───────────┤
 *                                                                                                 └──► failed(code)
 *
 * `received` is a SUBMIT in the writer's queue, `accepted` a queued row in jobs.db: neither has a struct here.
 * From its claim on, a question is a struct question, owned by the writer thread; retrieval and engine own a
 * struct work in turn, and hand it back in a message. Where a question is, is its `state`.
 *
 * A second attempt starts from what the first one left: the kept pack (then nothing is searched again), and the
 * numbered messages of the stream (evidence given, tokens given, citations given), through which the engine is
 * driven before anything new is said. Cursors count what was given; nothing is given twice. */
#ifndef DAEMON_QUESTION_H
#define DAEMON_QUESTION_H

#include <jansson.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/vec.h"
#include "daemon/packed.h"
#include "daemon/queue.h"
#include "daemon/request.h"
#include "daemon/summarise.h"
#include "store/jobs.h"

struct writer;

enum question_state {
    QUESTION_RECEIVED, QUESTION_ACCEPTED, QUESTION_RETRIEVING, QUESTION_PACKED, QUESTION_PREFILL, QUESTION_DECODE,
    QUESTION_FINAL, QUESTION_FAILED
};
const char *question_state_name(enum question_state state);

enum { WORK_ARENA_BYTES = 32 << 20, ANSWER_MAX_BYTES = 4 << 20 };

/* What goes from hand to hand: to retrieval and back, to the engine and back. */
struct work {
    int64_t job, attempt;
    struct arena arena;      /* holds the request */
    struct request request;
    uint64_t owner;          /* hash of the principal: fairness is between owners */
    struct packed *packed;   /* one reference; NULL until packed */
    struct buf kept;         /* the pack's kept form: given (second attempt) or made */
    bool was_kept;
    int32_t *forced;         /* tokens already given */
    size_t forced_count;
    struct buf said;         /* text already given: what forced tokens must lead to again */
    size_t quotes_said;
    /* a summary by a model: several passes, none of them told as it goes; see passes.h */
    struct passes *passes;   /* owned; NULL: not begun */
    bool pass;               /* `packed` is the next pass's prompt, not the answer */
    struct buf made;         /* what the pass said */
    VEC(struct quote_span) made_quotes;
    struct summary_facts summary;
    /* what came of it; tokens and times add up over passes */
    const char *code;        /* NULL: all went well */
    char error[ERROR_MESSAGE_BYTES];
    bool retryable, no_space; /* no_space: a full disk, which is not the job's fault */
    const char *reason;      /* "stop", "length", "cancelled" */
    size_t prompt_tokens, cached_tokens, output_tokens;
    int64_t retrieve_ns, prefill_ns, decode_ns;
};
void work_destroy(struct work *work); /* NULL allowed */

struct question {
    int64_t job, attempt, errors;
    enum question_state state;
    enum job_class class;
    enum job_kind kind;
    char *principal;
    bool detached;
    int64_t submitted_ms, started_ns;
    int64_t engine_ns;       /* when it went to the engine; 0: not there, or its attempt is marked as long */
    int64_t next_seq;        /* of the stream */
    struct message *tokens;  /* in the group at hand: those that follow may join it; borrowed */
    size_t evidence_given;
    struct buf answer;       /* text given so far */
    json_t *citations;       /* given so far, short form, for FINAL */
    struct packed *packed;
    VEC(struct packed_quote) quotes; /* closed in this attempt, in order */
    size_t quotes_located;   /* of those: their citation was given */
    size_t citations_given;  /* by this attempt and the ones before */
    bool locating;           /* one is in the pool */
    struct work *finished;   /* the engine is done; waits for the last citation */
    struct work *waiting;    /* retrieval found no room on the disk; it goes there again at retry_ns */
    int64_t retry_ns;
    bool ended_before;       /* the stream of the earlier attempt has its last message already */
};
void question_destroy(struct question *question);

/* A claimed job becomes a question, restored from what an earlier attempt left, and goes to retrieval. A request
 * that can't be read any more fails. */
enum status question_start(struct writer *writer, const struct job *job, struct error *err) MUST_CHECK;
/* Events, in the order of the picture. Each takes what it needs out of `message` and leaves the rest. */
enum status question_packed(struct writer *writer, struct question *question, struct message *message,
                            struct error *err) MUST_CHECK;
enum status question_tokens(struct writer *writer, struct question *question, struct message *message,
                            struct error *err) MUST_CHECK;
enum status question_quote(struct writer *writer, struct question *question, struct message *message,
                           struct error *err) MUST_CHECK;
enum status question_located(struct writer *writer, struct question *question, struct message *message,
                             struct error *err) MUST_CHECK;
enum status question_generated(struct writer *writer, struct question *question, struct message *message,
                               struct error *err) MUST_CHECK;
/* What waited for room on the disk goes to retrieval again. */
void question_retry(struct writer *writer, struct question *question);
enum status question_phase(struct writer *writer, struct question *question, struct message *message,
                           struct error *err) MUST_CHECK;
enum status question_cancel(struct writer *writer, struct question *question, struct error *err) MUST_CHECK;
/* Back into the queue; counts for nothing. */
enum status question_park(struct writer *writer, struct question *question, struct error *err) MUST_CHECK;

#endif
