/* queue.c: how workers get work and how they reach the coordinator; the rules are in run.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "ingest/run.h"
#include "ingest/stdin_source.h"

enum {
    MEMBERS_PER_WORKER = 2,
    TICK_MS = 100
};
#define MEMBERS_BYTES (256LL << 20) /* members in memory that nobody works on yet */

void task_destroy(struct task *task)
{
    if (!task)
        return;
    if (task->fd >= 0)
        (void)close(task->fd);
    stdin_source_close(task->stdin_source);
    free(task->path);
    free(task->member);
    free(task->file);
    free(task->error);
    free(task->skipped);
    free(task);
}

enum status run_init(struct run *run, const struct ingest_options *options, const struct ingest_sink *sink,
                     struct ingest_totals *totals, struct error *err)
{
    const struct walk_options walk = {options->paths, options->path_count, options->files_from, options->hidden};
    pthread_condattr_t monotonic;

    *run = (struct run){.options = options, .sink = sink, .totals = totals};
    run->calls_end = &run->calls;
    (void)pthread_mutex_init(&run->mutex, NULL);
    (void)pthread_cond_init(&run->work, NULL);
    (void)pthread_cond_init(&run->answered, NULL);
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&run->coordinator, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    return walk_create(&walk, &run->walk, err);
}

void run_finish(struct run *run)
{
    while (run->members) {
        struct task *next = run->members->next;

        task_destroy(run->members);
        run->members = next;
    }
    while (run->extra) {
        struct task *next = run->extra->next;

        task_destroy(run->extra);
        run->extra = next;
    }
    walk_destroy(run->walk);
    (void)pthread_mutex_destroy(&run->mutex);
    (void)pthread_cond_destroy(&run->work);
    (void)pthread_cond_destroy(&run->answered);
    (void)pthread_cond_destroy(&run->coordinator);
}

void run_fail(struct run *run, enum status status, const struct error *err)
{
    (void)pthread_mutex_lock(&run->mutex);
    if (!run->status) {
        run->status = status;
        run->err = *err;
    }
    atomic_store(&run->stop, true);
    (void)pthread_cond_broadcast(&run->work);
    (void)pthread_mutex_unlock(&run->mutex);
}

enum status run_call(struct run *run, enum status (*function)(void *argument, struct error *err), void *argument,
                     struct error *err)
{
    struct call call = {.run = function, .argument = argument};

    (void)pthread_mutex_lock(&run->mutex);
    *run->calls_end = &call;
    run->calls_end = &call.next;
    (void)pthread_cond_signal(&run->coordinator);
    while (!call.done)
        (void)pthread_cond_wait(&run->answered, &run->mutex);
    (void)pthread_mutex_unlock(&run->mutex);
    if (call.status && err)
        *err = call.err;
    return call.status;
}

static struct timespec in_ms(int ms)
{
    int64_t at = clock_monotonic_ns() + (int64_t)ms * 1000000;

    return (struct timespec){.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};
}

void run_coordinate(struct run *run)
{
    const struct ingest_options *options = run->options;
    bool written = false; /* since the last flush */

    (void)pthread_mutex_lock(&run->mutex);
    while (run->running || run->calls) {
        struct call *call = run->calls;
        struct timespec until = in_ms(TICK_MS);
        struct error err = {0};
        enum status status = STATUS_OK;
        bool idle;

        if (call) {
            written = true;
            run->calls = call->next;
            if (!run->calls)
                run->calls_end = &run->calls;
            (void)pthread_mutex_unlock(&run->mutex);
            call->status = call->run(call->argument, &call->err);
            (void)pthread_mutex_lock(&run->mutex);
            call->done = true;
            (void)pthread_cond_broadcast(&run->answered);
            continue;
        }
        idle = pthread_cond_timedwait(&run->coordinator, &run->mutex, &until) == ETIMEDOUT;
        (void)pthread_mutex_unlock(&run->mutex);
        /* Whoever else writes to the store must not wait for a slow document of ours. */
        if (idle && written && !options->dry_run) {
            status = run->sink->flush(run->sink->context, &err);
            written = false;
            if (status)
                run_fail(run, status, &err);
        }
        if (options->cancel && atomic_load(options->cancel) && !atomic_load(&run->stop)) {
            error_set(&err, STATUS_CANCELLED, "stopped on request");
            run_fail(run, STATUS_CANCELLED, &err);
        }
        if (options->tick)
            options->tick(options->context, &run->gauge);
        (void)pthread_mutex_lock(&run->mutex);
    }
    (void)pthread_mutex_unlock(&run->mutex);
}

/* The walk's next file as a task. NULL at its end, or when the run has failed. Called with the mutex held. */
static struct task *next_file(struct run *run)
{
    struct walk_file file;
    struct error err;
    struct task *task;
    enum status status = walk_next(run->walk, &file, &err);

