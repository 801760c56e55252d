/* jobs.c: the durable queue: submit, claim, finish, and what is done at open about jobs that a dead daemon ran. */
#include "store/jobs_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "store/lock.h"
#include "store/schema.h"

const char *job_state_name(enum job_state state)
{
    switch (state) {
    case JOB_QUEUED: return "queued";
    case JOB_RUNNING: return "running";
    case JOB_FINAL: return "final";
    case JOB_FAILED: return "failed";
    case JOB_CANCELLED: return "cancelled";
    case JOB_DEAD: return "dead";
    }
    return "unknown";
}

const char *job_kind_name(enum job_kind kind)
{
    switch (kind) {
    case JOB_QUERY: return "query";
    case JOB_SUMMARISE: return "summarise";
    case JOB_BATCH: return "batch";
    }
    return "unknown";
}

/* --- Opening --------------------------------------------------------------------------------------------- */

static enum status open_database(const char *dir, const struct schema *schema, const char *pragmas, struct db *db,
                                 struct error *err)
{
    char path[4096];
    enum status status;

    if (snprintf(path, sizeof path, "%s/%s", dir, schema->file) >= (int)sizeof path)
        return error_set(err, STATUS_LIMIT, "'%.64s…': the path is too long", dir);
    status = db_open(db, path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, false, err);
    if (!status && sqlite3_db_readonly(db->handle, "main") == 1)
        status = error_set(err, STATUS_DENIED, "'%s' is read-only", path);
    if (!status)
        status = db_exec(db, pragmas, err);
    if (!status)
        status = schema_check_length(db, err);
    if (!status)
        status = schema_check(db, schema, true, true, err);
    return status;
}

/* Changes with every boot of the machine. */
static void read_boot_id(char *boot, size_t bytes)
{
    int file = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t got = file >= 0 ? read(file, boot, bytes - 1) : -1;

    boot[got > 0 ? got : 0] = '\0';
    boot[strcspn(boot, "\n")] = '\0';
    if (file >= 0)
        (void)close(file);
}

static enum status open_crash_mark(struct jobs *jobs, const char *dir, bool *crashed, struct error *err)
{
    char path[4096];
    struct stat info;

    if (snprintf(path, sizeof path, "%s/crashed", dir) >= (int)sizeof path)
        return error_set(err, STATUS_LIMIT, "'%.64s…': the path is too long", dir);
    jobs->crash_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_APPEND, 0640);
    if (jobs->crash_fd < 0 || fstat(jobs->crash_fd, &info))
        return error_set(err, STATUS_IO, "'%s' cannot be opened: %s", path, strerror(errno));
    *crashed = info.st_size > 0;
    return STATUS_OK;
}

/* One job that was running when its daemon went away. */
static enum status requeue_orphan(struct jobs *jobs, int64_t id, bool crashed, struct error *err)
{
    struct statement st;
    int64_t progress = 0;
    enum status status = jobs_stream_count(jobs, id, &progress, err);

    if (!status)
        status = statement_begin(&jobs->db, "UPDATE jobs SET "
            "crashes = CASE WHEN ?1 > progress THEN 0 ELSE crashes END + (?2 AND rtrim(boot, '+') = ?3), "
            "deaths = CASE WHEN ?1 > progress THEN 0 ELSE deaths END + (boot = ?3 || '+'), state = ?4, progress = ?1 "
            "WHERE id = ?5", &st, err);
    if (status)
        return status;
    statement_int(&st, progress);
    statement_int(&st, crashed);
    statement_text(&st, jobs->boot);
    statement_int(&st, JOB_QUEUED);
    statement_int(&st, id);
    return statement_run(&st, err);
}

static enum status bury(struct jobs *jobs, struct error *err)
{
    struct statement st;
    enum status status = statement_begin(&jobs->db,
        "UPDATE jobs SET state = ?, finished_ms = ?, result = CAST(json_object("
        "'code', 'crashed', 'retryable', json('false'), 'message', printf('the daemon died %d times while it ran this "
        "job', max(crashes, deaths))) AS BLOB) WHERE state = ? AND (crashes >= ? OR deaths >= ?)", &st, err);

