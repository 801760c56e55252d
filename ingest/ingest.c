/* ingest.c: one run from the outside, and what the coordinator does for its workers.
 *
 * Everything that touches the sink, the totals or the report is here and runs on one thread. */
#include "ingest/ingest.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "ingest/run.h"
#include "ingest/stdin_source.h"

static void report(struct run *run, const struct ingest_event *event)
{
    if (run->options->report)
        run->options->report(run->options->context, event);
}

static void report_task(struct run *run, enum ingest_outcome outcome, const struct task *task, const char *error)
{
    report(run, &(struct ingest_event){.outcome = outcome, .path = task->path ? task->path : "", .member = task->member,
                                       .error = error});
}

/* --- Verdicts ------------------------------------------------------------------------------------------------- */

/* Nothing about its row asks for another reading. */
static enum status is_settled(struct run *run, const struct task *task, const struct ingest_known *known, bool *settled,
                              struct error *err)
{
    const struct ingest_options *options = run->options;
    int64_t original;
    enum status status = STATUS_OK;

    *settled = !task->reread;
    if (options->retry && known->status != DOCUMENT_OK && known->status != DOCUMENT_DUPLICATE)
        *settled = false;
    if (known->encrypted && options->password_count)
        *settled = false;
    if (known->status == DOCUMENT_DUPLICATE) {
        status = run->sink->find_bytes(run->sink->context, known->sha256, task->path, task->member, &original, err);
        if (status == STATUS_NOT_FOUND) {
            *settled = false;
            status = STATUS_OK;
        }
    }
    return status;
}

static void count_document(struct run *run, const struct ingest_document *document, int64_t max_rss_bytes)
{
    struct ingest_totals *totals = run->totals;

    totals->stored[document->row.status]++;
    totals->pages += (int64_t)document->page_count;
    totals->chunks += (int64_t)document->chunk_count;
    for (size_t i = 0; i < document->page_count; i++)
        totals->text_bytes += (int64_t)document->pages[i].text.len;
    if (!*document->row.member)
        totals->file_bytes += document->row.size_bytes;
    totals->max_rss_bytes = max_rss_bytes > totals->max_rss_bytes ? max_rss_bytes : totals->max_rss_bytes;
}

static enum status put(struct run *run, const struct task *task, struct ingest_document *document,
                       int64_t max_rss_bytes, struct error *err)
{
    enum status status;

    document->row.collection = run->options->collection;
    document->row.path = task->path;
    document->row.member = task->member;
    document->row.sha256 = task->sha256;
    document->row.size_bytes = task->size_bytes;
    document->row.mtime_ms = task->mtime_ms;
    status = run->sink->put(run->sink->context, document, err);
    if (status)
        return status;
    count_document(run, document, max_rss_bytes);
    report(run, &(struct ingest_event){.outcome = INGEST_STORED, .path = task->path, .member = task->member,
                                       .document = document, .error = document->row.error,
                                       .max_rss_bytes = max_rss_bytes});
    return STATUS_OK;
}

/* If the same bytes were read from elsewhere, puts a row that says so: *is_duplicate. */
static enum status put_if_duplicate(struct run *run, const struct task *task, bool *is_duplicate, struct error *err)
{
    struct ingest_document document = {.row = {.status = DOCUMENT_DUPLICATE, .error = "", .media_type = "", .title = "",
                                               .author = "", .language = "", .created = "", .modified = "",
                                               .extractor = ""}};
    enum status status = run->sink->find_bytes(run->sink->context, task->sha256, task->path, task->member,
                                               &document.row.duplicate_of, err);

    *is_duplicate = status == STATUS_OK;
    if (status == STATUS_NOT_FOUND)
        return STATUS_OK;
    return status ? status : put(run, task, &document, 0, err);
}

enum status run_verdict(void *context, struct error *err)
{
    struct verdict_call *call = context;
    struct run *run = call->run;
    struct task *task = call->task;
    struct ingest_known known;
    bool there, settled = false, duplicate;
    enum status status = run->sink->find(run->sink->context, task->path, task->member, &known, err);

