/* test_full_disk.c: the disk fills under a dsad at work: who asks is told, nothing is acknowledged that is not stored,
 * and when there is space again all goes on. full_disk.c makes the disk. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "store/jobs.h"
#include "tests/daemon/fixture.h"

static void need_preload(struct fixture *f)
{
    if (SANITIZED)
        SKIP("a sanitizer wants to be loaded first itself");
    f->preload = FULL_DISK_PATH;
}

/* Room for so many bytes more, and no others, in files whose names hold `only`. */
static void fill_only(const struct fixture *f, long room, const char *only)
{
    char path[300], new[310];
    FILE *file;

    (void)snprintf(path, sizeof path, "%s.full", f->store);
    (void)snprintf(new, sizeof new, "%s.new", path);
    file = fopen(new, "w");
    CHECK(file);
    (void)fprintf(file, *only ? "%ld %s" : "%ld", room, only);
    CHECK(fclose(file) == 0 && rename(new, path) == 0);
}

static void fill(const struct fixture *f, long room)
{
    fill_only(f, room, "");
}

static void empty(const struct fixture *f)
{
    char path[300];

    (void)snprintf(path, sizeof path, "%s.full", f->store);
    CHECK(unlink(path) == 0);
}

static void ask(struct dsa_client *client, int number, uint64_t *request)
{
    struct dsa_question q = fixture_question("How fast does the peregrine falcon dive?");
    char key[32];

    (void)snprintf(key, sizeof key, "q%d", number);
    q.key = key;
    q.detach = 1;
    CHECK_EQ_INT(dsa_ask(client, &q, request), DSA_OK);
}

static int64_t count_jobs(const struct fixture *f, enum job_state state)
{
    int64_t counts[6] = {0};
    struct jobs *jobs = NULL;
    struct error err = {0};

    CHECK_OK(jobs_open(f->store, &jobs, &err), &err);
    CHECK_OK(jobs_count(jobs, counts, &err), &err);
    jobs_close(jobs);
    return counts[state];
}

TEST(a_question_that_can_not_be_stored_is_refused)
{
    struct fixture f;
    struct dsa_client *client;
    const struct dsa_event *event;
    struct outcome before, after;
    uint64_t request = 0;

    fixture_store(&f, true);
    need_preload(&f);
    fixture_start(&f);
    client = fixture_client(&f);
    ask(client, 0, &request);
    fixture_follow(client, request, 30, &before);
    CHECK(before.final);
    fill(&f, 0);
    for (int i = 1; i <= 5; i++) {
        ask(client, i, &request);
        do
            CHECK_EQ_INT(dsa_next_event(client, 20000, &event), DSA_OK);
        while (event->request != request);
        CHECK_EQ_INT(event->type, DSA_EVENT_ERROR); /* and not ACCEPTED first */
        CHECK_EQ_STR(event->code, "store-failed");
        CHECK(event->retryable);
        CHECK(strstr(event->message, "full"));
    }
    /* What needs no space is answered. */
    event = fixture_request(client, WIRE_STATUS, "{}");
    CHECK_EQ_INT(event->type, DSA_EVENT_REPLY);
    CHECK_EQ_INT(dsa_attach(client, before.job, 0, &request), DSA_OK);
    fixture_follow(client, request, 30, &after);
    CHECK(after.final);
    CHECK_EQ_STR(after.answer, before.answer);
    empty(&f);
    for (int i = 1; i <= 5; i++) {
        ask(client, i, &request);
        fixture_follow(client, request, 30, &after);
        CHECK(after.final);
        CHECK_EQ_STR(after.answer, before.answer);
    }
    fixture_close(&f, client);
    CHECK_EQ_INT(count_jobs(&f, JOB_FINAL), 6);
}

/* Twenty questions in flight while the disk fills at another byte each time, now and then with a kill on top. What
 * was accepted is there in the end, once, with the bytes that were sent; what was refused is not. */