    if (status)
        return status;
    statement_int(&st, JOB_DEAD);
    statement_int(&st, clock_wall_ms());
    statement_int(&st, JOB_QUEUED);
    statement_int(&st, JOB_MAX_CRASHES);
    statement_int(&st, JOB_MAX_DEATHS);
    return statement_run(&st, err);
}

static enum status requeue_orphans(struct jobs *jobs, bool crashed, struct error *err)
{
    struct statement st;
    bool row = true;
    int64_t id = 0;
    enum status status = jobs_begin(jobs, err);

    while (!status) { /* one at a time: the list changes under a cursor */
        status = statement_begin(&jobs->db, "SELECT id FROM jobs WHERE state = 1 ORDER BY id LIMIT 1", &st, err);
        if (!status)
            status = statement_step(&st, &row, err);
        if (!status && row)
            id = column_int(&st, 0);
        statement_end(&st);
        if (status || !row)
            break;
        status = requeue_orphan(jobs, id, crashed, err);
    }
    if (!status)
        status = bury(jobs, err);
    if (!status)
        return jobs_commit(jobs, err);
    jobs_rollback(jobs);
    return status;
}

enum status jobs_open(const char *store_dir, struct jobs **jobs, struct error *err)
{
    struct jobs *opened = calloc(1, sizeof *opened);
    bool crashed = false;
    enum status status;

    static_assert(JOB_QUEUED == 0 && JOB_RUNNING == 1 && JOB_FINAL == 2, "partial indexes of the schema");
    if (!opened)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    opened->lock = opened->crash_fd = -1;
    arena_init(&opened->scratch, JOBS_SCRATCH_BYTES);
    read_boot_id(opened->boot, sizeof opened->boot);
    status = lock_take(store_dir, LOCK_DAEMON, &opened->lock, err);
    if (!status)
        status = open_crash_mark(opened, store_dir, &crashed, err);
    if (!status)
        status = open_database(store_dir, &schema_jobs, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL",
                               &opened->db, err);
    if (!status)
        status = open_database(store_dir, &schema_streams, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL",
                               &opened->streams, err);
    if (!status)
        status = requeue_orphans(opened, crashed, err);
    if (!status && crashed && ftruncate(opened->crash_fd, 0))
        status = error_set(err, STATUS_IO, "'%s/crashed' cannot be emptied: %s", store_dir, strerror(errno));
    if (status) {
        jobs_close(opened);
        return status;
    }
    *jobs = opened;
    return STATUS_OK;
}

void jobs_close(struct jobs *jobs)
{
    if (!jobs)
        return;
    if (jobs->in_group)
        jobs_rollback(jobs);
    db_close(&jobs->db);
    db_close(&jobs->streams);
    if (jobs->crash_fd >= 0)
        (void)close(jobs->crash_fd);
    if (jobs->lock >= 0)
        (void)close(jobs->lock);
    arena_finish(&jobs->scratch);
    free(jobs);
}

int jobs_crash_fd(const struct jobs *jobs)
{
    return jobs->crash_fd;
}

/* --- Groups ---------------------------------------------------------------------------------------------- */

enum status jobs_begin(struct jobs *jobs, struct error *err)
{
    enum status status;

    if (jobs->in_group)
        return error_set(err, STATUS_BUG, "a group of job changes is open already");
    status = db_exec(&jobs->streams, "BEGIN IMMEDIATE", err);
    if (status)
        return status;
    status = db_exec(&jobs->db, "BEGIN IMMEDIATE", err);
    if (status)
        db_try(&jobs->streams, "ROLLBACK");
    else
        jobs->in_group = true;
    return status;
}

enum status jobs_commit(struct jobs *jobs, struct error *err)
{
    enum status status = STATUS_OK;