    call->verdict = VERDICT_DONE;
    if (status && status != STATUS_NOT_FOUND)
        return status;
    there = status == STATUS_OK;
    task->replaces |= there;
    if (there) {
        status = is_settled(run, task, &known, &settled, err);
        if (status)
            return status;
    }
    if (settled && (call->quick ? known.size_bytes == task->size_bytes && known.mtime_ms == task->mtime_ms &&
                                      task->mtime_ms != 0
                                : strcmp(known.sha256, task->sha256) == 0)) {
        run->totals->unchanged++;
        report_task(run, INGEST_UNCHANGED, task, NULL);
        return STATUS_OK;
    }
    if (call->quick) {
        call->verdict = VERDICT_READ;
        return STATUS_OK;
    }
    if (run->options->dry_run) {
        report_task(run, there ? INGEST_WOULD_REPLACE : INGEST_WOULD_ADD, task, NULL);
        return STATUS_OK;
    }
    status = put_if_duplicate(run, task, &duplicate, err);
    if (status || duplicate)
        return status;
    call->verdict = task->depth || run_begin_reading(run, task, &call->ticket) ? VERDICT_READ : VERDICT_WAIT;
    return STATUS_OK;
}

enum status run_commit(void *context, struct error *err)
{
    struct commit_call *call = context;
    struct run *run = call->run;
    struct task *task = call->task;
    enum document_status document_status = call->document->row.status;
    struct ingest_known known;
    bool settled, duplicate;
    enum status status;

    if (run->options->dry_run) { /* only what could not be opened comes here, and standard input */
        report_task(run, INGEST_WOULD_ADD, task, call->document->row.error);
        return STATUS_OK;
    }
    if (task->stdin_source) { /* its hash was not known before */
        status = run->sink->find(run->sink->context, task->path, task->member, &known, err);
        task->replaces |= status == STATUS_OK;
        if (!status)
            status = is_settled(run, task, &known, &settled, err);
        if (!status && settled && strcmp(known.sha256, task->sha256) == 0) {
            run->totals->unchanged++;
            report_task(run, INGEST_UNCHANGED, task, NULL);
            return STATUS_OK;
        }
        if (status && status != STATUS_NOT_FOUND)
            return status;
    }
    if ((document_status == DOCUMENT_OK || document_status == DOCUMENT_PARTIAL) && call->document->page_count) {
        /* Another worker may have read the same bytes meanwhile. */
        status = put_if_duplicate(run, task, &duplicate, err);
        if (status || duplicate)
            return status;
    }
    return put(run, task, call->document, call->max_rss_bytes, err);
}

enum status run_missing(void *context, struct error *err)
{
    struct missing_call *call = context;

    call->run->totals->missing++;
    report_task(call->run, INGEST_MISSING, call->task, call->error);
    return STATUS_OK;
}

/* --- What is gone --------------------------------------------------------------------------------------------- */

struct gone_context {
    struct run *run;
    const char *prefix; /* of members: the archive's own member path and "//"; "" for a file */
    const struct archive *archive;
};

static bool member_is_gone(void *context, const char *path, const char *member)
{
    const struct gone_context *gone = context;
    size_t len = strlen(gone->prefix);

    if (!*member || strncmp(member, gone->prefix, len) != 0)
        return false;
    /* Of members in inner archives the inner archive's own name decides; it is their prefix up to a "//". */
    for (const char *inner = strstr(member + len, "//"); inner; inner = strstr(inner + 2, "//")) {
        char *outer = strndup(member, (size_t)(inner - member));
        bool held = outer && archive_holds(gone->archive, outer);

        free(outer);
        if (held)
            return false;
    }
    if (archive_holds(gone->archive, member))
        return false;
    report(gone->run, &(struct ingest_event){.outcome = INGEST_REMOVED, .path = path, .member = member});
    return true;
}