    if (status) {
        run->walk_done = true;
        if (status != STATUS_NOT_FOUND && !run->status) {
            run->status = status;
            run->err = err;
            atomic_store(&run->stop, true);
        }
        return NULL;
    }
    task = calloc(1, sizeof *task);
    if (task) {
        task->fd = -1;
        task->file = strdup(file.path);
        task->path = walk_path_text(file.path);
        task->member = strdup("");
        task->error = file.error ? strdup(file.error) : NULL;
        task->size_bytes = file.size_bytes;
        task->mtime_ms = file.mtime_ms;
        if (task->file && task->path && task->member && !file.error == !task->error)
            return task;
    }
    task_destroy(task);
    run->status = error_set(&run->err, STATUS_NO_MEMORY, "no memory for a file's name");
    atomic_store(&run->stop, true);
    return NULL;
}

static struct task *take_member(struct run *run, int deeper_than)
{
    for (struct task **link = &run->members; *link; link = &(*link)->next) {
        struct task *task = *link;

        if (task->depth <= deeper_than)
            continue;
        *link = task->next;
        run->member_count--;
        run->member_bytes -= task->size_bytes;
        task->next = NULL;
        return task;
    }
    return NULL;
}

struct task *run_take(struct run *run)
{
    struct task *task = NULL;

    (void)pthread_mutex_lock(&run->mutex);
    while (!atomic_load(&run->stop)) {
        task = take_member(run, 0);
        if (!task && run->extra) {
            task = run->extra;
            run->extra = task->next;
        }
        if (!task && !run->walk_done)
            task = next_file(run);
        if (task || (run->walk_done && !run->busy))
            break;
        if (run->walk_done)
            (void)pthread_cond_wait(&run->work, &run->mutex);
    }
    if (task)
        run->busy++;
    (void)pthread_mutex_unlock(&run->mutex);
    return task;
}

void run_done(struct run *run, struct task *task)
{
    (void)pthread_mutex_lock(&run->mutex);
    if (task->archive)
        task->archive->outstanding--;
    for (struct task **link = &run->reading; *link; link = &(*link)->next_reading) {
        if (*link == task) {
            *link = task->next_reading;
            break;
        }
    }
    run->done_count++;
    run->busy--;
    (void)pthread_cond_broadcast(&run->work);
    (void)pthread_mutex_unlock(&run->mutex);
    task_destroy(task);
}

bool run_wait(struct run *run, int64_t ticket)
{
    (void)pthread_mutex_lock(&run->mutex);
    while (run->done_count == ticket && !atomic_load(&run->stop))
        (void)pthread_cond_wait(&run->work, &run->mutex);
    (void)pthread_mutex_unlock(&run->mutex);
    return !atomic_load(&run->stop);
}

bool run_begin_reading(struct run *run, struct task *task, int64_t *ticket)
{
    struct task *other;

    (void)pthread_mutex_lock(&run->mutex);
    *ticket = run->done_count;
    for (other = run->reading; other; other = other->next_reading) {
        if (other != task && strcmp(other->sha256, task->sha256) == 0)
            break;
    }
    if (!other) {
        task->next_reading = run->reading;
        run->reading = task;
    }
    (void)pthread_mutex_unlock(&run->mutex);
    return !other;
}

bool run_offer(struct run *run, struct task *task)
{
    bool taken;

    (void)pthread_mutex_lock(&run->mutex);
    taken = run->member_count < MEMBERS_PER_WORKER * run->options->jobs && run->options->jobs > 1 &&
            run->member_bytes + task->size_bytes <= MEMBERS_BYTES;
    task->archive->outstanding++;
    if (taken) {
        task->next = run->members;
        run->members = task;
        run->member_count++;
        run->member_bytes += task->size_bytes;
        (void)pthread_cond_broadcast(&run->work);
    } else {
        run->busy++; /* the caller's now */
    }
    (void)pthread_mutex_unlock(&run->mutex);
    return taken;
}

struct task *run_help(struct run *run, struct archive *archive, int depth)
{
    struct task *task = NULL;

    (void)pthread_mutex_lock(&run->mutex);
    while (archive->outstanding) {
        task = take_member(run, depth);
        if (task) {
            run->busy++;
            break;
        }
        /* A stop leaves queued members where they are; those in work come to an end. */
        if (atomic_load(&run->stop)) {
            int queued = 0;

            for (struct task *member = run->members; member; member = member->next)
                queued += member->archive == archive;
            if (queued == archive->outstanding)
                break;
        }
        (void)pthread_cond_wait(&run->work, &run->mutex);
    }
    (void)pthread_mutex_unlock(&run->mutex);
    return task;
}