    if (!jobs->in_group)
        return error_set(err, STATUS_BUG, "no group of job changes is open");
    if (sqlite3_get_autocommit(jobs->db.handle) || sqlite3_get_autocommit(jobs->streams.handle))
        status = error_set(err, STATUS_IO, "'%s': an earlier failure rolled this group back", jobs->db.path);
    if (!status)
        status = db_exec(&jobs->streams, "COMMIT", err);
    if (!status)
        status = db_exec(&jobs->db, "COMMIT", err);
    if (status)
        jobs_rollback(jobs);
    jobs->in_group = false;
    return status;
}

void jobs_rollback(struct jobs *jobs)
{
    if (!sqlite3_get_autocommit(jobs->db.handle))
        db_try(&jobs->db, "ROLLBACK");
    if (!sqlite3_get_autocommit(jobs->streams.handle))
        db_try(&jobs->streams, "ROLLBACK");
    jobs->in_group = false;
}

/* --- One job --------------------------------------------------------------------------------------------- */

#define JOB_COLUMNS \
    "id, kind, class, state, principal, key, request, result, attempt, errors, crashes, detached, seed, " \
    "submitted_ms, started_ms, finished_ms"

static void borrow_job(const struct statement *st, struct job *job)
{
    *job = (struct job){
        .id = column_int(st, 0), .kind = (enum job_kind)column_int(st, 1), .class = (enum job_class)column_int(st, 2),
        .state = (enum job_state)column_int(st, 3), .request = column_span(st, 6), .result = column_span(st, 7),
        .attempt = column_int(st, 8), .errors = column_int(st, 9), .crashes = column_int(st, 10),
        .detached = column_int(st, 11) != 0, .seed = column_int(st, 12), .submitted_ms = column_int(st, 13),
        .started_ms = column_int(st, 14), .finished_ms = column_int(st, 15)};
    job->principal = (const char *)sqlite3_column_text(st->handle, 4);
    job->key = (const char *)sqlite3_column_text(st->handle, 5);
}

/* Copies what the job borrows from its statement into the scratch arena. */
static enum status keep_job(struct jobs *jobs, struct job *job, struct error *err)
{
    arena_finish(&jobs->scratch);
    job->principal = arena_copy_cstr(&jobs->scratch, span_from_cstr(job->principal));
    job->key = arena_copy_cstr(&jobs->scratch, span_from_cstr(job->key));
    job->request.ptr = arena_copy_cstr(&jobs->scratch, job->request);
    job->result.ptr = arena_copy_cstr(&jobs->scratch, job->result);
    if (!job->principal || !job->key || !job->request.ptr || !job->result.ptr)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    return STATUS_OK;
}

/* The one row of a bound statement, which it ends: STATUS_NOT_FOUND without. */
static enum status take_job(struct jobs *jobs, struct statement *st, struct job *job, struct error *err)
{
    struct job found;
    bool row = false;
    enum status status = statement_step(st, &row, err);

    if (!status && !row)
        status = error_set(err, STATUS_NOT_FOUND, "no such job");
    if (!status) {
        borrow_job(st, &found);
        status = keep_job(jobs, &found, err);
    }
    if (!status) /* a changing statement is only done when it says so */
        status = statement_step(st, &row, err);
    statement_end(st);
    if (!status)
        *job = found;
    return status;
}

enum status jobs_get(struct jobs *jobs, int64_t id, struct job *job, struct error *err)
{
    struct statement st;
    enum status status = statement_begin(&jobs->db, "SELECT " JOB_COLUMNS " FROM jobs WHERE id = ?", &st, err);

    if (status)
        return status;
    statement_int(&st, id);
    return take_job(jobs, &st, job, err);
}

enum status jobs_find_key(struct jobs *jobs, const char *principal, const char *key, struct job *job,
                          struct error *err)
{
    struct statement st;
    enum status status = statement_begin(&jobs->db, "SELECT " JOB_COLUMNS " FROM jobs WHERE principal = ? AND key = ?",
                                         &st, err);

    if (status)
        return status;
    statement_text(&st, principal);
    statement_text(&st, key);
    return take_job(jobs, &st, job, err);
}