enum status run_remove_members(void *context, struct error *err)
{
    struct members_call *call = context;
    struct gone_context gone = {.run = call->run, .archive = call->archive};
    char *prefix = NULL;
    int64_t removed = 0;
    enum status status;

    if (asprintf(&prefix, "%s%s", call->task->member, *call->task->member ? "//" : "") < 0)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a name");
    gone.prefix = prefix;
    status = call->run->sink->remove(call->run->sink->context, call->task->path, false, member_is_gone, &gone, &removed,
                                     err);
    call->run->totals->removed += removed;
    free(prefix);
    return status;
}

static bool file_is_gone(void *context, const char *path, const char *member)
{
    struct run *run = context;
    bool gone = walk_path_gone(path);

    if (gone)
        report(run, &(struct ingest_event){.outcome = run->options->dry_run ? INGEST_WOULD_REMOVE : INGEST_REMOVED,
                                           .path = path, .member = member});
    return gone && !run->options->dry_run;
}

/* A folder that is there but empty is more likely a disk that is not mounted than a wish to forget everything. */
static enum status check_root(const char *path, struct error *err)
{
    DIR *folder = opendir(path);
    struct dirent *entry;
    bool empty = true;

    if (!folder)
        return error_set(err, STATUS_NOT_FOUND, "'%s': %s", path, strerror(errno));
    while (empty && (entry = readdir(folder)) != NULL)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    (void)closedir(folder);
    return empty ? error_set(err, STATUS_NOT_FOUND, "'%s' is empty: nothing is pruned beneath it", path) : STATUS_OK;
}

