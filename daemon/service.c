/* service.c: composition. Threads: wire, writer, retrieval pool, engine; this one waits for signals. */
#include "daemon/service.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/endpoint.h"
#include "daemon/generate.h"
#include "daemon/retrieve.h"
#include "daemon/server.h"
#include "daemon/writer.h"

enum { MAX_POOL = 64, ADDRESS_BYTES = 256, LOAD_EXTENDS_US = 60000000 };

struct service {
    const struct config *config;
    struct jobs *jobs;
    struct engine *engine;
    struct endpoint endpoint;
    struct server *server;
    struct writer writer;
    struct retrieve retrieve;
    struct summariser summariser;
    struct generate generate;
    bool writer_ready;
    char boot[2 * WIRE_ID_BYTES + 1];
    char *model_json, *cache_dir;
    pthread_t wire_thread, writer_thread, engine_thread, pool[MAX_POOL];
    int pool_count, done_fd, signal_fd;
    bool threads, wire_started, writer_started, engine_started;
};

/* --- A death by our own fault is marked, so that the jobs that ran are not run for ever -------------------------- */

static int crash_fd = -1; /* a handler has no other way to it */

static void on_crash(int number)
{
    ssize_t ignored = write(crash_fd, "c", 1);

    (void)ignored;
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

static void mark_crashes(int fd)
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    struct sigaction action = {.sa_handler = on_crash, .sa_flags = SA_RESETHAND};

    crash_fd = fd;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        (void)sigaction(numbers[i], &action, NULL);
}

/* --- Opening ----------------------------------------------------------------------------------------------------- */

static int exit_code(enum status s)
{
    switch (s) {
    case STATUS_OK: return 0;
    case STATUS_NOT_FOUND: return EXIT_NO_STORE;
    case STATUS_BUSY: return EXIT_BUSY;
    case STATUS_IO:
    case STATUS_NO_SPACE:
    case STATUS_DENIED:
    case STATUS_CORRUPT: return EXIT_IO;
    case STATUS_NO_MEMORY:
    case STATUS_BUG: return EXIT_INTERNAL;
    default: return EXIT_CONFIG;
    }
}

static enum status check_store(const struct config *config, struct error *err)
{
    struct store *store = NULL;
    enum status s = store_open(config->store, STORE_READ, false, &store, err);

    store_close(store);
    if (s == STATUS_NOT_FOUND)
        return error_set(err, s, "there is no store at '%s': make one with dsa-ingest --store '%s'", config->store,
                         config->store);
    return s;
}

/* The list of collections binds those who ask the daemon. Who can read the store's files needs no daemon. */
static void warn_of_readers(const struct config *config)
{
    char path[4096];
    struct stat info;

    if (!*config->collections || snprintf(path, sizeof path, "%s/corpus.db", config->store) >= (int)sizeof path)
        return;
    if (stat(path, &info) == 0 && (info.st_mode & 07))
        log_warning("[access] collections is set, but everybody on this machine may read '%s'", path);
}

/* The daemon reads corpus.db, but a store of an older version has to be brought up to date first. */
static enum status migrate_store(const struct config *config, struct error *err)
{
    struct store *store = NULL;
    enum status s = store_open(config->store, STORE_ADMIN, false, &store, err);

    store_close(store);
    if (!s)
        log_info("the store '%s' was of an older version and is migrated", config->store);
    return s;
}

static void loading(void *context, const char *phase, int64_t done, int64_t total)
{
    (void)context;
    (void)sd_notifyf(0, "STATUS=loading the model: %s %lld of %lld\nEXTEND_TIMEOUT_USEC=%d", phase, (long long)done,
                     (long long)total, LOAD_EXTENDS_US);
}

/* Before the weights are read: where they take minutes, this is what the operator waits for. */
static void planned(void *context, const struct engine_memory *memory)
{
    char text[512];

    (void)context;
    (void)engine_memory_text(memory, text, sizeof text);
    log_info("%s", text);
}