enum status jobs_submit(struct jobs *jobs, const struct job *job, int64_t *id, bool *repeated, struct error *err)
{
    struct statement st;
    struct job found;
    enum status status;

    if (!job->key || !job->key[0] || !job->principal || (unsigned)job->kind > JOB_BATCH ||
        (unsigned)job->class > JOB_NIGHT)
        return error_set(err, STATUS_BAD_INPUT, "a job needs a principal, a key, a kind and a class");
    status = jobs_find_key(jobs, job->principal, job->key, &found, NULL);
    if (status != STATUS_NOT_FOUND) {
        if (status)
            return error_set(err, status, "'%s' cannot be read", jobs->db.path);
        *id = found.id;
        *repeated = true;
        return STATUS_OK;
    }
    status = statement_begin(&jobs->db,
        "INSERT INTO jobs(kind, class, state, principal, key, attempt, errors, crashes, "
        "deaths, detached, seed, submitted_ms, started_ms, finished_ms, boot, progress, request, result) "
        "VALUES(?, ?, 0, ?, ?, 0, 0, 0, 0, ?, ?, ?, 0, 0, '', 0, ?, x'')", &st, err);
    if (status)
        return status;
    statement_int(&st, job->kind);
    statement_int(&st, job->class);
    statement_text(&st, job->principal);
    statement_text(&st, job->key);
    statement_int(&st, job->detached);
    statement_int(&st, job->seed);
    statement_int(&st, job->submitted_ms ? job->submitted_ms : clock_wall_ms());
    statement_blob(&st, job->request);
    status = statement_run(&st, err);
    if (status)
        return status;
    *id = sqlite3_last_insert_rowid(jobs->db.handle);
    *repeated = false;
    return STATUS_OK;
}

enum status jobs_claim_class(struct jobs *jobs, enum job_class class, struct job *job, struct error *err)
{
    struct statement st;
    struct job found;
    int64_t id = 0, progress = 0;
    bool row = false;
    enum status status = statement_begin(&jobs->db,
                                         "SELECT id FROM jobs WHERE state = 0 AND class = ? ORDER BY id LIMIT 1",
                                         &st, err);

    if (status)
        return status;
    statement_int(&st, class);
    status = statement_step(&st, &row, err);
    if (!status && row)
        id = column_int(&st, 0);
    statement_end(&st);
    if (!status && !row)
        status = error_set(err, STATUS_NOT_FOUND, "no job is queued");
    if (!status)
        status = jobs_stream_count(jobs, id, &progress, err);
    if (!status)
        status = statement_begin(&jobs->db,
                                 "UPDATE jobs SET state = 1, attempt = attempt + 1, started_ms = ?, boot = ?, "
                                 "crashes = CASE WHEN ?3 > progress THEN 0 ELSE crashes END, "
                                 "deaths = CASE WHEN ?3 > progress THEN 0 ELSE deaths END, "
                                 "progress = ?3 WHERE id = ? RETURNING " JOB_COLUMNS, &st, err);
    if (status)
        return status;
    statement_int(&st, clock_wall_ms());
    statement_text(&st, jobs->boot);
    statement_int(&st, progress);
    statement_int(&st, id);
    status = take_job(jobs, &st, &found, err);
    if (!status)
        *job = found;
    return status;
}

enum status jobs_claim(struct jobs *jobs, struct job *job, struct error *err)
{
    enum status status = jobs_claim_class(jobs, JOB_INTERACTIVE, job, err);

    return status == STATUS_NOT_FOUND ? jobs_claim_class(jobs, JOB_NIGHT, job, err) : status;
}

enum status jobs_check_fence(struct jobs *jobs, int64_t id, int64_t attempt, struct error *err)
{
    struct statement st;
    bool row = false, holds = false;
    enum status status = statement_begin(&jobs->db, "SELECT attempt, state FROM jobs WHERE id = ?", &st, err);

