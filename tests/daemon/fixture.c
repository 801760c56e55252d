/* fixture.c: see fixture.h. The paths of the programs come from meson. */
#include "tests/daemon/fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include "base/clock.h"
#include "store/store.h"
#include "tests/engine/random_model.h"

enum { READY_MS = 60000, STOP_MS = 20000 }; /* a busy machine may take its time to start a program */

static const char *const topics[][3] = {
    {"falcons", "The peregrine falcon dives at three hundred kilometres an hour when it hunts pigeons.",
     "Falcon eggs are brooded for thirty days by both parents."},
    {"granite", "Granite is an igneous rock of quartz, feldspar and mica that cooled slowly underground.",
     "Quarries near Aberdeen cut granite with diamond wire."},
    {"ferries", "The night ferry to Lerwick leaves Aberdeen harbour at seven in the evening.",
     "Ferries carry sheep, fuel and mail between the islands."},
    {"clocks", "A pendulum clock loses about half a minute a day when the workshop warms by ten degrees.",
     "Harrison's fourth marine timekeeper lost five seconds on its voyage to Jamaica."},
};
enum { TOPICS = sizeof topics / sizeof *topics };

static void put_document(struct store *store, int topic)
{
    struct store_document document = {.collection = topic < 2 ? "nature" : "human", .member = "",
                                      .media_type = "text/plain", .author = "", .language = "en", .created = "",
                                      .modified = "", .error = "", .extractor = "test", .status = DOCUMENT_OK,
                                      .page_count = 2};
    struct store_writer *writer = NULL;
    struct error err = {0};
    char path[64], title[64], sha[65], text[2][512];
    int64_t id = 0;

    (void)snprintf(path, sizeof path, "/archive/%s.pdf", topics[topic][0]);
    (void)snprintf(title, sizeof title, "On %s", topics[topic][0]);
    (void)snprintf(sha, sizeof sha, "%064d", topic);
    document.path = path;
    document.title = title;
    document.sha256 = sha;
    CHECK_OK(store_document_begin(store, &document, &writer, &err), &err);
    for (int p = 0; p < 2; p++) {
        struct store_page page = {.number = p + 1, .label = p ? "2" : "i", .width = 595, .height = 842};

        (void)snprintf(text[p], sizeof text[p], "This page is about %s. %s It was written for a test.",
                       topics[topic][0], topics[topic][p + 1]);
        page.text = span_from_cstr(text[p]);
        CHECK_OK(store_put_page(writer, &page, &err), &err);
    }
    for (int p = 0; p < 2; p++) {
        struct store_chunk_span span = {.page = p + 1, .end = (uint32_t)strlen(text[p])};
        struct store_chunk chunk = {.ordinal = p,
                                    .spans = &span,
                                    .span_count = 1,
                                    .heading = "",
                                    .text = span_from_cstr(text[p]),
                                    .token_estimate = 30,
                                    .hash = (uint64_t)(topic * 2 + p + 1),
                                    .simhash = (uint64_t)check_random()};

        CHECK_OK(store_put_chunk(writer, &chunk, &err), &err);
    }
    CHECK_OK(store_document_finish(writer, &document, &err), &err);
    CHECK_OK(store_document_commit(writer, &id, &err), &err);
}

void fixture_store(struct fixture *fixture, bool filled)
{
    static int number;
    struct store *store = NULL;
    struct error err = {0};

    *fixture = (struct fixture){0};
    (void)snprintf(fixture->store, sizeof fixture->store, "%s/s%d", check_temp_dir(), ++number);
    (void)snprintf(fixture->endpoint, sizeof fixture->endpoint, "ipc://%s/run/dsad.sock", fixture->store);
    (void)snprintf(fixture->log, sizeof fixture->log, "%s.log", fixture->store);
    CHECK_OK(store_open(fixture->store, STORE_INGEST, true, &store, &err), &err);
    for (int topic = 0; filled && topic < TOPICS; topic++)
        put_document(store, topic);
    store_close(store);
}

static const char *make_model(const char *name, bool reader)
{
    static char dir[256];
    struct random_model model = random_model_default(RANDOM_V32, RANDOM_F32);
    struct error err = {0};

    model.reader = reader;
    (void)snprintf(dir, sizeof dir, "%s/%s", check_temp_dir(), name);
    if (mkdir(dir, 0755) == 0)
        CHECK_OK(random_model_write(&model, dir, &err), &err);
    return dir;
}

const char *fixture_model(void)
{
    return make_model("model", false);
}

const char *fixture_reader(void)
{
    return make_model("reader", true);
}

/* --- The daemon -------------------------------------------------------------------------------------------------- */

static pid_t spawn(const char *const *arguments, const char *output, const struct fixture *preloaded)
{
    pid_t pid = fork();

    if (pid == 0) {
        int fd = open(output, O_WRONLY | O_CREAT | O_APPEND, 0600);

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that dies leaves no daemon behind */
        (void)dup2(fd, STDOUT_FILENO);
        (void)dup2(fd, STDERR_FILENO);
        if (preloaded && preloaded->preload) {
            (void)setenv("LD_PRELOAD", preloaded->preload, 1);
            (void)setenv("FULL_DISK_DIR", preloaded->store, 1);
        }
        (void)execv(arguments[0], (char *const *)arguments);
        _exit(127);
    }
    CHECK(pid > 0);
    return pid;
}

