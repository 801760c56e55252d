/* summarise.c: dsa-batch summarise: one detached job of the batch class for each document.
 *
 * A job's key is made of the document's number, its bytes and when it was ingested: started again, a document that is
 * done is read back, one that is in work is waited for, one that failed is tried again. What outlives the jobs is the
 * summary in the store, which the daemon finds again by content. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/vec.h"
#include "clients/common/tool.h"
#include "clients/dsa-batch/batch.h"
#include "retrieval/retrieval.h"
#include "store/store.h"

enum {
    IN_FLIGHT = 16, STEP_MS = 200, SAMPLES = 8, KEY_BYTES = 128, BAR = 30, NAME_BYTES = 200,
    MOST_MARKDOWN = 4 << 20, ARENA_BYTES = 64 << 20, BYTES_A_TOKEN = 4, REASON_BYTES = 300
};

struct document {
    int64_t id, chunks;
    char key[KEY_BYTES]; /* "": a random one */
    char *name;          /* of its file */
};

struct task {
    uint64_t request; /* 0: free */
    const struct document *document;
    int64_t job;
    bool cached, try_again, retrying;
    struct buf markdown;
    json_t *citations;
};

struct night {
    struct tool tool;
    const char *collection, *output;
    int64_t document, until_ms, started_ns;
    bool estimate;
    VEC(struct document) documents;
    size_t next;
    struct task tasks[IN_FLIGHT];
    size_t flying;
    bool out_of_time, unwritten;
    FILE *lines;               /* OUTPUT/summaries.jsonl.new */
    char *lines_new, *lines_path;
    int lock;                  /* on OUTPUT; -1: none */
    int64_t done, cached, failed, quotations;
    json_t *reasons;
};

static void usage(FILE *out)
{
    (void)fputs(
        "usage: dsa-batch summarise --store DIR [--collection NAME | --document ID] [option…]\n"
        "       dsa-batch summarise --connect ENDPOINT --document ID [option…]\n\n"
        "Summarises each document by the quotations that cover it, as jobs of the batch class. Run again it\n"
        "continues; what was done is not done twice.\n\n"
        "  --store DIR, --connect ENDPOINT, --key FILE, --server-key KEY   which daemon, as for dsa-query;\n"
        "                  the list of documents is read from --store\n"
        "  --output DIR    a Markdown file for each document, and summaries.jsonl\n"
        "  --until HH:MM   begin nothing new after that time; the next run goes on\n"
        "  --estimate      documents, tokens and hours, measured on a few of the documents; starts nothing\n"
        "  --json          the report as one JSON object\n",
        out);
}

/* --- Which documents ---------------------------------------------------------------------------------------------- */

static bool add_document(void *context, const struct store_document *found)
{
    struct night *night = context;
    const char *path = *found->member ? found->member : found->path, *slash = strrchr(path, '/');
    struct document document = {.id = found->id, .chunks = found->chunk_count};

    if ((found->status != DOCUMENT_OK && found->status != DOCUMENT_PARTIAL) || found->chunk_count == 0)
        return true;
    (void)snprintf(document.key, sizeof document.key, "summarise:%s:%.64s:%" PRId64 ":%" PRId64,
                   RETRIEVAL_SUMMARY_VERSION, found->sha256, found->id, found->ingested_ms);
    document.name = strdup(slash && slash[1] ? slash + 1 : path);
    if (!document.name || vec_reserve(&night->documents, 1))
        abort();
    night->documents.items[night->documents.count++] = document;
    return true;
}

static int list_documents(struct night *night, struct store **store)
{
    struct store_document_filter filter = {.collection = night->collection, .status = -1};
    struct store_document found = {0};
    struct error err = {0};
    enum status s;

    if (!night->tool.store) {
        struct document document = {.id = night->document, .name = strdup("document")};

        if (!document.name || vec_reserve(&night->documents, 1))
            abort();
        night->documents.items[night->documents.count++] = document;
        return 0;
    }
    s = store_open(night->tool.store, STORE_READ, false, store, &err);
    if (!s && night->document) {
        s = store_document_get(*store, night->document, &found, &err);
        if (!s)
            (void)add_document(night, &found);
    } else if (!s) {
        s = store_documents(*store, &filter, add_document, night, &err);
    }
    if (s)
        tool_error(&night->tool, "%s", err.message);
    return s == STATUS_OK ? 0 : s == STATUS_NOT_FOUND ? TOOL_NO_INPUT : TOOL_IO;
}

static bool add_tokens(void *context, const struct store_chunk *chunk)
{
    *(int64_t *)context += chunk->token_estimate;
    return true;
}