    if (status)
        return status;
    statement_int(&st, id);
    status = statement_step(&st, &row, err);
    if (!status && row)
        holds = column_int(&st, 0) == attempt && column_int(&st, 1) == JOB_RUNNING;
    statement_end(&st);
    if (!status && !row)
        return error_set(err, STATUS_NOT_FOUND, "no such job");
    if (!status && !holds)
        return error_set(err, STATUS_CANCELLED, "job %lld is not run by attempt %lld any more", (long long)id,
                         (long long)attempt);
    return status;
}

enum status jobs_mark_long(struct jobs *jobs, int64_t id, int64_t attempt, struct error *err)
{
    struct statement st;
    enum status status = jobs_check_fence(jobs, id, attempt, err);

    if (!status)
        status = statement_begin(&jobs->db,
                                 "UPDATE jobs SET boot = rtrim(boot, '+') || '+' WHERE id = ? AND attempt = ? "
                                 "AND state = 1", &st, err);
    if (status)
        return status;
    statement_int(&st, id);
    statement_int(&st, attempt);
    return statement_run(&st, err);
}

enum status jobs_requeue(struct jobs *jobs, int64_t id, int64_t attempt, const char *error_or_null, struct error *err)
{
    struct statement st;
    enum status status = jobs_check_fence(jobs, id, attempt, err);

    if (!status)
        status = statement_begin(&jobs->db,
            "UPDATE jobs SET errors = errors + ?1, state = CASE WHEN ?1 AND errors + 1 >= ?2 "
            "THEN ?3 ELSE 0 END, finished_ms = CASE WHEN ?1 AND errors + 1 >= ?2 THEN ?4 ELSE 0 END, result = CASE "
            "WHEN ?1 THEN CAST(json_object('code', 'failed', 'retryable', json('false'), 'message', ?5) AS BLOB) ELSE "
            "result END WHERE id = ?6 AND attempt = ?7 AND state = 1", &st, err);
    if (status)
        return status;
    statement_int(&st, error_or_null != NULL);
    statement_int(&st, JOB_MAX_ERRORS);
    statement_int(&st, JOB_DEAD);
    statement_int(&st, clock_wall_ms());
    statement_text(&st, error_or_null);
    statement_int(&st, id);
    statement_int(&st, attempt);
    return statement_run(&st, err);
}

enum status jobs_finish(struct jobs *jobs, int64_t id, int64_t attempt, enum job_state state, struct span result,
                        struct error *err)
{
    struct statement st;
    enum status status;

    if (state != JOB_FINAL && state != JOB_FAILED && state != JOB_CANCELLED && state != JOB_DEAD)
        return error_set(err, STATUS_BUG, "a job does not end as %s", job_state_name(state));
    status = jobs_check_fence(jobs, id, attempt, err);
    if (!status)
        status = statement_begin(&jobs->db, "UPDATE jobs SET state = ?, result = ?, finished_ms = ? WHERE id = ? AND "
                                 "attempt = ? AND state = 1", &st, err);
    if (status)
        return status;
    statement_int(&st, state);
    statement_blob(&st, result);
    statement_int(&st, clock_wall_ms());
    statement_int(&st, id);
    statement_int(&st, attempt);
    return statement_run(&st, err);
}

enum status jobs_cancel(struct jobs *jobs, int64_t id, struct error *err)
{
    struct statement st;
    struct job job;
    enum status status = jobs_get(jobs, id, &job, err);

    if (status || job.state > JOB_RUNNING)
        return status;
    status = statement_begin(&jobs->db, "UPDATE jobs SET state = ?, finished_ms = ? WHERE id = ?", &st, err);
    if (status)
        return status;
    statement_int(&st, JOB_CANCELLED);
    statement_int(&st, clock_wall_ms());
    statement_int(&st, id);
    return statement_run(&st, err);
}

static enum status run_id(struct db *db, const char *sql, int64_t id, struct error *err)
{
    struct statement st;
    enum status status = statement_begin(db, sql, &st, err);

    if (status)
        return status;
    statement_int(&st, id);
    return statement_run(&st, err);
}