static void read_file(const char *path, char *text, size_t cap)
{
    FILE *file = fopen(path, "r");
    size_t len = 0;

    if (file) {
        len = fread(text, 1, cap - 1, file);
        (void)fclose(file);
    }
    text[len] = '\0';
}

static int wait_for(pid_t pid, int timeout_ms)
{
    int64_t until = clock_monotonic_ns() + timeout_ms * INT64_C(1000000);
    int status = 0;

    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (clock_monotonic_ns() > until) {
            (void)kill(pid, SIGKILL);
            (void)waitpid(pid, &status, 0);
            FAIL("dsad does not end");
        }
        (void)usleep(2000);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void fixture_start(struct fixture *fixture)
{
    char note[300], config[300];
    const char *arguments[12] = {DSAD_PATH, "--store", fixture->store};
    int64_t until = clock_monotonic_ns() + READY_MS * INT64_C(1000000);
    int count = 3, status;

    (void)snprintf(note, sizeof note, "%s/run/endpoint", fixture->store);
    (void)unlink(note); /* left by a daemon that was killed */
    if (fixture->model) {
        arguments[count++] = "--model";
        arguments[count++] = fixture->model;
        arguments[count++] = "--threads";
        arguments[count++] = "1";
    }
    if (fixture->config) {
        FILE *file;

        (void)snprintf(config, sizeof config, "%s.conf", fixture->store);
        file = fopen(config, "w");
        CHECK(file);
        (void)fputs(fixture->config, file);
        (void)fclose(file);
        arguments[count++] = "--config";
        arguments[count++] = config;
    }
    fixture->pid = spawn(arguments, fixture->log, fixture);
    while (access(note, F_OK) != 0) {
        if (waitpid(fixture->pid, &status, WNOHANG) == fixture->pid) {
            char said[1024];

            read_file(fixture->log, said, sizeof said);
            FAIL("dsad ended with status %d before it was ready: %s", WEXITSTATUS(status), said);
        }
        if (clock_monotonic_ns() > until)
            FAIL("dsad is not ready after %d ms", READY_MS);
        (void)usleep(1000);
    }
}

int fixture_stop(struct fixture *fixture, int signal_number)
{
    CHECK(kill(fixture->pid, signal_number) == 0);
    return fixture_wait(fixture);
}

int fixture_wait(struct fixture *fixture)
{
    int code = wait_for(fixture->pid, STOP_MS);

    fixture->pid = 0;
    return code;
}

int fixture_run(const char *const *arguments, char *output, size_t output_cap)
{
    char path[300];
    int code;

    (void)snprintf(path, sizeof path, "%s/output", check_temp_dir());
    (void)unlink(path);
    code = wait_for(spawn(arguments, path, NULL), STOP_MS);
    read_file(path, output, output_cap);
    return code;
}

/* --- Clients ----------------------------------------------------------------------------------------------------- */

struct dsa_client *fixture_client(const struct fixture *fixture)
{
    struct dsa_options options = {.size = sizeof options, .endpoint = fixture->endpoint, .ping_ms = 300};
    struct dsa_client *client = NULL;
    char message[256];

    if (dsa_open(&options, &client, message, sizeof message))
        FAIL("dsa_open: %s", message);
    return client;
}

struct dsa_client *fixture_open(struct fixture *fixture, const char *model)
{
    fixture_store(fixture, true);
    fixture->model = model;
    fixture_start(fixture);
    return fixture_client(fixture);
}

void fixture_close(struct fixture *fixture, struct dsa_client *client)
{
    dsa_close(client);
    CHECK_EQ_INT(fixture_stop(fixture, SIGTERM), 0);
}

const struct dsa_event *fixture_request(struct dsa_client *client, int type, const char *header)
{
    const struct dsa_event *event;
    uint64_t request = 0;

    CHECK_EQ_INT(dsa_request(client, type, header, 20000, &request), DSA_OK);
    do
        CHECK_EQ_INT(dsa_next_event(client, 20000, &event), DSA_OK);
    while (event->request != request);
    return event;
}

struct dsa_question fixture_question(const char *text)
{
    return (struct dsa_question){.size = sizeof(struct dsa_question), .text = text};
}

static void note_event(struct outcome *outcome, const struct dsa_event *event)
{
    if (event->job)
        outcome->job = event->job;
    if (event->seq >= 0) {
        if (event->seq != outcome->last_seq + 1)
            FAIL("message %lld comes after %lld", (long long)event->seq, (long long)outcome->last_seq);
        outcome->last_seq = event->seq;
    }
    switch (event->type) {
    case DSA_EVENT_EVIDENCE: outcome->evidence++; break;
    case DSA_EVENT_TOKENS:
        CHECK(outcome->answer_len + event->text_len < sizeof outcome->answer);
        memcpy(outcome->answer + outcome->answer_len, event->text, event->text_len);
        outcome->answer_len += event->text_len;
        outcome->answer[outcome->answer_len] = '\0';
        break;
    case DSA_EVENT_CITATION: {
        size_t used = strlen(outcome->places);

        outcome->citations++;
        outcome->verified += event->verified;
        (void)snprintf(outcome->places + used, sizeof outcome->places - used, "%s p. %s\n", event->path,
                       *event->label ? event->label : "-");
        break;
    }
    case DSA_EVENT_RESET: outcome->resets++; break;
    case DSA_EVENT_FINAL:
        outcome->final = true;
        (void)snprintf(outcome->reason, sizeof outcome->reason, "%s", event->reason);
        (void)snprintf(outcome->answered_by, sizeof outcome->answered_by, "%s", event->answered_by);
        break;
    case DSA_EVENT_ERROR:
        (void)snprintf(outcome->code, sizeof outcome->code, "%s", event->code);
        (void)snprintf(outcome->message, sizeof outcome->message, "%s", event->message);
        break;
    default: break;
    }
}

void fixture_follow(struct dsa_client *client, uint64_t request, int seconds, struct outcome *outcome)
{
    int64_t until = clock_monotonic_ns() + seconds * INT64_C(1000000000);

    *outcome = (struct outcome){.last_seq = -1};
    for (;;) {
        const struct dsa_event *event;
        int result = dsa_next_event(client, 100, &event);

        if (result == DSA_ERROR)
            FAIL("dsa_next_event: %s", dsa_error(client));
        if (clock_monotonic_ns() > until)
            FAIL("no end after %d s; %d evidence, answer '%s'", seconds, outcome->evidence, outcome->answer);
        if (result == DSA_TIMEOUT || event->request != request)
            continue;
        note_event(outcome, event);
        if (event->type == DSA_EVENT_FINAL || event->type == DSA_EVENT_ERROR)
            return;
    }
}

void fixture_ask(struct dsa_client *client, const char *text, struct outcome *outcome)
{
    struct dsa_question question = fixture_question(text);
    uint64_t request = 0;

    if (dsa_ask(client, &question, &request))
        FAIL("dsa_ask: %s", dsa_error(client));
    fixture_follow(client, request, SANITIZED ? 120 : 30, outcome);
}

/* --- Raw --------------------------------------------------------------------------------------------------------- */

void raw_open(struct raw *raw, const char *endpoint)
{
    int linger = 0;

    raw->context = zmq_ctx_new();
    raw->socket = zmq_socket(raw->context, ZMQ_DEALER);
    (void)zmq_setsockopt(raw->socket, ZMQ_LINGER, &linger, sizeof linger);
    CHECK(zmq_connect(raw->socket, endpoint) == 0);
}

void raw_close(struct raw *raw)
{
    (void)zmq_close(raw->socket);
    (void)zmq_ctx_term(raw->context);
}

void raw_send_frames(struct raw *raw, const struct span *frames, size_t count)
{
    for (size_t i = 0; i < count; i++)
        CHECK(zmq_send(raw->socket, frames[i].ptr, frames[i].len, i + 1 < count ? ZMQ_SNDMORE : 0) >= 0);
}

void raw_send(struct raw *raw, int type, const char *id16, const char *header, struct span body)
{
    struct wire_message message = {.type = type, .header = span_from_cstr(header), .body = body};
    struct span frames[5];

    memcpy(message.id, id16, WIRE_ID_BYTES);
    raw_send_frames(raw, frames, wire_encode(&message, frames));
}

json_t *raw_receive(struct raw *raw, int timeout_ms, int *type, char id16[16], char **body, size_t *body_len)
{
    zmq_pollitem_t item = {.socket = raw->socket, .events = ZMQ_POLLIN};
    json_t *header = NULL;
    int more = 1;

    *type = 0;
    *body = NULL;
    *body_len = 0;
    if (zmq_poll(&item, 1, timeout_ms) <= 0)
        return NULL;
    for (int i = 0; more; i++) {
        zmq_msg_t part;

        (void)zmq_msg_init(&part);
        CHECK(zmq_msg_recv(&part, raw->socket, 0) >= 0);
        if (i == 1)
            *type = *(unsigned char *)zmq_msg_data(&part);
        if (i == 2 && id16)
            memcpy(id16, zmq_msg_data(&part), 16);
        if (i == 3)
            header = json_loadb(zmq_msg_data(&part), zmq_msg_size(&part), 0, NULL);
        if (i == 4) {
            *body_len = zmq_msg_size(&part);
            *body = malloc(*body_len + 1);
            CHECK(*body);
            memcpy(*body, zmq_msg_data(&part), *body_len);
            (*body)[*body_len] = '\0';
        }
        more = zmq_msg_more(&part);
        (void)zmq_msg_close(&part);
    }
    return header;
}