/* Measured here, on documents spread over the list, and held against their share of the chunks. */
static int estimate(const struct night *night, struct store *store)
{
    size_t count = night->documents.count, samples = count < SAMPLES ? count : SAMPLES;
    int64_t tokens = 0, chunks = 0, measured = 0, ns = 0;
    struct store_totals totals = {0};
    struct error err = {0};
    enum status s = store_get_totals(store, night->collection, &totals, &err);
    double hours;

    tokens = totals.text_bytes / BYTES_A_TOKEN;
    if (!s && night->document) {
        tokens = 0;
        s = store_chunks(store, night->document, 0, INT32_MAX, add_tokens, &tokens, &err);
    }
    for (size_t i = 0; i < count; i++)
        chunks += night->documents.items[i].chunks;
    for (size_t i = 0; i < samples && !s; i++) {
        const struct document *document = &night->documents.items[i * count / samples];
        struct retrieval_quote *quotes = NULL;
        struct arena arena;
        size_t found;
        int64_t began_ns = clock_monotonic_ns();

        arena_init(&arena, ARENA_BYTES);
        s = retrieval_summarise(store, document->id, &arena, &quotes, &found, &err);
        arena_finish(&arena);
        ns += clock_monotonic_ns() - began_ns;
        measured += document->chunks;
    }
    if (s) {
        tool_error(&night->tool, "%s", err.message);
        return TOOL_IO;
    }
    hours = measured ? (double)ns / 3.6e12 * (double)chunks / (double)measured : 0;
    if (night->tool.json)
        (void)printf("{\"documents\":%zu,\"tokens\":%" PRId64 ",\"hours\":%.6f,\"measured_documents\":%zu}\n", count,
                     tokens, hours, samples);
    else
        (void)printf("%zu documents, about %" PRId64 " tokens, %.4f hours (measured on %zu documents)\n", count, tokens,
                     hours, samples);
    return 0;
}

/* --- Output ------------------------------------------------------------------------------------------------------- */

/* One line of Markdown that means nothing but its words. */
static void put_escaped(struct buf *out, const char *text, size_t len)
{
    size_t cap = 3 * len + 1;
    char *safe = malloc(cap);
    enum status s = safe ? STATUS_OK : STATUS_NO_MEMORY;
    bool space = true;

    if (safe)
        (void)dsa_sanitize(text, len, safe, cap);
    for (const char *at = safe; !s && *at; at++) {
        bool white = *at == ' ' || *at == '\n' || *at == '\t';

        if (strchr("\\`*_[]<>#|", *at))
            s = buf_append_byte(out, '\\');
        if (!s && !(white && space))
            s = buf_append_byte(out, white ? ' ' : *at);
        space = white;
    }
    free(safe);
}

static void put_citation(struct task *task, const struct dsa_event *event)
{
    struct buf *out = &task->markdown;
    json_t *header = json_loadb(event->json, event->json_len, 0, NULL), *quote;
    enum status s = STATUS_OK;

    if (out->len == 0) {
        const char *title = *event->title ? event->title : task->document->name;

        s = buf_append_cstr(out, "# ");
        put_escaped(out, title, strlen(title));
        s = s ? s : buf_append_cstr(out, "\n");
    }
    s = s ? s : buf_append_cstr(out, "\n> ");
    put_escaped(out, event->text, event->text_len);
    s = s ? s : buf_append_cstr(out, "\n>\n> ");
    s = s ? s : buf_printf(out, "[p. ");
    if (*event->label)
        put_escaped(out, event->label, strlen(event->label));
    else
        s = s ? s : buf_printf(out, "%d", event->page);
    /* An anchor that PDF viewers follow; where the path can't stand in a link, the page alone. */
    if (!*event->member && event->path[strcspn(event->path, "<>\n\r")] == '\0')
        s = s ? s : buf_printf(out, "](<%s#page=%d>)\n", event->path, event->page);
    else
        s = s ? s : buf_printf(out, "](#page=%d)\n", event->page);
    if (s)
        buf_clear(out);
    quote = json_stringn(event->text, event->text_len);
    (void)json_array_append_new(
        task->citations, json_pack("{s:o, s:i, s:O?, s:O?, s:b}", "quote", quote ? quote : json_string(""), "page",
                                   event->page, "label", json_object_get(header, "label"), "places",
                                   json_object_get(header, "places"), "verified", event->verified));
    json_decref(header);
}