static enum status open_model(struct service *service, struct error *err)
{
    const struct config *config = service->config;
    struct engine_options options = {.model_dir = config->model, .backend = *config->backend ? config->backend : NULL,
                                     .threads = (int)config->threads, .kv_tokens = config->kv_tokens,
                                     .disk_cache_bytes = config->kv_disk_bytes,
                                     .draft_tokens = (int)config->draft_tokens, .progress = loading,
                                     .planned = planned};
    const struct engine_info *info;
    json_t *json;
    enum status s;

    if (!*config->model)
        return STATUS_OK;
    if (asprintf(&service->cache_dir, "%s/kv", config->store) < 0)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a path");
    if (mkdir(service->cache_dir, 0750) && errno != EEXIST)
        return error_set(err, STATUS_IO, "'%s': %s", service->cache_dir, strerror(errno));
    options.cache_dir = service->cache_dir;
    s = engine_open(&options, &service->engine, err);
    if (s) {
        error_prefix(err, "model '%s'", config->model);
        return s == STATUS_NOT_FOUND ? STATUS_BAD_INPUT : s; /* 66 is for the store */
    }
    info = engine_info(service->engine);
    json = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:s, s:b}", "directory", config->model, "architecture",
                     info->architecture, "backend", info->backend, "window_tokens", (json_int_t)info->window_tokens,
                     "kv_tokens", (json_int_t)info->kv_tokens, "parameters", (json_int_t)info->parameter_count,
                     "weight_bytes", (json_int_t)info->weight_bytes, "hash", info->model_hash, "random_weights",
                     (int)info->random_weights);
    service->model_json = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    log_info("model '%s': %s on %s%s", config->model, info->architecture, info->backend,
             info->random_weights ? ", random weights: a test checkpoint" : "");
    return STATUS_OK;
}

static void setup_writer(struct service *service)
{
    struct writer *writer = &service->writer;
    const struct engine_info *info = service->engine ? engine_info(service->engine) : NULL;

    *writer = (struct writer){.config = service->config, .jobs = service->jobs, .boot = service->boot,
                              .model_json = service->model_json ? service->model_json : "null",
                              .model_hash = info ? info->model_hash : "",
                              .answered_by = !info                  ? "extractive-baseline"
                                             : info->random_weights ? "random-checkpoint"
                                                                    : "model",
                              .summariser = &service->summariser,
                              .started_ns = clock_monotonic_ns(), .done_fd = service->done_fd};
    writer_init(writer);
    service->writer_ready = true;
}

static enum status open_all(struct service *service, struct error *err)
{
    unsigned char boot[WIRE_ID_BYTES];
    size_t work_cap = 4 * (size_t)service->config->max_active + 64;
    sigset_t signals;
    enum status s;

    wire_id_random(boot);
    wire_id_text(boot, service->boot);
    (void)sigemptyset(&signals);
    (void)sigaddset(&signals, SIGTERM);
    (void)sigaddset(&signals, SIGINT);
    (void)sigaddset(&signals, SIGHUP);
    (void)pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before the first thread: all inherit it */
    (void)signal(SIGPIPE, SIG_IGN);
    service->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    service->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (service->signal_fd < 0 || service->done_fd < 0)
        return error_set(err, STATUS_IO, "no descriptors: %s", strerror(errno));
    s = check_store(service->config, err);
    if (s == STATUS_UNSUPPORTED)
        s = migrate_store(service->config, err);
    s = s ? s : jobs_open(service->config->store, &service->jobs, err);
    s = s ? s : endpoint_open(service->config, &service->endpoint, err);
    if (s)
        return s;
    mark_crashes(jobs_crash_fd(service->jobs));
    warn_of_readers(service->config);
    s = open_model(service, err);
    s = s ? s : summariser_init(&service->summariser, service->config, service->engine, err);
    if (s)
        return s;
    setup_writer(service);
    s = access_read(service->config->collections, &service->writer.access, err);
    if (s)
        return s;
    queue_init(&service->retrieve.in, work_cap, -1);
    queue_init(&service->generate.in, work_cap, -1);
    service->threads = true;
    s = server_create(service->config, &service->endpoint, service->boot, &service->writer.in, &service->server, err);
    if (s)
        return s;
    service->retrieve.config = service->config;
    service->retrieve.engine = service->engine;
    service->retrieve.summariser = &service->summariser;
    service->retrieve.writer = &service->writer.in;
    service->generate.engine = service->engine;
    service->generate.writer = &service->writer.in;
    service->writer.wire = server_queue(service->server);
    service->writer.retrieval = &service->retrieve.in;
    service->writer.engine = service->engine ? &service->generate.in : NULL;
    return STATUS_OK;
}

