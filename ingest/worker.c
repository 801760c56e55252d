/* worker.c: takes a task, has a child read it, hands the result to the coordinator. The rules are in run.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ingest/intake.h"
#include "ingest/limits.h"
#include "ingest/run.h"
#include "ingest/stdin_source.h"

static void process(struct worker *worker, struct task *task);

static const char *file_name(const struct task *task)
{
    const char *whole = *task->member ? task->member : task->path ? task->path : "stdin";
    const char *slash = strrchr(whole, '/');

    return slash && slash[1] ? slash + 1 : whole;
}

/* Puts a document's row out that was never read: a failure or what the verdict said. */
static enum status commit(struct worker *worker, struct task *task, struct ingest_document *document,
                          int64_t max_rss_bytes, struct error *err)
{
    struct commit_call call = {worker->run, task, document, max_rss_bytes};

    return run_call(worker->run, run_commit, &call, err);
}

static enum status commit_unreadable(struct worker *worker, struct task *task, const char *code, const char *why,
                                     struct error *err)
{
    const struct store_problem problem = {0, code, why};
    struct ingest_document document = {.row = {.status = DOCUMENT_FAILED, .error = why, .media_type = "", .title = "",
                                               .author = "", .language = "", .created = "", .modified = "",
                                               .extractor = ""},
                                       .problems = &problem, .problem_count = 1};

    return commit(worker, task, &document, 0, err);
}

/* A member that its archive lists and that was not read. */
static enum status commit_skipped(struct worker *worker, struct task *task, struct error *err)
{
    static const struct {
        const char *code, *error;
        enum document_status status;
    } kinds[] = {{"encrypted-member", "encrypted: no password opens it", DOCUMENT_FAILED},
                 {"link-skipped", "a link", DOCUMENT_SKIPPED},
                 {"special-skipped", "neither file nor folder", DOCUMENT_SKIPPED}};
    struct store_problem problem = {0, task->skipped, "not read"};
    struct ingest_document document = {.row = {.status = DOCUMENT_SKIPPED, .error = "not read", .media_type = "",
                                               .title = "", .author = "", .language = "", .created = "",
                                               .modified = "", .extractor = ""},
                                       .problems = &problem, .problem_count = 1};

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].code, task->skipped) == 0) {
            document.row.status = kinds[i].status;
            document.row.error = problem.message = kinds[i].error;
        }
    }
    return commit(worker, task, &document, 0, err);
}

/* Asks what is to be done with a task. */
static enum status ask(struct worker *worker, struct task *task, bool quick, enum verdict *verdict, struct error *err)
{
    struct verdict_call call = {.run = worker->run, .task = task, .quick = quick};
    enum status status;

    for (;;) {
        status = run_call(worker->run, run_verdict, &call, err);
        if (status || call.verdict != VERDICT_WAIT)
            break;
        if (!run_wait(worker->run, call.ticket))
            return error_set(err, STATUS_CANCELLED, "stopped on request");
    }
    *verdict = call.verdict;
    return status;
}

/* Opens a file and hashes it, unless size and time say that it is the one in the store. */
static enum status open_file(struct worker *worker, struct task *task, enum verdict *verdict, struct error *err)
{
    struct error why = {0};
    struct stat info;
    long long bytes;
    enum status status;

