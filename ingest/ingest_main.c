/* ingest_main.c: the program dsa-ingest: options, signals, reports, exit codes. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include <jansson.h>

#include "base/log.h"
#include "base/vec.h"
#include "ingest/ingest.h"
#include "ingest/progress.h"
#include "ingest/walk.h"

enum {
    EXIT_SOME_FAILED = 2,
    EXIT_BUSY = 75, /* EX_TEMPFAIL */
    PASSWORDS_MAX = 1000,
    PASSWORD_BYTES = 1024,
    GROUP_COMMIT_MS = 200,  /* what a kill may cost in work to be done again; a power loss no more */
    OPTIMIZE_DOCUMENTS = 500
};

static const char usage[] =
    "Usage: dsa-ingest [OPTION]... PATH...\n"
    "       dsa-ingest [OPTION]... --files-from FILE\n"
    "       dsa-ingest [OPTION]... -\n"
    "\n"
    "Reads documents, folders of documents and archives into a store.\n"
    "\n"
    "  --store DIR            the store (default: $XDG_DATA_HOME/dsa/store or ~/.local/share/dsa/store)\n"
    "  --collection NAME      the collection the documents belong to (default: default)\n"
    "  --files-from FILE      read the names of files from FILE (- is standard input), one a line or NUL-separated\n"
    "  --name NAME            the name of what comes by standard input (default: stdin: and its hash)\n"
    "  --jobs N               documents read at a time (default: the number of processors)\n"
    "  --prune                first remove documents beneath the folders named whose files are gone\n"
    "  --retry                read again what failed, was skipped or read in part\n"
    "  --hidden               read hidden files and folders too\n"
    "  --dry-run              say what would be done\n"
    "  --json                 one JSON object a document on standard output, and one for the sum\n"
    "  --password-file FILE   passwords to try on encrypted documents, one a line\n"
    "  --allow-unsandboxed    go on where the kernel offers neither Landlock nor seccomp\n"
    "  --help, --version\n"
    "\n"
    "Exit codes: 0 all read; 2 some could not be read; 64 usage; 66 no input; 69 no sandbox; 73 the store cannot be\n"
    "created; 74 input or output error; 75 the store is in use; 130 stopped.\n";

struct program {
    struct ingest_options options;
    struct progress progress;
    const char *store_dir, *password_file;
    char *default_dir, extract[PATH_MAX];
    bool json;
    VEC(char *) passwords;
    struct walk_options count_options;
    pthread_t counter;
    bool counting;
    atomic_llong counted_documents, counted_bytes;
    atomic_bool counted;
};

static atomic_bool cancel;

static void on_signal(int number)
{
    (void)number;
    atomic_store(&cancel, true);
}

/* --- Reports ------------------------------------------------------------------------------------------------- */

static const char *outcome_name(const struct ingest_event *event)
{
    switch (event->outcome) {
    case INGEST_STORED: return document_status_name(event->document->row.status);
    case INGEST_UNCHANGED: return "unchanged";
    case INGEST_MISSING: return "missing";
    case INGEST_REMOVED: return "removed";
    case INGEST_WOULD_ADD: return "would-add";
    case INGEST_WOULD_REPLACE: return "would-replace";
    case INGEST_WOULD_REMOVE: return "would-remove";
    }
    return "unknown";
}

static void print_json(json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;

    if (text)
        (void)printf("%s\n", text);
    free(text);
    json_decref(object);
}