static enum status start_threads(struct service *service, struct error *err)
{
    bool good = pthread_create(&service->writer_thread, NULL, writer_run, &service->writer) == 0;

    service->writer_started = good;
    if (good)
        good = service->wire_started = pthread_create(&service->wire_thread, NULL, server_run, service->server) == 0;
    if (good && service->engine)
        good = service->engine_started =
            pthread_create(&service->engine_thread, NULL, generate_run, &service->generate) == 0;
    for (int i = 0; good && i < (int)service->config->retrieval_threads && i < MAX_POOL; i++) {
        good = pthread_create(&service->pool[i], NULL, retrieve_run, &service->retrieve) == 0;
        service->pool_count += good;
    }
    return good ? STATUS_OK : error_set(err, STATUS_NO_MEMORY, "no memory for threads");
}

/* --- Closing ----------------------------------------------------------------------------------------------------- */

static void close_all(struct service *service)
{
    if (service->writer_started)
        (void)pthread_join(service->writer_thread, NULL);
    if (service->wire_started) {
        server_stop(service->server);
        (void)pthread_join(service->wire_thread, NULL);
    }
    if (service->threads) {
        queue_close(&service->writer.in); /* what still wants to tell the writer something is let go */
        queue_close(&service->retrieve.in);
        queue_close(&service->generate.in);
    }
    for (int i = 0; i < service->pool_count; i++)
        (void)pthread_join(service->pool[i], NULL);
    if (service->engine_started)
        (void)pthread_join(service->engine_thread, NULL);
    server_destroy(service->server);
    if (service->threads) {
        queue_finish(&service->retrieve.in);
        queue_finish(&service->generate.in);
    }
    if (service->writer_ready)
        writer_finish(&service->writer);
    endpoint_close(&service->endpoint);
    engine_close(service->engine);
    jobs_close(service->jobs);
    free(service->model_json);
    free(service->cache_dir);
    if (service->signal_fd >= 0)
        (void)close(service->signal_fd);
    if (service->done_fd >= 0)
        (void)close(service->done_fd);
}

/* --- Reading the lists again ------------------------------------------------------------------------------------- */

static void tell_difference(void *context, const char *section, const char *key, bool live)
{
    (void)context;
    if (live)
        log_info("reload: [%s] %s has changed", section, key);
    else
        log_warning("reload: [%s] %s has changed; that needs a restart", section, key);
}

static void push_reload(struct queue *to, struct access *access, struct endpoint_keys *keys)
{
    struct message *message = message_create(MESSAGE_RELOAD);

    message->access = access;
    message->keys = keys;
    if (!queue_push(to, message))
        message_destroy(message);
}