    *verdict = VERDICT_DONE;
    if (task->error) {
        struct missing_call call = {worker->run, task, task->error};

        return run_call(worker->run, run_missing, &call, err);
    }
    status = ask(worker, task, true, verdict, err);
    if (status || *verdict == VERDICT_DONE)
        return status;
    *verdict = VERDICT_DONE;
    task->fd = open(task->file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (task->fd < 0 || fstat(task->fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        int cause = task->fd < 0 ? errno : ENODEV;

        if (cause == ENOENT) {
            struct missing_call call = {worker->run, task, strerror(cause)};

            return run_call(worker->run, run_missing, &call, err);
        }
        return commit_unreadable(worker, task, "unreadable", strerror(cause), err);
    }
    task->size_bytes = info.st_size;
    task->mtime_ms = (int64_t)info.st_mtim.tv_sec * 1000 + info.st_mtim.tv_nsec / 1000000;
    if (info.st_size > LIMIT_DOCUMENT_BYTES) {
        char text[64];

        (void)snprintf(text, sizeof text, "larger than %lld GiB", LIMIT_DOCUMENT_BYTES >> 30);
        return commit_unreadable(worker, task, "limit-size", text, err);
    }
    status = digest_file(task->fd, task->sha256, &bytes, &why);
    if (status)
        return commit_unreadable(worker, task, "unreadable", why.message, err);
    return ask(worker, task, false, verdict, err);
}

/* Unnamed standard input that streams: an archive's members need the name before the end is known. */
static enum status name_stream(struct task *task, const char *hash, struct error *err)
{
    if (!task->path && asprintf(&task->path, "stdin:%s", hash) < 0) {
        task->path = NULL;
        return error_set(err, STATUS_NO_MEMORY, "no memory for a name");
    }
    return STATUS_OK;
}

static enum status take_member_frame(struct worker *worker, struct task *task, struct archive *archive,
                                     struct member *member, const struct frame *frame, struct error *err)
{
    struct task *ready;
    enum status status;

    switch (frame->type) {
    case FRAME_MEMBER_BEGIN:
        status = task->stdin_source ? name_stream(task, stdin_source_head_hash(task->stdin_source), err) : STATUS_OK;
        return status ? status : member_begin(member, archive, task, frame->payload, err);
    case FRAME_MEMBER_DATA: return member_data(member, archive, frame->payload, err);
    case FRAME_MEMBER_END:
        status = member_end(member, frame->payload, &ready, err);
        if (status)
            return status;
        ready->archive = archive;
        if (!run_offer(worker->run, ready)) {
            process(worker, ready);
            run_done(worker->run, ready);
        }
        return STATUS_OK;
    default: return STATUS_OK;
    }
}

/* What a stream's end means for its document: NULL after END. */
static const char *end_code(enum status status, const struct extract_exit *gone, const struct intake *intake,
                            const struct error *why, char *message, size_t cap)
{
    static const struct {
        const char *code, *text;
    } reasons[] = {{"crash", "the extractor crashed on it"},
                   {"memory", "it needs more memory than a document may have"},
                   {"timeout", "it needs more processor time than a document may have"},
                   {"jail", "its reader tried what it may not"},
                   {"lost", "the extractor's server ended"}};

    if (status == STATUS_LIMIT || status == STATUS_CORRUPT || status == STATUS_NO_MEMORY) {
        (void)snprintf(message, cap, "%s", why->message);
        return status == STATUS_LIMIT ? (strstr(why->message, "seconds") ? "timeout" : "limit-text")
                                      : status == STATUS_CORRUPT ? "bad-frames" : "memory";
    }
    if (intake_ended(intake))
        return NULL;
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        if (strcmp(reasons[i].code, gone->reason) == 0) {
            (void)snprintf(message, cap, "%s", reasons[i].text);
            return reasons[i].code;
        }
    }
    (void)snprintf(message, cap, "the extractor stopped before the end");
    return "crash";
}

/* Reads a task's bytes with one password. Document failures are the intake's; a status is the run's. */
static enum status read_once(struct worker *worker, struct task *task, const char *password, struct archive *archive,
                             struct intake *intake, int64_t *max_rss_bytes, struct error *err)
{
    struct run *run = worker->run;
    const struct extract_child_request request = {
        .fd = task->stdin_source ? stdin_source_fd(task->stdin_source) : task->fd,
        .name = file_name(task),
        .password = password,
        .archive_depth = task->depth,
        .seekable = !task->stdin_source,
        .size = task->size_bytes,
        .starving = task->stdin_source ? stdin_source_starving(task->stdin_source) : NULL};
    struct extract_child *child = NULL;
    struct extract_exit gone = {.reason = "lost"};
    struct member member = {0};
    struct error why = {0};
    char message[ERROR_MESSAGE_BYTES];
    const char *code;
    size_t pages = 0;
    enum status status = STATUS_OK;

    if (!worker->client)
        status = extract_client_create(run->options->extract_program, run->options->allow_unsandboxed, &run->stop,
                                       &worker->client, err);
    if (!status)
        status = extract_child_start(worker->client, &request, &child, err);
    if (status == STATUS_BAD_INPUT || status == STATUS_LIMIT)
        return intake_end(intake, "bad-request", err->message);
    if (status)
        return status;
    if (task->stdin_source)
        stdin_source_started(task->stdin_source);
    for (;;) {
        struct frame frame;

        status = extract_child_next(child, &frame, &why);
        if (!status)
            status = intake_frame(intake, &frame, &why);
        if (!status)
            status = take_member_frame(worker, task, archive, &member, &frame, &why);
        if (status)
            break;
        if (intake_pages(intake) != pages) {
            atomic_fetch_add(&run->gauge.pages, 1);
            pages = intake_pages(intake);
        }
    }
    member_finish(&member);
    extract_child_finish(child, &gone);
    *max_rss_bytes = gone.max_rss_bytes;
    if (status == STATUS_CANCELLED || atomic_load(&run->stop))
        return error_set(err, STATUS_CANCELLED, "stopped on request");
    if (status == STATUS_IO || status == STATUS_BUG) {
        *err = why;
        return status;
    }
    code = end_code(status == STATUS_NOT_FOUND ? STATUS_OK : status, &gone, intake, &why, message, sizeof message);
    if (intake_end(intake, code, code ? message : ""))
        return error_set(err, STATUS_NO_MEMORY, "no memory for a document");
    return STATUS_OK;
}

/* Standard input that streamed: its hash and size are known now, and with them its name. */
static enum status end_stream(struct task *task, struct intake *intake, struct error *err)
{
    enum status status = stdin_source_end(task->stdin_source, task->sha256, &task->size_bytes, err);

