/* scheduler.c: what the next pass computes.
 *
 *   1. cancelled sequences end
 *   2. while an interactive sequence is alive, only interactive ones are stepped: batch work stays parked between two
 *      passes, with its pages, and goes on where it stood
 *   3. every decoding sequence gets its next row (at most MAX_DECODE_ROWS; those that waited longest first)
 *   4. what is left of prefill_chunk goes to prompts, the least served owner's oldest first
 *
 * Rows that need logits come first in the pass, marked ones after them, so that the head runs over one block of rows.
 * The order of rows and the cut into passes change nothing in any result (kernels/ops.h, "Determinism"). */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/engine_impl.h"

/* --- Owners ---------------------------------------------------------------------------------------------------- */

static struct owner *find_owner(struct engine *e, uint64_t id)
{
    for (size_t i = 0; i < e->owners.count; i++) {
        if (e->owners.items[i].id == id)
            return &e->owners.items[i];
    }
    return NULL;
}

/* A newcomer starts level with the least served: it has no credit for the time before it came. */
enum status scheduler_owner_add(struct engine *e, uint64_t id)
{
    struct owner *owner = find_owner(e, id), fresh = {.id = id};

    if (!owner) {
        if (vec_reserve(&e->owners, 1))
            return STATUS_NO_MEMORY;
        for (int class = 0; class < 2; class++) {
            for (size_t i = 0; i < e->owners.count; i++) {
                uint64_t served = e->owners.items[i].served[class];

                fresh.served[class] = i == 0 || served < fresh.served[class] ? served : fresh.served[class];
            }
        }
        e->owners.items[e->owners.count++] = fresh;
        owner = &e->owners.items[e->owners.count - 1];
    }
    owner->sequences++;
    return STATUS_OK;
}

void scheduler_owner_remove(struct engine *e, uint64_t id)
{
    struct owner *owner = find_owner(e, id);

    if (owner && --owner->sequences == 0)
        *owner = e->owners.items[--e->owners.count];
}

/* --- The plan -------------------------------------------------------------------------------------------------- */

static void end_cancelled(struct engine *e, bool *worked)
{
    for (size_t i = 0; i < e->sequences.count; i++) {
        struct sequence *q = e->sequences.items[i];

        if (sequence_alive(q) && atomic_load(&q->cancelled)) {
            sequence_end(q, REASON_CANCELLED);
            *worked = true;
        }
    }
}

static bool any_interactive(const struct engine *e)
{
    for (size_t i = 0; i < e->sequences.count; i++) {
        if (sequence_alive(e->sequences.items[i]) && e->sequences.items[i]->class == SEQUENCE_INTERACTIVE)
            return true;
    }
    return false;
}

static bool planned(const struct plan *plan, const struct sequence *q)
{
    for (size_t i = 0; i < plan->shares.count; i++) {
        if (plan->shares.items[i].sequence == q)
            return true;
    }
    return false;
}

static enum status add_share(struct engine *e, struct plan *plan, struct sequence *q, size_t count, int logits,
                             bool prefill)
{
    if (vec_reserve(&plan->shares, 1))
        return STATUS_NO_MEMORY;
    plan->shares.items[plan->shares.count++] =
        (struct share){.sequence = q, .count = count, .logits = logits, .prefill = prefill};
    plan->rows += (int)count;
    plan->logit_rows += logits;
    find_owner(e, q->owner)->served[q->class] += count;
    q->last_turn = e->turn;
    return STATUS_OK;
}

static bool decoding(const struct sequence *q, enum sequence_class class)
{
    return sequence_alive(q) && q->class == class && q->status.state == SEQUENCE_DECODE;
}

/* Rows left for guesses when every sequence of the class has one: guesses never make anyone wait. */
static size_t room_for_drafts(const struct engine *e, enum sequence_class class, int cap)
{
    int alive = 0;

    for (size_t i = 0; i < e->sequences.count && e->config.mtp; i++)
        alive += sequence_alive(e->sequences.items[i]) && e->sequences.items[i]->class == class;
    return alive < cap ? (size_t)(cap - alive) : 0;
}

static enum status plan_decode(struct engine *e, struct plan *plan, enum sequence_class class)
{
    int cap = e->max_logit_rows < MAX_DECODE_ROWS ? e->max_logit_rows : MAX_DECODE_ROWS;
    size_t room = room_for_drafts(e, class, cap), drafts;