static bool is_folder(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static enum status prune(struct run *run, struct error *err)
{
    const struct ingest_options *options = run->options;
    enum status status = STATUS_OK;

    for (size_t i = 0; i < options->path_count && !status; i++) {
        if (is_folder(options->paths[i]))
            status = check_root(options->paths[i], err);
    }
    for (size_t i = 0; i < options->path_count && !status; i++) {
        char *real = realpath(options->paths[i], NULL), *text = real ? walk_path_text(real) : NULL, *prefix = NULL;
        int64_t removed = 0;

        if (!text || asprintf(&prefix, "%s%s", text, strcmp(text, "/") == 0 ? "" : "/") < 0)
            status = error_set(err, STATUS_NO_MEMORY, "no memory for a name");
        else if (is_folder(options->paths[i]))
            status = run->sink->remove(run->sink->context, prefix, true, file_is_gone, run, &removed, err);
        run->totals->removed += removed;
        free(real);
        free(text);
        free(prefix);
    }
    return status;
}

/* --- The run --------------------------------------------------------------------------------------------------- */

static enum status add_stdin(struct run *run, struct error *err)
{
    const struct ingest_options *options = run->options;
    struct task *task = calloc(1, sizeof *task);
    struct stdin_source *source = NULL;
    enum status status;

    if (!task)
        return error_set(err, STATUS_NO_MEMORY, "no memory for standard input");
    task->fd = -1;
    task->member = strdup("");
    status = stdin_source_open(STDIN_FILENO, options->cancel, &source, err);
    if (status)
        goto fail;
    if (options->stdin_name)
        task->path = strdup(options->stdin_name);
    else if (stdin_source_whole(source) && asprintf(&task->path, "stdin:%s", stdin_source_head_hash(source)) < 0)
        task->path = NULL;
    if (!task->member || (!task->path && (options->stdin_name || stdin_source_whole(source)))) {
        status = error_set(err, STATUS_NO_MEMORY, "no memory for standard input");
        goto fail;
    }
    if (stdin_source_whole(source)) {
        struct stat info;

        task->fd = dup(stdin_source_fd(source));
        if (task->fd < 0 || fstat(task->fd, &info) != 0) {
            status = error_set(err, STATUS_IO, "standard input: %s", strerror(errno));
            goto fail;
        }
        task->size_bytes = info.st_size;
        memcpy(task->sha256, stdin_source_head_hash(source), DIGEST_HEX_BYTES);
        stdin_source_close(source);
    } else {
        task->stdin_source = source;
    }
    run->extra = task;
    return STATUS_OK;
fail:
    stdin_source_close(source);
    task_destroy(task);
    return status;
}

static enum status run_workers(struct run *run, struct error *err)
{
    int jobs = run->options->jobs;
    struct worker *workers = calloc((size_t)jobs, sizeof *workers);
    int started = 0;
    enum status status = STATUS_OK;

    if (!workers)
        return error_set(err, STATUS_NO_MEMORY, "no memory for workers");
    (void)pthread_mutex_lock(&run->mutex);
    run->running = jobs;
    (void)pthread_mutex_unlock(&run->mutex);
    for (; started < jobs; started++) {
        workers[started].run = run;
        if (pthread_create(&workers[started].thread, NULL, worker_main, &workers[started]) != 0)
            break;
    }
    if (started < jobs) {
        (void)pthread_mutex_lock(&run->mutex);
        run->running -= jobs - started;
        (void)pthread_mutex_unlock(&run->mutex);
        error_set(err, STATUS_NO_MEMORY, "only %d of %d threads could be started", started, jobs);
        run_fail(run, STATUS_NO_MEMORY, err);
    }
    run_coordinate(run);
    for (int i = 0; i < started; i++)
        (void)pthread_join(workers[i].thread, NULL);
    free(workers);
    if (run->status) {
        status = run->status;
        if (err)
            *err = run->err;
    }
    return status;
}

struct orphans_context {
    struct run *run;
    enum status status;
};

/* An orphan's file is read again; of a member, its archive. */
static bool add_orphan(void *context, const char *path, const char *member)
{
    struct orphans_context *orphans = context;
    struct task *task;
    struct stat info;

    if (path[0] != '/' || lstat(path, &info) != 0 || !S_ISREG(info.st_mode))
        return true;
    for (task = orphans->run->extra; task; task = task->next) {
        if (strcmp(task->path, path) == 0)
            return true;
    }
    task = calloc(1, sizeof *task);
    if (task) {
        *task = (struct task){.fd = -1, .reread = true, .path = strdup(path), .file = strdup(path),
                              .member = strdup(""), .next = orphans->run->extra};
        if (task->path && task->file && task->member) {
            orphans->run->extra = task;
            return true;
        }
    }
    task_destroy(task);
    orphans->status = STATUS_NO_MEMORY;
    return false;
}

enum status ingest_run(const struct ingest_options *options, const struct ingest_sink *sink,
                       struct ingest_totals *totals, struct error *err)
{
    int64_t start_ns = clock_monotonic_ns();
    struct orphans_context orphans = {0};
    struct walk_counts counts;
    struct run run;
    enum status status;

    *totals = (struct ingest_totals){0};
    if (!options->path_count && !options->files_from && !options->read_stdin)
        return error_set(err, STATUS_NOT_FOUND, "nothing to read was named");
    if (options->jobs < 1 || options->jobs > INGEST_JOBS_MAX)
        return error_set(err, STATUS_BAD_INPUT, "%d jobs", options->jobs);
    status = run_init(&run, options, sink, totals, err);
    if (!status && options->prune)
        status = prune(&run, err);
    if (!status && options->read_stdin)
        status = add_stdin(&run, err);
    if (!status)
        status = run_workers(&run, err);
    /* Documents that were replaced or removed may have had duplicates: one of these takes the place. */
    if (!status && !options->dry_run) {
        orphans.run = &run;
        status = sink->orphans(sink->context, add_orphan, &orphans, err);
        if (!status && orphans.status)
            status = error_set(err, orphans.status, "no memory for duplicates");
        if (!status && run.extra)
            status = run_workers(&run, err);
    }
    if (run.walk) {
        counts = walk_get_counts(run.walk);
        totals->links = counts.links;
        totals->special = counts.special;
        totals->hidden = counts.hidden;
    }
    totals->elapsed_ms = (clock_monotonic_ns() - start_ns) / 1000000;
    run_finish(&run);
    return status;
}