static bool put_file(const struct night *night, const char *path, const char *path_new, struct span text)
{
    FILE *file = fopen(path_new, "we");
    bool good = file && fwrite(text.ptr, 1, text.len, file) == text.len;

    good = file && fflush(file) == 0 && fsync(fileno(file)) == 0 && good;
    if (file && fclose(file))
        good = false;
    if (good && rename(path_new, path) == 0)
        return true;
    tool_error(&night->tool, "'%s' can't be written: %s", path, strerror(errno));
    return false;
}

static void write_summary(struct night *night, struct task *task)
{
    const struct document *document = task->document;
    char name[NAME_BYTES], *path = NULL, *path_new = NULL;
    json_t *line;

    night->quotations += (int64_t)json_array_size(task->citations);
    if (!night->output)
        return;
    line = json_pack("{s:I, s:I, s:b, s:O}", "document", (json_int_t)document->id, "job", (json_int_t)task->job,
                     "cached", (int)task->cached, "quotations", task->citations);
    if (json_dumpf(line, night->lines, JSON_COMPACT) || fputc('\n', night->lines) == EOF)
        night->unwritten = true;
    json_decref(line);
    (void)snprintf(name, sizeof name, "%s", document->name);
    for (char *c = name; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == '/' || *c == 0x7F)
            *c = '_';
    if (asprintf(&path, "%s/%" PRId64 "-%s.md", night->output, document->id, name) < 0 ||
        asprintf(&path_new, "%s.new", path) < 0 || !put_file(night, path, path_new, buf_span(&task->markdown)))
        night->unwritten = true;
    free(path);
    free(path_new);
}

static void show_progress(const struct night *night, bool last)
{
    double share = night->documents.count ? (double)(night->done + night->failed) / (double)night->documents.count : 1;
    double seconds = (double)(clock_monotonic_ns() - night->started_ns) / 1e9;
    int full = (int)(share * BAR);

    if (night->tool.json || !isatty(STDERR_FILENO))
        return;
    (void)fprintf(stderr, "\r\033[K[%.*s%*s] %" PRId64 "/%zu, %" PRId64 " failed, %.0f s left%s", full,
                  "##############################", BAR - full, "", night->done, night->documents.count, night->failed,
                  share > 0 ? seconds * (1 - share) / share : 0, last ? "\n" : "");
}

static void report(const struct night *night)
{
    double seconds = (double)(clock_monotonic_ns() - night->started_ns) / 1e9;
    int64_t left = (int64_t)night->documents.count - night->done - night->failed;
    size_t index;
    json_t *reason;

    if (night->tool.json) {
        json_t *json = json_pack("{s:I, s:I, s:I, s:I, s:I, s:f, s:b, s:O}", "done", (json_int_t)night->done, "cached",
                                 (json_int_t)night->cached, "failed", (json_int_t)night->failed, "left",
                                 (json_int_t)left, "quotations", (json_int_t)night->quotations, "seconds", seconds,
                                 "complete", left == 0, "failures", night->reasons);

        (void)json_dumpf(json, stdout, JSON_COMPACT);
        (void)putchar('\n');
        json_decref(json);
        return;
    }
    (void)printf("%" PRId64 " done (%" PRId64 " of them before), %" PRId64 " failed, %" PRId64 " quotations; %.1f s\n",
                 night->done, night->cached, night->failed, night->quotations, seconds);
    if (left)
        (void)printf("%" PRId64 " left: run again to go on\n", left);
    json_array_foreach(night->reasons, index, reason) {
        const char *text = json_string_value(json_object_get(reason, "message"));

        (void)printf("document %" JSON_INTEGER_FORMAT ", job %" JSON_INTEGER_FORMAT ": ",
                     json_integer_value(json_object_get(reason, "document")),
                     json_integer_value(json_object_get(reason, "job")));
        tool_print_line(stdout, text ? text : "", text ? strlen(text) : 0, REASON_BYTES);
        (void)putchar('\n');
    }
}

/* --- Jobs --------------------------------------------------------------------------------------------------------- */

static int submit(struct night *night, struct dsa_client *client, const struct document *document)
{
    struct dsa_question question = {.size = sizeof question, .text = "Summarise the document.", .kind = "summarise",
                                    .key = document->key[0] ? document->key : NULL, .documents = &document->id,
                                    .document_count = 1, .detach = 1, .night = 1};

    for (size_t i = 0; i < IN_FLIGHT; i++) {
        struct task *task = &night->tasks[i];
        int result;

        if (task->request)
            continue;
        *task = (struct task){.document = document, .citations = json_array()};
        buf_init(&task->markdown, MOST_MARKDOWN);
        result = dsa_ask(client, &question, &task->request);
        night->flying += result == DSA_OK;
        return result;
    }
    return DSA_ERROR;
}