enum status jobs_retry(struct jobs *jobs, int64_t id, struct error *err)
{
    struct job job;
    bool own = !jobs->in_group;
    enum status status = jobs_get(jobs, id, &job, err);

    if (status)
        return status;
    if (job.state != JOB_FAILED && job.state != JOB_DEAD && job.state != JOB_CANCELLED)
        return error_set(err, STATUS_BAD_INPUT, "job %lld is %s: only failed, dead and cancelled jobs are retried",
                         (long long)id, job_state_name(job.state));
    status = own ? jobs_begin(jobs, err) : STATUS_OK;
    if (status)
        return status;
    status = run_id(&jobs->streams, "DELETE FROM messages WHERE job_id = ?", id, err);
    if (!status)
        status = run_id(&jobs->db, "DELETE FROM packs WHERE job_id = ?", id, err);
    if (!status)
        status = run_id(&jobs->db, "UPDATE jobs SET state = 0, errors = 0, crashes = 0, deaths = 0, progress = 0, "
                        "result = x'', finished_ms = 0 WHERE id = ?", id, err);
    if (!own)
        return status;
    if (!status)
        return jobs_commit(jobs, err);
    jobs_rollback(jobs);
    return status;
}

/* --- Many jobs ------------------------------------------------------------------------------------------- */

enum status jobs_list(struct jobs *jobs, const char *principal_or_null, int64_t after_id, int limit,
                      bool (*visit)(void *context, const struct job *job), void *context, struct error *err)
{
    struct statement st;
    struct job job;
    bool row = true;
    enum status status = statement_begin_own(&jobs->db,
                                             "SELECT " JOB_COLUMNS " FROM jobs WHERE id > ?1 AND (?2 = '' OR "
                                             "principal = ?2) ORDER BY id LIMIT ?3", &st, err);

    if (status)
        return status;
    statement_int(&st, after_id);
    statement_text(&st, principal_or_null);
    statement_int(&st, limit);
    while (!(status = statement_step(&st, &row, err)) && row) {
        borrow_job(&st, &job);
        if (!visit(context, &job))
            break;
    }
    statement_end(&st);
    return status;
}

enum status jobs_count(struct jobs *jobs, int64_t counts[6], struct error *err)
{
    struct statement st;
    int64_t found[6] = {0};
    bool row = true;
    enum status status = statement_begin(&jobs->db, "SELECT state, count(*) FROM jobs GROUP BY state", &st, err);

    if (status)
        return status;
    while (!(status = statement_step(&st, &row, err)) && row) {
        int64_t state = column_int(&st, 0);

        if (state >= 0 && state < 6)
            found[state] = column_int(&st, 1);
    }
    statement_end(&st);
    if (!status)
        memcpy(counts, found, sizeof found);
    return status;
}

enum status jobs_purge(struct jobs *jobs, int64_t before_ms, int64_t *purged, struct error *err)
{
    struct statement st;
    bool own = !jobs->in_group, row = true;
    int64_t id = 0, count = 0;
    enum status status = own ? jobs_begin(jobs, err) : STATUS_OK;

    while (!status) {
        status = statement_begin(&jobs->db,
                                 "SELECT id FROM jobs WHERE state >= 2 AND finished_ms < ? ORDER BY finished_ms "
                                 "LIMIT 1", &st, err);
        if (!status) {
            statement_int(&st, before_ms);
            status = statement_step(&st, &row, err);
            id = !status && row ? column_int(&st, 0) : 0;
            statement_end(&st);
        }
        if (status || !row)
            break;
        status = run_id(&jobs->streams, "DELETE FROM messages WHERE job_id = ?", id, err);
        if (!status)
            status = run_id(&jobs->db, "DELETE FROM packs WHERE job_id = ?", id, err);
        if (!status)
            status = run_id(&jobs->db, "DELETE FROM jobs WHERE id = ?", id, err);
        count++;
    }
    if (own && !status)
        status = jobs_commit(jobs, err);
    else if (own && status)
        jobs_rollback(jobs);
    if (!status)
        *purged = count;
    return status;
}
