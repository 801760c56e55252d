/* summary_step.c: see summary_step.h. */
#include "daemon/summary_step.h"

#include <inttypes.h>

#include "base/log.h"

/* What the pass before said is taken, and the next one asked for. *done: there is none. */
static enum status step_passes(const struct retrieve *pool, struct store *store, struct work *work,
                               struct packed *packed, bool *done, struct error *err)
{
    enum status s = STATUS_OK;

    if (!work->passes)
        s = summarise_begin(pool->summariser, store, work->request.documents[0], &work->passes, err);
    else if (work->pass) /* not where all was taken, and only the store had no room for it */
        s = passes_take(work->passes, store, buf_span(&work->made), work->made_quotes.items, work->made_quotes.count,
                        err);
    work->pass = false;
    return s ? s : passes_next(work->passes, store, packed, done, err);
}

static enum status summarise_by_model(const struct retrieve *pool, struct store *store, struct work *work,
                                      struct packed *packed, struct error *err)
{
    bool done = false;
    enum status s = step_passes(pool, store, work, packed, &done, err);

    if (s)
        return s;
    work->pass = !done;
    if (!done)
        return STATUS_OK;
    packed->token_count = 0;
    return summarise_keep(pool->summariser, store, work->request.documents[0], work->passes,
                          (struct summary_cost){.prompt_tokens = (int64_t)work->prompt_tokens,
                                                .output_tokens = (int64_t)work->output_tokens,
                                                .ms = (work->prefill_ns + work->decode_ns) / 1000000},
                          packed, &work->summary, err);
}

enum status summary_step(const struct retrieve *pool, struct store *store, struct work *work, bool *known,
                         struct error *err)
{
    int64_t document = work->request.documents[0];
    enum status s = STATUS_NOT_FOUND;

    *known = true;
    if (!work->passes)
        s = summarise_find(pool->summariser, store, document, work->packed, &work->summary, known, err);
    if (s != STATUS_NOT_FOUND || !*known)
        return s;
    if (pool->summariser->by == SUMMARISER_EXTRACTIVE)
        s = summarise_extract(pool->summariser, store, document, work->packed, &work->summary, err);
    else
        s = summarise_by_model(pool, store, work, work->packed, err);
    *known = s != STATUS_NOT_FOUND; /* it may have gone meanwhile */
    return s;
}

void summary_recall(const struct retrieve *pool, struct store *store, struct work *work)
{
    struct packed *again = packed_create();
    bool known;

    work->summary.by = pool->summariser->by;
    if (again && summarise_find(pool->summariser, store, work->request.documents[0], again, &work->summary, &known,
                                NULL))
        log_debug("the summary of job %" PRId64 " is not in the store any more", work->job);
    packed_unref(again);
}