    if (status == STATUS_LIMIT)
        status = intake_problem(intake, 0, "limit-size", err->message);
    return status ? status : name_stream(task, task->sha256, err);
}

/* Reads a task and commits what came of it. */
static enum status read_task(struct worker *worker, struct task *task, struct error *err)
{
    struct run *run = worker->run;
    struct archive archive = {0};
    struct intake *intake = NULL;
    struct ingest_document document;
    struct task *deeper;
    int64_t max_rss_bytes = 0;
    bool whole;
    enum status status;

    for (size_t attempt = 0;; attempt++) {
        /* None comes last: a document that needs none opens with any. An archive is given the first. */
        const char *password = attempt < run->options->password_count ? run->options->passwords[attempt] : NULL;

        status = intake_create(&intake, err);
        if (!status)
            status = read_once(worker, task, password, &archive, intake, &max_rss_bytes, err);
        if (status || attempt >= run->options->password_count || task->stdin_source || archive.seen_count)
            break;
        /* Poppler 22.12 crashes on a wrong password where it should refuse it. */
        if (!intake_encrypted(intake) && (intake_ended(intake) || intake_pages(intake)))
            break;
        intake_destroy(intake);
        intake = NULL;
    }
    /* Members in work point to `archive`: wait for them whatever happened. */
    while ((deeper = run_help(run, &archive, task->depth)) != NULL) {
        process(worker, deeper);
        run_done(run, deeper);
    }
    if (!status && atomic_load(&run->stop))
        status = error_set(err, STATUS_CANCELLED, "stopped on request");
    if (!status && task->stdin_source)
        status = end_stream(task, intake, err);
    if (!status && task->incomplete)
        status = intake_problem(intake, 0, "incomplete", "its archive holds only a part of it");
    if (!status)
        status = intake_build(intake, &document, err);
    if (status)
        goto out;
    whole = intake_ended(intake) && document.row.status == DOCUMENT_OK;
    status = commit(worker, task, &document, max_rss_bytes, err);
    /* A damaged or streamed archive is no proof that what it held is gone. */
    if (!status && whole && task->replaces && !task->stdin_source) {
        struct members_call call = {run, task, &archive};

        status = run_call(run, run_remove_members, &call, err);
    }
out:
    archive_finish(&archive);
    intake_destroy(intake);
    return status;
}

static void process(struct worker *worker, struct task *task)
{
    struct run *run = worker->run;
    enum verdict verdict = VERDICT_READ;
    struct error err = {0};
    enum status status = STATUS_OK;

    if (atomic_load(&run->stop))
        return;
    if (task->skipped) {
        status = commit_skipped(worker, task, &err);
        verdict = VERDICT_DONE;
    } else if (task->file) {
        status = open_file(worker, task, &verdict, &err);
    } else if (*task->sha256) {
        status = ask(worker, task, false, &verdict, &err);
    }
    if (!status && verdict == VERDICT_READ)
        status = read_task(worker, task, &err);
    if (status)
        run_fail(run, status, &err);
    atomic_fetch_add(&run->gauge.documents, 1);
    atomic_fetch_add(&run->gauge.bytes, *task->member ? 0 : task->size_bytes);
}

void *worker_main(void *context)
{
    struct worker *worker = context;
    struct run *run = worker->run;
    struct task *task;

    while ((task = run_take(run)) != NULL) {
        process(worker, task);
        run_done(run, task);
    }
    extract_client_destroy(worker->client);
    worker->client = NULL;
    (void)pthread_mutex_lock(&run->mutex);
    run->running--;
    (void)pthread_cond_signal(&run->coordinator);
    (void)pthread_mutex_unlock(&run->mutex);
    return NULL;
}