static void fill_in_flight(int round, long room, bool with_kill)
{
    enum { ASKED = 20 };
    struct fixture f;
    struct dsa_client *client;
    uint64_t requests[ASKED];
    struct outcome outcomes[ASKED], again;
    bool accepted[ASKED] = {false}, ended[ASKED] = {false};
    int left = ASKED, taken = 0;
    int64_t until, empty_ns;

    fixture_store(&f, true);
    need_preload(&f);
    fixture_start(&f);
    client = fixture_client(&f);
    ask(client, 1000, &requests[0]); /* connected, and the log of the database is there */
    fixture_follow(client, requests[0], 30, &again);
    CHECK(again.final);
    fill(&f, room);
    for (int i = 0; i < ASKED; i++) {
        outcomes[i] = (struct outcome){.last_seq = -1};
        ask(client, i, &requests[i]);
        (void)usleep(3000); /* several groups */
    }
    until = clock_monotonic_ns() + INT64_C(60000000000);
    empty_ns = clock_monotonic_ns() + INT64_C(400000000);
    while (left) {
        const struct dsa_event *event;
        int result = dsa_next_event(client, 20, &event);

        CHECK(result != DSA_ERROR && clock_monotonic_ns() < until);
        if (empty_ns && clock_monotonic_ns() > empty_ns) {
            if (with_kill)
                CHECK_EQ_INT(fixture_stop(&f, SIGKILL), 128 + SIGKILL);
            empty(&f);
            if (with_kill)
                fixture_start(&f);
            empty_ns = 0;
        }
        for (int i = 0; result == DSA_OK && i < ASKED; i++) {
            if (event->request != requests[i])
                continue;
            if (event->type == DSA_EVENT_ACCEPTED) {
                accepted[i] = true;
                outcomes[i].job = event->job;
            }
            if (event->seq >= 0) {
                CHECK_EQ_INT(event->seq, outcomes[i].last_seq + 1);
                outcomes[i].last_seq = event->seq;
            }
            if (event->type == DSA_EVENT_ERROR) {
                CHECK_EQ_STR(event->code, "store-failed");
                CHECK(!accepted[i]); /* an accepted one is never given up */
            }
            if (event->type == DSA_EVENT_FINAL || event->type == DSA_EVENT_ERROR) {
                CHECK(!ended[i]);
                ended[i] = true;
                left--;
            }
        }
    }
    for (int i = 0; i < ASKED; i++) {
        uint64_t request = 0;

        taken += accepted[i];
        if (!accepted[i])
            continue;
        CHECK_EQ_INT(dsa_attach(client, outcomes[i].job, 0, &request), DSA_OK);
        fixture_follow(client, request, 30, &again);
        CHECK(again.final);
        CHECK_EQ_INT(again.last_seq, outcomes[i].last_seq);
    }
    fixture_close(&f, client);
    CHECK_EQ_INT(count_jobs(&f, JOB_FINAL), taken + 1);
    if (getenv("DSA_TELL"))
        (void)printf("# round %d: room for %ld bytes, %d of %d accepted\n", round, room, taken, ASKED);
}

TEST(a_disk_that_fills_at_any_byte_loses_nothing_accepted)
{
    const char *setting = getenv("DSA_FULL_DISKS");
    int rounds = setting ? atoi(setting) : 5;

    for (int i = 0; i < rounds; i++)
        fill_in_flight(i, i == 0 ? 0 : (long)(check_random() % 160000), i % 3 == 2);
}

TEST(an_answer_under_way_waits_for_space)
{
    struct fixture f;
    struct dsa_client *client;
    struct dsa_question q = {.size = sizeof q, .kind = "batch", .max_tokens = 400, .temperature = 1, .seed = 5,
                             .text = "{\"messages\":[{\"role\":\"user\",\"content\":\"Talk.\"}]}"};
    const struct dsa_event *event;
    struct outcome calm, again;
    uint64_t request = 0;
    int64_t job;
    int results = 0;

    fixture_store(&f, true);
    need_preload(&f);
    f.model = fixture_model();
    fixture_start(&f);
    client = fixture_client(&f);
    CHECK_EQ_INT(dsa_ask(client, &q, &request), DSA_OK);
    fixture_follow(client, request, 30, &calm);
    CHECK(calm.final);
    q.key = "under way";
    CHECK_EQ_INT(dsa_ask(client, &q, &request), DSA_OK);
    do
        CHECK_EQ_INT(dsa_next_event(client, 20000, &event), DSA_OK);
    while (event->type != DSA_EVENT_TOKENS);
    job = event->job;
    fill(&f, 8192);
    for (int i = 0; i < 60; i++) { /* it stands still: no end, no error */
        results = dsa_next_event(client, 20, &event);
        CHECK(results == DSA_TIMEOUT || (event->type != DSA_EVENT_FINAL && event->type != DSA_EVENT_ERROR));
    }
    empty(&f);
    do
        CHECK_EQ_INT(dsa_next_event(client, 20000, &event), DSA_OK);
    while (event->request != request || (event->type != DSA_EVENT_FINAL && event->type != DSA_EVENT_ERROR));
    CHECK_EQ_INT(event->type, DSA_EVENT_FINAL);
    CHECK_EQ_INT(dsa_attach(client, job, 0, &request), DSA_OK);
    fixture_follow(client, request, 30, &again);
    CHECK_EQ_INT(again.answer_len, calm.answer_len);
    CHECK(memcmp(again.answer, calm.answer, calm.answer_len) == 0);
    fixture_close(&f, client);
}