static void report_json(const struct ingest_event *event)
{
    json_t *object = json_pack("{s:s, s:s, s:s}", "path", event->path, "member", event->member, "status",
                               outcome_name(event));
    json_t *problems;

    if (!object)
        return;
    if (event->error && *event->error)
        (void)json_object_set_new(object, "error", json_string(event->error));
    if (event->outcome == INGEST_STORED) {
        const struct ingest_document *document = event->document;

        (void)json_object_set_new(object, "media_type", json_string(document->row.media_type));
        (void)json_object_set_new(object, "sha256", json_string(document->row.sha256));
        (void)json_object_set_new(object, "size_bytes", json_integer(document->row.size_bytes));
        (void)json_object_set_new(object, "pages", json_integer((json_int_t)document->page_count));
        (void)json_object_set_new(object, "chunks", json_integer((json_int_t)document->chunk_count));
        (void)json_object_set_new(object, "max_rss_bytes", json_integer(event->max_rss_bytes));
        if (document->row.duplicate_of)
            (void)json_object_set_new(object, "duplicate_of", json_integer(document->row.duplicate_of));
        problems = json_array();
        for (size_t i = 0; i < document->problem_count; i++) {
            const struct store_problem *problem = &document->problems[i];

            (void)json_array_append_new(problems, json_pack("{s:s, s:i, s:s}", "code", problem->code, "page",
                                                            problem->page, "message", problem->message));
        }
        (void)json_object_set_new(object, "problems", problems);
    }
    print_json(object);
}

/* Text of hostile origin on a terminal: control characters become '?'. */
static void print_safe(FILE *out, const char *text)
{
    for (; *text; text++)
        (void)fputc((unsigned char)*text < ' ' || *text == 0x7F ? '?' : *text, out);
}

static void report(void *context, const struct ingest_event *event)
{
    struct program *program = context;
    bool failed = event->outcome == INGEST_MISSING ||
                  (event->outcome == INGEST_STORED && event->document->row.status != DOCUMENT_OK &&
                   event->document->row.status != DOCUMENT_DUPLICATE);
    FILE *out = failed ? stderr : stdout;

    if (program->json) {
        report_json(event);
        return;
    }
    if (!failed && !program->options.dry_run)
        return;
    progress_clear(&program->progress);
    if (failed)
        (void)fputs("dsa-ingest: ", out);
    (void)fprintf(out, "%s: ", outcome_name(event));
    print_safe(out, event->path);
    if (*event->member) {
        (void)fputs("//", out);
        print_safe(out, event->member);
    }
    if (event->error && *event->error) {
        (void)fputs(": ", out);
        print_safe(out, event->error);
    }
    (void)fputc('\n', out);
}

static void tick(void *context, const struct ingest_gauge *gauge)
{
    struct program *program = context;

    if (atomic_load(&program->counted)) {
        program->progress.total_documents = atomic_load(&program->counted_documents);
        program->progress.total_bytes = atomic_load(&program->counted_bytes);
    }
    progress_draw(&program->progress, atomic_load(&gauge->documents), atomic_load(&gauge->pages),
                  atomic_load(&gauge->bytes));
}

/* Counts what there is to read, for the bar alone. */
static void *count_files(void *context)
{
    struct program *program = context;
    struct walk_file file;
    struct walk *walk = NULL;
    struct error err;

    if (walk_create(&program->count_options, &walk, &err) == STATUS_OK) {
        while (!atomic_load(&cancel) && walk_next(walk, &file, &err) == STATUS_OK) {
            atomic_fetch_add(&program->counted_documents, 1);
            atomic_fetch_add(&program->counted_bytes, file.size_bytes);
        }
        atomic_store(&program->counted, true);
    }
    walk_destroy(walk);
    return NULL;
}

