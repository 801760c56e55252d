/* test_restart.c: SIGTERM and SIGKILL in mid-answer, connections that break: the bytes stay the same. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/daemon/fixture.h"

enum { TOKENS_A_KILL = 20 }; /* of 600 */

static const char talk[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"Talk.\"}]}";

static uint64_t ask_long(struct dsa_client *client, const char *key, int64_t tokens)
{
    struct dsa_question q = {.size = sizeof q, .text = talk, .kind = "batch", .key = key, .max_tokens = tokens,
                             .temperature = 1, .seed = 11, .detach = 1};
    uint64_t request = 0;

    CHECK_EQ_INT(dsa_ask(client, &q, &request), DSA_OK);
    return request;
}

static void start_with_model(struct fixture *f)
{
    fixture_store(f, true);
    f->model = fixture_model();
    fixture_start(f);
}

/* What the same question gives when nothing goes wrong. */
static void undisturbed(struct outcome *o)
{
    struct fixture f;
    struct dsa_client *client;

    start_with_model(&f);
    client = fixture_client(&f);
    fixture_follow(client, ask_long(client, "calm", 600), 60, o);
    CHECK(o->final);
    dsa_close(client);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}

/* The client keeps its handle: it reconnects and resumes by itself. */
static void disturbed(int signal_number, int times, struct outcome *o)
{
    struct fixture f;
    struct dsa_client *client;
    uint64_t request;
    int64_t until = clock_monotonic_ns() + INT64_C(60000000000);
    int64_t tokens = 0; /* not messages: a busy machine puts many into one */
    int done = 0;

    start_with_model(&f);
    client = fixture_client(&f);
    request = ask_long(client, "storm", 600);
    *o = (struct outcome){.last_seq = -1};
    for (;;) {
        const struct dsa_event *event;
        int result = dsa_next_event(client, 100, &event);

        CHECK(result != DSA_ERROR);
        CHECK(clock_monotonic_ns() < until);
        if (result == DSA_TIMEOUT || event->request != request)
            continue;
        if (event->seq >= 0) {
            CHECK_EQ_INT(event->seq, o->last_seq + 1);
            o->last_seq = event->seq;
        }
        CHECK(event->type != DSA_EVENT_RESET && event->type != DSA_EVENT_ERROR);
        if (event->type == DSA_EVENT_FINAL)
            break;
        if (event->type != DSA_EVENT_TOKENS)
            continue;
        memcpy(o->answer + o->answer_len, event->text, event->text_len);
        o->answer_len += event->text_len;
        tokens += event->count;
        if (tokens >= TOKENS_A_KILL * (done + 1) && done < times) {
            int code = fixture_stop(&f, signal_number);

            CHECK_EQ_INT(code, signal_number == SIGKILL ? 128 + SIGKILL : 0);
            fixture_start(&f);
            done++;
        }
    }
    o->final = true;
    CHECK_EQ_INT(done, times);
    dsa_close(client);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}

static void expect_same(const struct outcome *a, const struct outcome *b)
{
    CHECK(a->answer_len > 20);
    CHECK_EQ_INT(b->answer_len, a->answer_len);
    CHECK(memcmp(a->answer, b->answer, a->answer_len) == 0);
}

TEST(a_killed_daemon_goes_on_with_the_same_bytes)
{
    struct outcome calm, storm;

    undisturbed(&calm);
    disturbed(SIGKILL, 4, &storm);
    expect_same(&calm, &storm);
}

TEST(a_stopped_daemon_parks_and_goes_on_with_the_same_bytes)
{
    struct outcome calm, storm;

    undisturbed(&calm);
    {
        struct outcome *o = &storm;
        struct fixture f;
        struct dsa_client *client;
        uint64_t request;

        fixture_store(&f, true);
        f.model = fixture_model();
        f.config = "[daemon]\ndrain = 0ms\n"; /* parks at once */
        fixture_start(&f);
        client = fixture_client(&f);
        request = ask_long(client, "parked", 600);
        for (;;) {
            const struct dsa_event *event;

            CHECK_EQ_INT(dsa_next_event(client, 20000, &event), DSA_OK);
            if (event->type == DSA_EVENT_EVIDENCE || event->type == DSA_EVENT_TOKENS)
                break;
        }
        CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
        fixture_start(&f);
        dsa_close(client);
        client = fixture_client(&f);
        CHECK_EQ_INT(dsa_attach(client, 1, 0, &request), DSA_OK);
        fixture_follow(client, request, 60, o);
        dsa_close(client);
        CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
    }
    expect_same(&calm, &storm);
}

TEST(questions_over_documents_survive_kills_with_citations)
{
    struct fixture f;
    struct dsa_client *client;
    struct outcome calm, again;
    struct dsa_question q = fixture_question("How fast does the peregrine falcon dive?");
    uint64_t request = 0;

    start_with_model(&f);
    client = fixture_client(&f);
    fixture_ask(client, q.text, &calm);
    CHECK(calm.final);
    for (int i = 0; i < 5; i++) {
        char key[32];

        (void)snprintf(key, sizeof key, "k%d", i);
        q.key = key;
        CHECK_EQ_INT(dsa_ask(client, &q, &request), DSA_OK);
        for (;;) { /* killed at the i-th event after ACCEPTED, whatever it is */
            const struct dsa_event *event;
            int64_t job = 0;

            CHECK_EQ_INT(dsa_next_event(client, 20000, &event), DSA_OK);
            job = event->job;
            if (event->request != request || event->type != DSA_EVENT_ACCEPTED)
                continue;
            (void)usleep((useconds_t)(i * 3000));
            CHECK_EQ_INT(fixture_stop(&f, SIGKILL), 128 + SIGKILL);
            fixture_start(&f);
            dsa_close(client);
            client = fixture_client(&f);
            CHECK_EQ_INT(dsa_attach(client, job, 0, &request), DSA_OK);
            break;
        }
        fixture_follow(client, request, 60, &again);
        CHECK(again.final);
        CHECK_EQ_STR(again.answer, calm.answer);
        CHECK_EQ_STR(again.places, calm.places);
        CHECK_EQ_INT(again.evidence, calm.evidence);
    }
    dsa_close(client);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}

TEST(a_draining_daemon_refuses_and_ends)
{
    struct fixture f;
    struct dsa_client *client;
    const struct dsa_event *event;
    uint64_t request = 0, drain = 0, late = 0;
    struct dsa_question q = fixture_question("What is granite?");

    fixture_store(&f, true);
    f.model = fixture_model();
    f.config = "[daemon]\ndrain = 3s\n";
    fixture_start(&f);
    client = fixture_client(&f);
    {
        struct dsa_question busy = {
            .size = sizeof busy, .text = talk, .kind = "batch", .max_tokens = 3900, .detach = 1};

        CHECK_EQ_INT(dsa_ask(client, &busy, &request), DSA_OK);
    }
    do
        CHECK_EQ_INT(dsa_next_event(client, 20000, &event), DSA_OK);
    while (event->type != DSA_EVENT_TOKENS);
    CHECK_EQ_INT(dsa_request(client, WIRE_DRAIN, NULL, 5000, &drain), DSA_OK);
    CHECK_EQ_INT(dsa_ask(client, &q, &late), DSA_OK);
    do
        CHECK_EQ_INT(dsa_next_event(client, 20000, &event), DSA_OK);
    while (event->request != late);
    CHECK_EQ_INT(event->type, DSA_EVENT_ERROR);
    CHECK_EQ_STR(event->code, "shutting-down");
    CHECK(event->retryable);
    CHECK_EQ_INT(fixture_wait(&f), 0);
    dsa_close(client);
}

/* jobs.db is on disk when a job is final; of streams.db a power loss may take the tail, here all of it. */
TEST(an_answer_survives_the_loss_of_its_stream)
{
    struct fixture f;
    struct dsa_client *client;
    struct outcome before, after;
    uint64_t request = 0;
    char path[320];

    fixture_store(&f, true);
    fixture_start(&f);
    client = fixture_client(&f);
    fixture_ask(client, "How fast does the peregrine falcon dive?", &before);
    CHECK(before.final);
    dsa_close(client);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
    (void)snprintf(path, sizeof path, "%s/streams.db", f.store);
    CHECK_EQ_INT(unlink(path), 0);
    fixture_start(&f);
    client = fixture_client(&f);
    CHECK_EQ_INT(dsa_attach(client, before.job, 0, &request), DSA_OK);
    fixture_follow(client, request, 20, &after);
    CHECK(after.final);
    CHECK_EQ_STR(after.answer, before.answer);
    CHECK_EQ_INT(after.citations, before.citations);
    CHECK_EQ_STR(after.places, before.places);
    /* Beyond what is left: the stream starts again. */
    CHECK_EQ_INT(dsa_attach(client, before.job, 3, &request), DSA_OK);
    {
        const struct dsa_event *event;
        int resets = 0, finals = 0;

        while (!finals) {
            CHECK_EQ_INT(dsa_next_event(client, 10000, &event), DSA_OK);
            resets += event->type == DSA_EVENT_RESET;
            finals += event->type == DSA_EVENT_FINAL;
        }
        CHECK_EQ_INT(resets, 1);
    }
    dsa_close(client);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}