/* All or nothing: a list that can't be read leaves every old one in force. */
static void reload(struct service *service)
{
    const struct config *config = service->config;
    struct endpoint_keys *keys = NULL;
    struct access *access = NULL;
    struct error err = {0};
    struct config new;
    bool usage;
    enum status s;

    (void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)clock_monotonic_ns() / 1000);
    config_init(&new);
    s = config_load(&new, config->argc, config->argv, &usage, &err);
    s = s ? s : config_check(&new, &err);
    s = s ? s : access_read(new.collections, &access, &err);
    if (!s && service->endpoint.curve)
        s = endpoint_keys_read(new.authorized_keys, &keys, &err);
    if (s) {
        access_destroy(access);
        log_error("reload: %s; everything stays as it was", err.message);
    } else {
        config_compare(config, &new, tell_difference, NULL);
        log_set_level(config_log_level(&new));
        push_reload(&service->writer.in, access, NULL);
        push_reload(server_queue(service->server), NULL, keys);
        log_info("reloaded: log level, authorized keys, collections");
        log_debug("the log level is debug");
    }
    config_finish(&new);
    (void)sd_notify(0, "READY=1");
}

static void begin_drain(struct service *service)
{
    struct message *message = message_create(MESSAGE_DRAIN);

    (void)sd_notify(0, "STOPPING=1\nSTATUS=draining");
    if (!queue_push(&service->writer.in, message))
        message_destroy(message);
}

static int watchdog_ms(void)
{
    uint64_t us = 0;

    return sd_watchdog_enabled(0, &us) > 0 ? (int)(us / 2000) : -1;
}

/* The watchdog is fed while the engine steps or has nothing in hand. A step (a chunk of prefill) is shorter than half
 * the interval. */
static void feed_watchdog(struct service *service, long long *steps)
{
    long long now = atomic_load(&service->generate.steps);

    if (now != *steps || !atomic_load(&service->generate.busy))
        (void)sd_notify(0, "WATCHDOG=1");
    *steps = now;
}

static void wait_for_end(struct service *service)
{
    struct pollfd fds[2] = {{.fd = service->signal_fd, .events = POLLIN}, {.fd = service->done_fd, .events = POLLIN}};
    int feed_ms = watchdog_ms(), stops = 0;
    long long steps = -1;

    for (;;) {
        struct signalfd_siginfo info;

        if (poll(fds, 2, feed_ms) == 0)
            feed_watchdog(service, &steps);
        while (read(service->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
            if (info.ssi_signo == SIGHUP) {
                reload(service);
                continue;
            }
            if (++stops > 1)
                _exit(130); /* asked twice: what is on disk is enough */
            begin_drain(service);
        }
        if (fds[1].revents & POLLIN)
            return;
    }
}

/* --- Entry ------------------------------------------------------------------------------------------------------- */

int service_check(const struct config *config)
{
    struct service service = {.config = config, .done_fd = -1, .signal_fd = -1, .endpoint.lock_fd = -1};
    struct access *access = NULL;
    struct error err = {0};
    enum status s = check_store(config, &err);

    s = s ? s : access_read(config->collections, &access, &err);
    s = s ? s : open_model(&service, &err);
    s = s ? s : summariser_init(&service.summariser, config, service.engine, &err);
    access_destroy(access);
    if (s)
        log_error("%s", err.message);
    close_all(&service);
    return exit_code(s);
}

int service_run(const struct config *config)
{
    struct service *service = calloc(1, sizeof *service);
    char address[ADDRESS_BYTES];
    struct error err = {0};
    enum status s;
    int code;

    if (!service)
        return EXIT_INTERNAL;
    service->config = config;
    service->done_fd = service->signal_fd = service->endpoint.lock_fd = -1;
    s = open_all(service, &err);
    s = s ? s : start_threads(service, &err);
    s = s ? s : endpoint_publish(&service->endpoint, server_address(service->server, address, sizeof address), &err);
    if (s) {
        log_error("%s", err.message);
        if (service->writer_started)
            begin_drain(service);
    } else {
        log_info("ready at %s", server_address(service->server, address, sizeof address));
        (void)sd_notifyf(0, "READY=1\nSTATUS=ready at %s", address);
        wait_for_end(service);
    }
    code = exit_code(s);
    close_all(service);
    if (service->writer.fatal)
        code = EXIT_INTERNAL;
    free(service);
    if (!s)
        log_info("stopped");
    return code;
}