    while (plan->logit_rows < cap) {
        struct sequence *next = NULL;

        for (size_t i = 0; i < e->sequences.count; i++) {
            struct sequence *q = e->sequences.items[i];

            if (decoding(q, class) && q->last_turn != e->turn && (!next || q->last_turn < next->last_turn))
                next = q;
        }
        if (!next)
            break;
        drafts = speculate_drafts(next, room);
        room -= drafts;
        if (add_share(e, plan, next, 1 + drafts, 1 + (int)drafts, false))
            return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

static enum status plan_prefill(struct engine *e, struct plan *plan, enum sequence_class class)
{
    size_t budget = (size_t)e->prefill_chunk;

    while (budget > 0) {
        struct sequence *next = NULL;
        uint64_t least = 0;
        size_t count;
        bool last;

        for (size_t i = 0; i < e->sequences.count; i++) {
            struct sequence *q = e->sequences.items[i];
            uint64_t served;

            if (!sequence_alive(q) || q->class != class || q->status.state == SEQUENCE_DECODE || planned(plan, q))
                continue;
            served = find_owner(e, q->owner)->served[class];
            if (!next || served < least) {
                next = q;
                least = served;
            }
        }
        if (!next)
            break;
        count = sequence_ready(next) < budget ? sequence_ready(next) : budget;
        last = count == sequence_ready(next);
        if (last && plan->logit_rows == e->max_logit_rows) { /* its last row waits for the next pass */
            last = false;
            if (--count == 0)
                break;
        }
        if (add_share(e, plan, next, count, last, true))
            return STATUS_NO_MEMORY;
        budget -= count;
    }
    return STATUS_OK;
}

/* --- The pass -------------------------------------------------------------------------------------------------- */

static void put_row(struct engine *e, int row, const struct share *share, size_t index, size_t position)
{
    const struct sequence *q = share->sequence;

    e->token[row] = position < q->timeline.count ? q->timeline.items[position]
                                                 : q->draft[position - q->timeline.count];
    e->position[row] = (int32_t)position;
    e->slot[row] = q->pages.items[position / CACHE_PAGE_TOKENS] * CACHE_PAGE_TOKENS +
                   (int32_t)(position % CACHE_PAGE_TOKENS);
    e->row_sequence[row] = (int32_t)index;
}

/* Marks of a share, without its last row where that gets all logits. */
static size_t share_marks(const struct share *share)
{
    return sequence_marks_before(share->sequence, share->sequence->done + share->count - (size_t)share->logits);
}

static enum status lay_out(struct engine *e, struct plan *plan, struct forward_batch *b)
{
    size_t pages = 1, shares = plan->shares.count;
    int first = 0, marked = plan->logit_rows, mark_rows = 0, rest;
    bool draws = false;

    for (size_t i = 0; i < shares; i++) {
        struct sequence *q = plan->shares.items[i].sequence;

        mark_rows += (int)share_marks(&plan->shares.items[i]);
        sequence_take_pages(q, q->done + plan->shares.items[i].count);
        if (q->pages.count > pages)
            pages = q->pages.count;
    }
    e->page_table.count = 0;
    if (vec_reserve(&e->page_table, shares * pages))
        return STATUS_NO_MEMORY;
    memset(e->page_table.items, 0xFF, shares * pages * sizeof *e->page_table.items); /* -1: unused */
    rest = plan->logit_rows + mark_rows;
    for (size_t i = 0; i < shares; i++) {
        struct share *share = &plan->shares.items[i];
        const struct sequence *q = share->sequence;
        size_t plain = share->count - (size_t)share->logits, mark = q->marked;

        memcpy(e->page_table.items + i * pages, q->pages.items, q->pages.count * sizeof *q->pages.items);
        for (size_t j = 0; j < plain; j++) {
            if (mark < q->mark_count && q->mark_at[mark] == q->done + j) {
                mark++;
                memcpy(e->mark_pair[marked - plan->logit_rows], q->mark_pair, sizeof q->mark_pair);
                put_row(e, marked++, share, i, q->done + j);
            } else {
                put_row(e, rest++, share, i, q->done + j);
            }
        }
        share->first_logit = first;
        share->best = e->best && share->logits == 1 && sequence_takes_best(q);
        share->draws = e->best && share->logits == 1 && sequence_draws(q, &e->temperature[first]);
        draws |= share->draws;
        for (int j = 0; e->best && j < share->logits; j++) {
            /* Marks are made where the rows' logits were: no row could be asked for afterwards. */
            e->row_wanted[first + j] = !share->best && (!share->draws || mark_rows);
            if (!share->draws)
                e->temperature[first + j] = 0;
        }
        for (; first < share->first_logit + share->logits; first++)
            put_row(e, first, share, i, q->done + plain + (size_t)(first - share->first_logit));
    }
    *b = (struct forward_batch){.rows = plan->rows,
                                .token = e->token,
                                .position = e->position,
                                .slot = e->slot,
                                .sequence = e->row_sequence,
                                .page_table = e->page_table.items,
                                .sequences = (int)shares,
                                .pages = (int)pages,
                                .logit_rows = plan->logit_rows,
                                .mark_rows = mark_rows,
                                .mark_pair = (const int32_t(*)[2])e->mark_pair,
                                .mark = e->mark,
                                .row_wanted = e->best ? e->row_wanted : NULL,
                                .best = e->best,
                                .best_log_probability = e->best_log_probability,
                                .temperature = draws ? e->temperature : NULL,
                                .list = e->list};
    return STATUS_OK;
}

/* In the order of lay_out(); the last position's own logits hold its mark. */
static size_t take_marks(struct engine *e, const struct share *share, size_t taken, const float *logits)
{
    struct sequence *q = share->sequence;
    size_t count = share_marks(share);

    if (count)
        memcpy(q->mark + q->marked, e->mark + taken, count * sizeof *q->mark);
    q->marked += count;
    if (share->logits && q->marked < q->mark_count && q->mark_at[q->marked] == q->done + share->count - 1)
        q->mark[q->marked++] = logits[q->mark_pair[0]] - logits[q->mark_pair[1]];
    return taken + count;
}

static void count_done(struct sequence *q, size_t more)
{
    q->done += more;
    q->status.prompt_done = q->done < q->prompt_count ? q->done : q->prompt_count;
    sequence_seal_pages(q);
}

/* The next token from row `row` of the pass. */
static enum status advance(struct engine *e, const struct share *share, int row, struct error *err)
{
    float *logits = e->logits + (size_t)row * (size_t)e->config.vocab;

    if (share->best)
        return sequence_advance_best(share->sequence, e->best[row], e->best_log_probability[row], err);
    if (share->draws) {
        bool decided;
        enum status s = sequence_advance_draw(share->sequence, &e->list[row], &decided, err);

        if (s || decided)
            return s;
        e->rows_asked_for++;
        if (!e->row_wanted[row])
            s = forward_take_row(e->forward, row, logits, err);
        if (s)
            return s;
    }
    return sequence_advance(share->sequence, logits, err);
}

/* A token from every row of logits, as long as the guess that the next row was computed from is the token chosen: what
 * is chosen is what would have been chosen one row at a time. */
static void take_tokens(struct engine *e, struct share *share)
{
    struct sequence *q = share->sequence;
    size_t end = q->done + 1 + q->draft_count;
    struct error err = {0};
    bool right = true;

    q->draft_right = 0;
    for (int i = 0; i < share->logits && right; i++) {
        count_done(q, 1);
        share->kept++;
        if (advance(e, share, share->first_logit + i, &err)) {
            sequence_fail(q, err.message);
            break;
        }
        right = i + 1 < share->logits && q->output.items[q->output.count - 1].id == q->draft[i];
        q->draft_right += right;
        right = right && sequence_alive(q);
    }
    q->status.drafted_tokens += (size_t)share->logits - 1;
    q->status.accepted_tokens += q->draft_right;
    if (sequence_alive(q))
        speculate_roll_back(q, end);
    q->draft_count = 0;
}

static void add_time(struct plan *plan, int64_t spent_ns)
{
    for (size_t i = 0; i < plan->shares.count; i++) {
        const struct share *share = &plan->shares.items[i];
        struct sequence_status *status = &share->sequence->status;

        *(share->prefill ? &status->prefill_ns : &status->decode_ns) += spent_ns;
    }
}

static void settle(struct engine *e, struct plan *plan)
{
    size_t marks_taken = 0;

    for (size_t i = 0; i < plan->shares.count; i++) {
        struct share *share = &plan->shares.items[i];
        struct sequence *q = share->sequence;
        const float *logits = e->logits + (size_t)share->first_logit * (size_t)e->config.vocab;

        marks_taken = take_marks(e, share, marks_taken, logits);
        q->status.state = share->logits ? SEQUENCE_DECODE : SEQUENCE_PREFILL;
        count_done(q, share->count - (size_t)share->logits);
        if (share->logits)
            take_tokens(e, share);
    }
}

/* What this pass asked for could not be done, and another one may go well: its sequences end, nothing else. Everything
 * else (a lost device) is the engine's. */
static bool is_of_the_pass(enum status s)
{
    return s == STATUS_NO_MEMORY || s == STATUS_UNSUPPORTED || s == STATUS_LIMIT;
}

static void fail_all(const struct plan *plan, const struct error *err)
{
    for (size_t i = 0; i < plan->shares.count; i++)
        sequence_fail(plan->shares.items[i].sequence, err ? err->message : "the pass failed");
}

enum status engine_step(struct engine *e, bool *worked, struct error *err)
{
    struct plan plan = {0};
    struct forward_batch batch;
    enum sequence_class class;
    int64_t start;
    enum status s;

    *worked = false;
    e->turn++;
    end_cancelled(e, worked);
    class = any_interactive(e) ? SEQUENCE_INTERACTIVE : SEQUENCE_BATCH;
    s = plan_decode(e, &plan, class);
    if (!s)
        s = plan_prefill(e, &plan, class);
    if (s) {
        error_set(err, s, "out of memory");
        goto out;
    }
    if (plan.rows == 0)
        goto out;
    *worked = true;
    s = lay_out(e, &plan, &batch);
    if (s) {
        error_set(err, s, "out of memory");
        goto out;
    }
    start = clock_monotonic_ns();
    s = forward_run(e->forward, &batch, e->logits, err);
    if (!s && e->config.mtp)
        s = speculate_pair(e, &plan, &batch, err);
    if (is_of_the_pass(s)) {
        fail_all(&plan, err);
        s = STATUS_OK;
        goto out;
    }
    if (s)
        goto out;
    settle(e, &plan);
    if (e->config.mtp)
        s = speculate_draft(e, &plan, err);
    add_time(&plan, clock_monotonic_ns() - start);
out:
    vec_finish(&plan.shares);
    return s;
}