static int fill(struct night *night, struct dsa_client *client)
{
    int result = DSA_OK;

    if (night->until_ms && clock_wall_ms() >= night->until_ms && night->next < night->documents.count)
        night->out_of_time = true;
    while (!result && night->flying < IN_FLIGHT && night->next < night->documents.count && !night->out_of_time &&
           !batch_interrupted)
        result = submit(night, client, &night->documents.items[night->next++]);
    return result;
}

static void finish_task(struct night *night, struct task *task)
{
    json_decref(task->citations);
    buf_finish(&task->markdown);
    *task = (struct task){0};
    night->flying--;
}

static void fail_task(struct night *night, struct task *task, const char *code, const char *message)
{
    night->failed++;
    (void)json_array_append_new(night->reasons,
                                json_pack("{s:I, s:I, s:s, s:s}", "document", (json_int_t)task->document->id, "job",
                                          (json_int_t)task->job, "code", code, "message", message));
    finish_task(night, task);
}

static bool was_lost(const struct dsa_event *event)
{
    return strstr(event->json, "\"repeated\":true") &&
           (strstr(event->json, "\"state\":\"failed\"") || strstr(event->json, "\"state\":\"dead\"") ||
            strstr(event->json, "\"state\":\"cancelled\""));
}

/* A job that ended badly on an earlier night is queued again, once a run. */
static int try_again(struct task *task, struct dsa_client *client)
{
    char json[48];

    (void)snprintf(json, sizeof json, "{\"job\":%" PRId64 "}", task->job);
    task->try_again = false;
    task->retrying = true;
    return dsa_request(client, 'R', json, 0, &task->request);
}

static int on_event(struct night *night, struct dsa_client *client, const struct dsa_event *event)
{
    struct task *task = NULL;

    for (size_t i = 0; i < IN_FLIGHT && event->request; i++)
        if (night->tasks[i].request == event->request)
            task = &night->tasks[i];
    if (!task)
        return DSA_OK;
    if (event->job)
        task->job = event->job;
    switch (event->type) {
    case DSA_EVENT_ACCEPTED:
        task->try_again = !task->retrying && was_lost(event);
        task->cached |= strstr(event->json, "\"repeated\":true") && strstr(event->json, "\"state\":\"final\"");
        break;
    case DSA_EVENT_CITATION: put_citation(task, event); break;
    case DSA_EVENT_RESET:
        buf_clear(&task->markdown);
        (void)json_array_clear(task->citations);
        break;
    case DSA_EVENT_REPLY: return dsa_attach(client, task->job, 0, &task->request);
    case DSA_EVENT_FINAL:
        task->cached |= strstr(event->json, "\"cached\":true") != NULL;
        night->done++;
        night->cached += task->cached;
        write_summary(night, task);
        finish_task(night, task);
        break;
    case DSA_EVENT_ERROR:
        if (task->try_again)
            return try_again(task, client);
        fail_task(night, task, event->code, event->message);
        break;
    default: break;
    }
    return DSA_OK;
}

static int run(struct night *night)
{
    struct dsa_client *client = NULL;
    int64_t shown_ns = 0;
    int code = tool_open(&night->tool, &client);

    if (code)
        return code;
    night->started_ns = clock_monotonic_ns();
    do {
        const struct dsa_event *event;
        int result = fill(night, client);

        if (result == DSA_OK && night->flying) {
            result = dsa_next_event(client, STEP_MS, &event);
            if (result == DSA_OK)
                result = on_event(night, client, event);
        }
        if (result == DSA_ERROR) {
            tool_error(&night->tool, "%s", dsa_error(client));
            code = TOOL_INTERNAL;
            break;
        }
        if (clock_monotonic_ns() - shown_ns > INT64_C(200000000)) {
            show_progress(night, false);
            shown_ns = clock_monotonic_ns();
        }
    } while (!batch_interrupted &&
             (night->flying || (night->next < night->documents.count && !night->out_of_time)));
    show_progress(night, true);
    for (size_t i = 0; i < IN_FLIGHT; i++)
        if (night->tasks[i].request)
            finish_task(night, &night->tasks[i]);
    dsa_close(client); /* detached jobs go on; the next run reads them back */
    return batch_interrupted ? TOOL_INTERRUPTED : code;
}