static void report_totals(const struct program *program, const struct ingest_totals *totals)
{
    const int64_t *stored = totals->stored;
    int64_t documents = 0;
    double seconds = (double)totals->elapsed_ms / 1000;

    for (int i = 0; i <= DOCUMENT_DUPLICATE; i++)
        documents += stored[i];
    if (program->json) {
        print_json(json_pack("{s:{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f}}", "summary",
                             "documents", (json_int_t)documents, "ok", (json_int_t)stored[DOCUMENT_OK], "partial",
                             (json_int_t)stored[DOCUMENT_PARTIAL], "failed", (json_int_t)stored[DOCUMENT_FAILED],
                             "skipped", (json_int_t)stored[DOCUMENT_SKIPPED], "duplicates",
                             (json_int_t)stored[DOCUMENT_DUPLICATE], "unchanged", (json_int_t)totals->unchanged,
                             "missing", (json_int_t)totals->missing, "removed", (json_int_t)totals->removed, "pages",
                             (json_int_t)totals->pages, "chunks", (json_int_t)totals->chunks, "file_bytes",
                             (json_int_t)totals->file_bytes, "text_bytes", (json_int_t)totals->text_bytes, "links",
                             (json_int_t)totals->links, "hidden", (json_int_t)totals->hidden, "max_rss_bytes",
                             (json_int_t)totals->max_rss_bytes, "seconds", seconds));
        return;
    }
    if (program->options.dry_run)
        return;
    (void)printf("%lld documents: %lld ok, %lld partial, %lld failed, %lld skipped, %lld duplicates; %lld unchanged",
                 (long long)documents, (long long)stored[DOCUMENT_OK], (long long)stored[DOCUMENT_PARTIAL],
                 (long long)stored[DOCUMENT_FAILED], (long long)stored[DOCUMENT_SKIPPED],
                 (long long)stored[DOCUMENT_DUPLICATE], (long long)totals->unchanged);
    if (totals->missing)
        (void)printf(", %lld missing", (long long)totals->missing);
    if (totals->removed)
        (void)printf(", %lld removed", (long long)totals->removed);
    (void)printf("\n%lld pages, %lld passages, %.1f MB of files in %.1f s", (long long)totals->pages,
                 (long long)totals->chunks, (double)totals->file_bytes / 1e6, seconds);
    if (totals->pages && seconds > 0)
        (void)printf(" (%.0f pages/s)", (double)totals->pages / seconds);
    (void)putchar('\n');
}

/* --- Options ----------------------------------------------------------------------------------------------------- */

/* The environment is asked here and nowhere else, and only for where a person's data lies. */
static char *find_default_dir(void)
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    char *dir = NULL;

    if (data && data[0] == '/')
        return asprintf(&dir, "%s/dsa/store", data) < 0 ? NULL : dir;
    if (home && home[0] == '/')
        return asprintf(&dir, "%s/.local/share/dsa/store", home) < 0 ? NULL : dir;
    return NULL;
}

/* dsa-extract lies beside this program in a build tree, else in the installation's libexec. */
static bool find_extract(char *path, size_t cap)
{
    ssize_t len = readlink("/proc/self/exe", path, cap - 1);
    char *slash;

    if (len > 0) {
        path[len] = '\0';
        slash = strrchr(path, '/');
        if (slash && (size_t)(slash - path) + sizeof "/dsa-extract" <= cap) {
            strcpy(slash, "/dsa-extract");
            if (access(path, X_OK) == 0)
                return true;
        }
    }
    (void)snprintf(path, cap, "%s", DSA_EXTRACT);
    return access(path, X_OK) == 0;
}

static int read_passwords(struct program *program)
{
    FILE *file = fopen(program->password_file, "re");
    char line[PASSWORD_BYTES + 2];

    if (!file) {
        log_error("'%s': %s", program->password_file, strerror(errno));
        return EX_NOINPUT;
    }
    while (program->passwords.count < PASSWORDS_MAX && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = '\0';
        if (!*line)
            continue;
        if (vec_reserve(&program->passwords, 1))
            break;
        program->passwords.items[program->passwords.count] = strdup(line);
        if (program->passwords.items[program->passwords.count])
            program->passwords.count++;
    }
    (void)fclose(file);
    program->options.passwords = (const char *const *)program->passwords.items;
    program->options.password_count = program->passwords.count;
    return 0;
}