/* The row of a summary finds no room, often enough for three errors, which would be the job's end. By the rules, and by
 * a model in passes, the last of which is not asked again. */
static void summary_waits(const char *model)
{
    struct fixture f;
    struct dsa_client *client;
    struct dsa_question q = {.size = sizeof q, .kind = "summarise", .text = "Summarise.", .documents = (int64_t[]){1},
                             .document_count = 1, .detach = 1};
    const struct dsa_event *event;
    struct outcome o;
    uint64_t request = 0;
    int waits = 0;
    json_t *header;

    fixture_store(&f, true);
    need_preload(&f);
    f.model = model;
    f.config = model ? "[summaries]\nby = quotes\n" : NULL;
    fixture_start(&f);
    client = fixture_client(&f);
    fixture_ask(client, "What is granite?", &o);
    fill_only(&f, 0, "corpus.db");
    CHECK_EQ_INT(dsa_ask(client, &q, &request), DSA_OK);
    while (waits < 4) {
        CHECK_EQ_INT(dsa_next_event(client, 30000, &event), DSA_OK);
        CHECK(event->type != DSA_EVENT_FINAL && event->type != DSA_EVENT_ERROR);
        waits += event->type == DSA_EVENT_PROGRESS && strcmp(event->phase, "no-space") == 0;
    }
    fixture_ask(client, "What is granite?", &o); /* others go on */
    CHECK(o.final);
    empty(&f);
    do {
        CHECK_EQ_INT(dsa_next_event(client, 30000, &event), DSA_OK);
        CHECK(event->type != DSA_EVENT_ERROR);
    } while (event->request != request || event->type != DSA_EVENT_FINAL);
    header = json_loads(event->json, 0, NULL);
    CHECK_EQ_INT(json_integer_value(json_object_get(header, "attempt")), 1);
    CHECK(!json_object_get(header, "cached"));
    if (model)
        CHECK_EQ_INT(json_integer_value(json_object_get(json_object_get(header, "summary"), "passes")), 1);
    json_decref(header);
    event = fixture_request(client, WIRE_LIST, "{\"job\":2}");
    header = json_loadb(event->text, event->text_len, 0, NULL);
    CHECK_EQ_STR(json_string_value(json_object_get(json_array_get(header, 0), "state")), "final");
    CHECK_EQ_INT(json_integer_value(json_object_get(json_array_get(header, 0), "errors")), 0);
    json_decref(header);
    fixture_close(&f, client);
}

TEST(a_summary_waits_for_space)
{
    summary_waits(NULL);
}

TEST(a_summary_in_passes_waits_for_space)
{
    summary_waits(fixture_reader());
}

TEST(a_start_on_a_full_disk_says_so)
{
    char output[4096], variable[300];
    struct fixture f;
    struct dsa_client *client;
    struct outcome o;

    fixture_store(&f, true);
    need_preload(&f);
    fixture_start(&f);
    CHECK_EQ_INT(fixture_stop(&f, SIGKILL), 128 + SIGKILL);
    fill(&f, 0);
    (void)snprintf(variable, sizeof variable, "%s", f.store);
    CHECK(setenv("LD_PRELOAD", f.preload, 1) == 0 && setenv("FULL_DISK_DIR", variable, 1) == 0);
    CHECK_EQ_INT(fixture_run((const char *[]){DSAD_PATH, "--store", f.store, NULL}, output, sizeof output), 74);
    CHECK(unsetenv("LD_PRELOAD") == 0 && unsetenv("FULL_DISK_DIR") == 0);
    if (!strstr(output, "full") && !strstr(output, "No space"))
        FAIL("dsad said '%s'", output);
    empty(&f);
    fixture_start(&f);
    client = fixture_client(&f);
    fixture_ask(client, "What is granite?", &o);
    CHECK(o.final);
    fixture_close(&f, client);
}