/* One run at a time writes there; the lock goes with the process. */
static int open_output(struct night *night)
{
    if (!night->output)
        return 0;
    if (mkdir(night->output, 0750) == 0 || errno == EEXIST)
        night->lock = open(night->output, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (night->lock >= 0 && flock(night->lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
        tool_error(&night->tool, "another dsa-batch writes to '%s'", night->output);
        return TOOL_RETRY;
    }
    if (night->lock < 0 ||
        asprintf(&night->lines_path, "%s/summaries.jsonl", night->output) < 0 ||
        asprintf(&night->lines_new, "%s.new", night->lines_path) < 0 ||
        !(night->lines = fopen(night->lines_new, "we"))) {
        tool_error(&night->tool, "'%s': %s", night->output, strerror(errno));
        return TOOL_IO;
    }
    return 0;
}

/* The lines appear whole, when the run came to its end or to its time. */
static int close_output(struct night *night, int code)
{
    bool good = !night->unwritten;

    if (!night->lines)
        return code;
    good &= fflush(night->lines) == 0 && fsync(fileno(night->lines)) == 0;
    good &= fclose(night->lines) == 0;
    if (code) {
        (void)unlink(night->lines_new);
        return code;
    }
    if (good && rename(night->lines_new, night->lines_path) == 0)
        return 0;
    tool_error(&night->tool, "'%s' can't be written: %s", night->output, strerror(errno));
    return TOOL_IO;
}

static int summarise(struct night *night)
{
    struct store *store = NULL;
    int code = list_documents(night, &store);

    if (!code && night->estimate)
        code = estimate(night, store);
    store_close(store);
    if (!code && !night->estimate) {
        code = open_output(night);
        if (!code)
            code = close_output(night, run(night));
        if (!code || code == TOOL_INTERRUPTED)
            report(night);
        if (!code && night->failed)
            code = EXIT_SOME_FAILED;
    }
    for (size_t i = 0; i < night->documents.count; i++)
        free(night->documents.items[i].name);
    vec_finish(&night->documents);
    json_decref(night->reasons);
    if (night->lock >= 0)
        (void)close(night->lock);
    free(night->lines_path);
    free(night->lines_new);
    return code;
}

enum {
    OPT_STORE = 256, OPT_CONNECT, OPT_KEY, OPT_SERVER_KEY, OPT_COLLECTION, OPT_DOCUMENT, OPT_OUTPUT, OPT_UNTIL,
    OPT_ESTIMATE, OPT_JSON, OPT_HELP
};

static bool parse_number(const char *text, int64_t *number)
{
    char *end;

    errno = 0;
    *number = strtoll(text, &end, 10);
    return *text && !*end && !errno && *number > 0;
}

int batch_summarise(int argc, char **argv)
{
    static const struct option options[] = {
        {"store", 1, NULL, OPT_STORE},           {"connect", 1, NULL, OPT_CONNECT},
        {"key", 1, NULL, OPT_KEY},               {"server-key", 1, NULL, OPT_SERVER_KEY},
        {"collection", 1, NULL, OPT_COLLECTION}, {"document", 1, NULL, OPT_DOCUMENT},
        {"output", 1, NULL, OPT_OUTPUT},         {"until", 1, NULL, OPT_UNTIL},
        {"estimate", 0, NULL, OPT_ESTIMATE},     {"json", 0, NULL, OPT_JSON},
        {"help", 0, NULL, OPT_HELP},             {NULL, 0, NULL, 0}};
    static struct night night = {.tool.program = "dsa-batch"};
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case OPT_STORE: night.tool.store = optarg; break;
        case OPT_CONNECT: night.tool.connect = optarg; break;
        case OPT_KEY: night.tool.key_file = optarg; break;
        case OPT_SERVER_KEY: night.tool.server_key = optarg; break;
        case OPT_COLLECTION: night.collection = optarg; break;
        case OPT_DOCUMENT:
            if (parse_number(optarg, &night.document))
                break;
            tool_error(&night.tool, "'%s' is not a number from 1", optarg);
            return TOOL_USAGE;
        case OPT_OUTPUT: night.output = optarg; break;
        case OPT_UNTIL:
            if (batch_parse_until(optarg, &night.until_ms))
                break;
            tool_error(&night.tool, "'%s' is not a time HH:MM", optarg);
            return TOOL_USAGE;
        case OPT_ESTIMATE: night.estimate = true; break;
        case OPT_JSON: night.tool.json = true; break;
        case OPT_HELP: usage(stdout); return 0;
        default: usage(stderr); return TOOL_USAGE;
        }
    }
    if (argc - optind != 1 || (night.collection && night.document) ||
        (!night.tool.store && (night.estimate || !night.document))) {
        usage(stderr);
        return TOOL_USAGE;
    }
    night.reasons = json_array();
    night.lock = -1;
    batch_catch_signals();
    return summarise(&night);
}