/* -1 to go on, else the exit code. */
static int parse(int argc, char **argv, struct program *program)
{
    enum {
        STORE = 256,
        COLLECTION,
        FILES_FROM,
        NAME,
        JOBS,
        PRUNE,
        RETRY,
        HIDDEN,
        DRY_RUN,
        JSON,
        PASSWORD,
        UNSANDBOXED
    };
    static const struct option names[] = {{"store", required_argument, NULL, STORE},
                                          {"collection", required_argument, NULL, COLLECTION},
                                          {"files-from", required_argument, NULL, FILES_FROM},
                                          {"name", required_argument, NULL, NAME},
                                          {"jobs", required_argument, NULL, JOBS},
                                          {"prune", no_argument, NULL, PRUNE},
                                          {"retry", no_argument, NULL, RETRY},
                                          {"hidden", no_argument, NULL, HIDDEN},
                                          {"dry-run", no_argument, NULL, DRY_RUN},
                                          {"json", no_argument, NULL, JSON},
                                          {"password-file", required_argument, NULL, PASSWORD},
                                          {"allow-unsandboxed", no_argument, NULL, UNSANDBOXED},
                                          {"help", no_argument, NULL, 'h'},
                                          {"version", no_argument, NULL, 'V'},
                                          {0}};
    struct ingest_options *options = &program->options;
    int option;
    char *end;
    long jobs;

    while ((option = getopt_long(argc, argv, "hV", names, NULL)) != -1) {
        switch (option) {
        case STORE: program->store_dir = optarg; break;
        case COLLECTION: options->collection = optarg; break;
        case FILES_FROM: options->files_from = optarg; break;
        case NAME: options->stdin_name = optarg; break;
        case JOBS:
            jobs = strtol(optarg, &end, 10);
            if (*end || jobs < 1 || jobs > INGEST_JOBS_MAX) {
                log_error("--jobs takes a number from 1 to %d", INGEST_JOBS_MAX);
                return EX_USAGE;
            }
            options->jobs = (int)jobs;
            break;
        case PRUNE: options->prune = true; break;
        case RETRY: options->retry = true; break;
        case HIDDEN: options->hidden = true; break;
        case DRY_RUN: options->dry_run = true; break;
        case JSON: program->json = true; break;
        case PASSWORD: program->password_file = optarg; break;
        case UNSANDBOXED: options->allow_unsandboxed = true; break;
        case 'h': (void)fputs(usage, stdout); return 0;
        case 'V': (void)puts("dsa-ingest " DSA_VERSION); return 0;
        default: (void)fputs(usage, stderr); return EX_USAGE;
        }
    }
    options->paths = (const char *const *)argv + optind;
    options->path_count = (size_t)(argc - optind);
    for (size_t i = 0; i < options->path_count; i++)
        options->read_stdin |= strcmp(options->paths[i], "-") == 0;
    if (options->read_stdin && options->path_count > 1) {
        log_error("'-' stands alone: standard input is one document");
        return EX_USAGE;
    }
    if (options->read_stdin)
        options->path_count = 0;
    if (options->read_stdin && options->files_from && strcmp(options->files_from, "-") == 0) {
        log_error("standard input is either a document or a list");
        return EX_USAGE;
    }
    if (options->stdin_name && (!options->read_stdin || !*options->stdin_name)) {
        log_error("--name names what comes by standard input");
        return EX_USAGE;
    }
    if (options->prune && !options->path_count) {
        log_error("--prune needs the folders beneath which to look");
        return EX_USAGE;
    }
    if (!*options->collection || (!options->path_count && !options->files_from && !options->read_stdin)) {
        (void)fputs(usage, stderr);
        return EX_USAGE;
    }
    return -1;
}

/* --- The run ---------------------------------------------------------------------------------------------- */

static int code_of_store(enum status status)
{
    switch (status) {
    case STATUS_BUSY: return EXIT_BUSY;
    case STATUS_DENIED:
    case STATUS_NOT_FOUND: return EX_CANTCREAT;
    case STATUS_NO_MEMORY: return EX_OSERR;
    case STATUS_NO_SPACE:
    case STATUS_IO: return EX_CANTCREAT;
    default: return EX_DATAERR; /* no store, damaged, or from a newer version */
    }
}

static int code_of_run(enum status status)
{
    switch (status) {
    case STATUS_NOT_FOUND: return EX_NOINPUT;
    case STATUS_UNSUPPORTED: return EX_UNAVAILABLE;
    case STATUS_BUSY: return EXIT_BUSY;
    case STATUS_CANCELLED: return 130;
    case STATUS_NO_MEMORY: return EX_OSERR;
    case STATUS_BAD_INPUT: return EX_DATAERR;
    case STATUS_BUG: return EX_SOFTWARE;
    default: return EX_IOERR;
    }
}

static int open_store(struct program *program, struct store **store)
{
    bool dry = program->options.dry_run;
    struct error err = {0};
    struct stat info;
    enum status status;

    /* A dry run makes no store; without one everything would be new. */
    if (dry && stat(program->store_dir, &info) != 0)
        return 0;
    status = store_open(program->store_dir, dry ? STORE_READ : STORE_INGEST, !dry, store, &err);
    if (!status && !dry)
        status = store_group_commits(*store, GROUP_COMMIT_MS, &err);
    if (status)
        log_error("%s", err.message);
    return status ? code_of_store(status) : 0;
}

static int run(struct program *program, struct store *store)
{
    struct ingest_totals totals = {0};
    struct ingest_sink sink;
    struct sink_store context;
    struct error err = {0};
    int64_t failed, documents = 0;
    enum status status;
    int code;

    sink_store_init(&context, store, program->options.collection, &sink);
    if (program->progress.fd >= 0 && program->options.path_count && !program->options.files_from) {
        program->count_options = (struct walk_options){program->options.paths, program->options.path_count, NULL,
                                                       program->options.hidden};
        program->counting = pthread_create(&program->counter, NULL, count_files, program) == 0;
    }
    status = ingest_run(&program->options, &sink, &totals, &err);
    if (program->counting) {
        if (status)
            atomic_store(&cancel, true);
        (void)pthread_join(program->counter, NULL);
    }
    progress_clear(&program->progress);
    for (int i = 0; i <= DOCUMENT_DUPLICATE; i++)
        documents += totals.stored[i];
    /* What is still grouped goes to disk before we say that it is done. */
    if ((!status || status == STATUS_CANCELLED) && store && !program->options.dry_run) {
        enum status flushed = store_group_commits(store, 0, &err);

        if (!flushed && !status && documents >= OPTIMIZE_DOCUMENTS)
            flushed = store_optimize(store, &err);
        status = flushed ? flushed : status;
    }
    if (!status || status == STATUS_CANCELLED)
        report_totals(program, &totals);
    if (status)
        log_error("%s", err.message);
    failed = totals.stored[DOCUMENT_PARTIAL] + totals.stored[DOCUMENT_FAILED] + totals.missing;
    code = status ? code_of_run(status) : failed ? EXIT_SOME_FAILED : 0;
    if (fflush(stdout) != 0 || ferror(stdout)) {
        log_error("writing the report: %s", strerror(errno));
        code = EX_IOERR;
    }
    return code;
}

int main(int argc, char **argv)
{
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct program program = {
        .options = {.collection = "default", .jobs = processors < 1 ? 1 : processors > 64 ? 64 : (int)processors,
                    .cancel = &cancel, .report = report, .tick = tick}};
    struct store *store = NULL;
    int code;

    log_setup("dsa-ingest", LOG_INFO, 0);
    program.options.context = &program;
    program.progress.fd = -1;
    code = parse(argc, argv, &program);
    if (code >= 0)
        return code;
    code = 0;
    if (!program.store_dir)
        program.store_dir = program.default_dir = find_default_dir();
    if (!program.store_dir) {
        log_error("neither --store nor $XDG_DATA_HOME nor $HOME says where the store is");
        return EX_USAGE;
    }
    if (!find_extract(program.extract, sizeof program.extract)) {
        log_error("'%s' is not there", program.extract);
        return EX_UNAVAILABLE;
    }
    program.options.extract_program = program.extract;
    if (program.password_file)
        code = read_passwords(&program);
    /* Before a store is made for nothing; ingest_run() looks again. */
    for (size_t i = 0; i < program.options.path_count && !code; i++) {
        if (access(program.options.paths[i], F_OK) != 0) {
            log_error("'%s': %s", program.options.paths[i], strerror(errno));
            code = EX_NOINPUT;
        }
    }
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)signal(SIGPIPE, SIG_IGN); /* a closed report is an error, not an end in mid-document */
    if (!code)
        code = open_store(&program, &store);
    if (!code) {
        progress_init(&program.progress, STDERR_FILENO);
        code = run(&program, store);
    }
    store_close(store);
    for (size_t i = 0; i < program.passwords.count; i++)
        free(program.passwords.items[i]);
    vec_finish(&program.passwords);
    free(program.default_dir);
    return code;
}
