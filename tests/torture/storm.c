/* storm.c: R1, R3 and R4: dsad is killed again and again while clients ask, break off, come back and resume.
 *
 * The ledger is this program's memory: what was accepted, and the bytes that each stream brought. In the end every
 * accepted job must be there once, in its final state, with exactly those bytes. Nothing is timed in the short form;
 * the full form is the same with larger numbers, by environment variables (see README.md):
 *
 *   TORTURE_KILLS=1000 TORTURE_CLIENTS=32 TORTURE_JOBS=100000 build/tests/torture/storm */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/vec.h"
#include "tests/daemon/fixture.h"

enum { WINDOW = 4, MOST_CLIENTS = 64, STALL_S = 60, CLOSE_KILLS = 50 };

struct entry {
    int64_t job, last_seq;
    uint64_t hash;  /* of type, seq and text of every numbered message */
    bool accepted, final;
};

struct open_request {
    uint64_t request;
    long entry;     /* index in the ledger; -1: free */
};

struct asker {
    struct dsa_client *client;
    struct open_request open[WINDOW];
};

struct storm {
    struct fixture f;
    struct asker askers[MOST_CLIENTS];
    long clients, jobs, kills;
    struct entry *ledger;
    long next, done, reconnects;
    int64_t worst_ready_ns, progress_ns;
};

static long setting(const char *name, long fallback)
{
    const char *text = getenv(name);

    return text ? strtol(text, NULL, 10) : fallback;
}

static uint64_t mix(uint64_t hash, const void *bytes, size_t len)
{
    const unsigned char *p = bytes;

    for (size_t i = 0; i < len; i++)
        hash = (hash ^ p[i]) * 0x100000001B3u;
    return hash;
}

static const char *const questions[] = {"How fast does the peregrine falcon dive?", "What is granite made of?",
                                        "When does the night ferry leave?", "How much does a pendulum clock lose?"};

static void ask(struct storm *storm, struct asker *asker, struct open_request *open, long index)
{
    struct dsa_question q = fixture_question(questions[index % 4]);
    char key[32];

    (void)snprintf(key, sizeof key, "entry-%ld", index);
    q.key = key;
    q.detach = 1;
    q.evidence = 2;
    q.seed = index;
    q.temperature = 0.5;
    open->entry = index;
    CHECK_EQ_INT(dsa_ask(asker->client, &q, &open->request), DSA_OK);
    (void)storm;
}

static void fill(struct storm *storm, struct asker *asker)
{
    for (int i = 0; i < WINDOW && storm->next < storm->jobs; i++)
        if (asker->open[i].entry < 0)
            ask(storm, asker, &asker->open[i], storm->next++);
}

static void on_event(struct storm *storm, struct asker *asker, const struct dsa_event *event)
{
    struct open_request *open = NULL;
    struct entry *entry;

    for (int i = 0; i < WINDOW; i++)
        if (asker->open[i].entry >= 0 && asker->open[i].request == event->request)
            open = &asker->open[i];
    if (!open)
        return;
    entry = &storm->ledger[open->entry];
    if (event->type == DSA_EVENT_ERROR)
        FAIL("job %lld: %s (%s)", (long long)event->job, event->message, event->code);
    CHECK(event->type != DSA_EVENT_RESET);
    if (event->type == DSA_EVENT_ACCEPTED) {
        /* Asked again with the same key: the same job, or one acknowledged job would be two. */
        if (entry->accepted)
            CHECK_EQ_INT(event->job, entry->job);
        entry->job = event->job;
        entry->accepted = true;
    }
    if (event->seq < 0)
        return;
    CHECK_EQ_INT(event->seq, entry->last_seq + 1);
    entry->last_seq = event->seq;
    entry->hash = mix(entry->hash, &event->type, sizeof event->type);
    entry->hash = mix(entry->hash, event->text, event->text_len);
    if (event->type == DSA_EVENT_FINAL) {
        CHECK(!entry->final);
        entry->final = true;
        open->entry = -1;
        storm->done++;
        storm->progress_ns = clock_monotonic_ns();
    }
}

/* A client goes away without a word; another takes up its streams where it stood. */
static void break_off(struct storm *storm, struct asker *asker)
{
    dsa_close(asker->client);
    asker->client = fixture_client(&storm->f);
    storm->reconnects++;
    for (int i = 0; i < WINDOW; i++) {
        long index = asker->open[i].entry;

        if (index < 0)
            continue;
        if (storm->ledger[index].accepted)
            CHECK_EQ_INT(dsa_attach(asker->client, storm->ledger[index].job, storm->ledger[index].last_seq + 1,
                                    &asker->open[i].request), DSA_OK);
        else
            ask(storm, asker, &asker->open[i], index);
    }
}

static void kill_and_start(struct storm *storm)
{
    int64_t killed_ns;

    CHECK_EQ_INT(fixture_stop(&storm->f, SIGKILL), 128 + SIGKILL);
    killed_ns = clock_monotonic_ns();
    fixture_start(&storm->f);
    if (clock_monotonic_ns() - killed_ns > storm->worst_ready_ns)
        storm->worst_ready_ns = clock_monotonic_ns() - killed_ns;
}

static void run(struct storm *storm)
{
    int64_t next_kill_ns = clock_monotonic_ns() + 50000000;
    long killed = 0;

    storm->progress_ns = clock_monotonic_ns();
    while (storm->done < storm->jobs || killed < storm->kills) {
        struct pollfd fds[MOST_CLIENTS];

        for (long i = 0; i < storm->clients; i++) {
            const struct dsa_event *event;
            int result;

            fill(storm, &storm->askers[i]);
            while ((result = dsa_next_event(storm->askers[i].client, 0, &event)) == DSA_OK)
                on_event(storm, &storm->askers[i], event);
            CHECK_EQ_INT(result, DSA_TIMEOUT);
            if (check_random() % 400 == 0)
                break_off(storm, &storm->askers[i]);
            fds[i] = (struct pollfd){.fd = dsa_fd(storm->askers[i].client), .events = POLLIN};
        }
        if (killed < storm->kills && clock_monotonic_ns() >= next_kill_ns) {
            kill_and_start(storm);
            killed++;
            /* Random. Fifty in a hundred come so close together that hardly an attempt gets a message out: kills
             * count for nothing, so no job may end for them. */
            next_kill_ns = clock_monotonic_ns() +
                           (int64_t)(10 + check_random() % (killed / CLOSE_KILLS % 2 ? 500 : 150)) * 1000000;
        }
        if (clock_monotonic_ns() - storm->progress_ns > STALL_S * INT64_C(1000000000) && storm->done < storm->jobs)
            FAIL("no job came to its end in %d s: %ld of %ld are done", STALL_S, storm->done, storm->jobs);
        (void)poll(fds, (nfds_t)storm->clients, 5);
    }
}

/* Every stream again, from its beginning, by a client that knows nothing. */
static void check_streams(struct storm *storm)
{
    struct dsa_client *client = fixture_client(&storm->f);

    for (long i = 0; i < storm->jobs; i++) {
        const struct entry *entry = &storm->ledger[i];
        uint64_t request = 0, hash = 0;
        int64_t seq = -1;
        const struct dsa_event *event;

        CHECK(entry->final);
        CHECK_EQ_INT(dsa_attach(client, entry->job, 0, &request), DSA_OK);
        do {
            CHECK_EQ_INT(dsa_next_event(client, 20000, &event), DSA_OK);
            if (event->request != request || event->seq < 0)
                continue;
            CHECK_EQ_INT(event->seq, seq + 1);
            seq = event->seq;
            hash = mix(hash, &event->type, sizeof event->type);
            hash = mix(hash, event->text, event->text_len);
        } while (event->request != request || (event->type != DSA_EVENT_FINAL && event->type != DSA_EVENT_ERROR));
        CHECK_EQ_INT(seq, entry->last_seq);
        if (hash != entry->hash)
            FAIL("job %lld: the stored stream differs from the one that was sent", (long long)entry->job);
    }
    dsa_close(client);
}

static int compare_jobs(const void *a, const void *b)
{
    int64_t x = ((const struct entry *)a)->job, y = ((const struct entry *)b)->job;

    return x < y ? -1 : x > y;
}

/* As many final jobs as were acknowledged, no others, no number twice. */
static void check_counts(struct storm *storm)
{
    struct dsa_client *client = fixture_client(&storm->f);
    const struct dsa_event *event;
    uint64_t request = 0;
    json_t *json;

    CHECK_EQ_INT(dsa_request(client, WIRE_STATUS, NULL, 10000, &request), DSA_OK);
    do
        CHECK_EQ_INT(dsa_next_event(client, 10000, &event), DSA_OK);
    while (event->request != request);
    json = json_loadb(event->json, event->json_len, 0, NULL);
    {
        const json_t *jobs = json_object_get(json, "jobs");

        CHECK_EQ_INT(json_integer_value(json_object_get(jobs, "final")), storm->jobs);
        CHECK_EQ_INT(json_integer_value(json_object_get(jobs, "queued")), 0);
        CHECK_EQ_INT(json_integer_value(json_object_get(jobs, "running")), 0);
        CHECK_EQ_INT(json_integer_value(json_object_get(jobs, "failed")), 0);
        CHECK_EQ_INT(json_integer_value(json_object_get(jobs, "dead")), 0);
        CHECK_EQ_INT(json_integer_value(json_object_get(jobs, "cancelled")), 0);
    }
    json_decref(json);
    dsa_close(client);
    qsort(storm->ledger, (size_t)storm->jobs, sizeof *storm->ledger, compare_jobs);
    for (long i = 1; i < storm->jobs; i++)
        CHECK(storm->ledger[i].job != storm->ledger[i - 1].job);
}

TEST(no_acknowledged_job_is_lost_or_doubled_by_kills)
{
    static struct storm storm;

    storm.clients = setting("TORTURE_CLIENTS", 8);
    storm.jobs = setting("TORTURE_JOBS", 300);
    storm.kills = setting("TORTURE_KILLS", 15);
    CHECK(storm.clients >= 1 && storm.clients <= MOST_CLIENTS && storm.jobs >= 1 && storm.kills >= 0);
    storm.ledger = calloc((size_t)storm.jobs, sizeof *storm.ledger);
    CHECK(storm.ledger);
    for (long i = 0; i < storm.jobs; i++)
        storm.ledger[i].last_seq = -1;
    fixture_store(&storm.f, true);
    storm.f.model = fixture_model();
    fixture_start(&storm.f);
    for (long i = 0; i < storm.clients; i++) {
        storm.askers[i].client = fixture_client(&storm.f);
        for (int k = 0; k < WINDOW; k++)
            storm.askers[i].open[k].entry = -1;
    }
    run(&storm);
    for (long i = 0; i < storm.clients; i++)
        dsa_close(storm.askers[i].client);
    check_streams(&storm);
    check_counts(&storm);
    CHECK_EQ_INT(fixture_stop(&storm.f, SIGTERM), 0);
    (void)printf(
        "# %ld jobs, %ld clients, %ld kills, %ld reconnects; lost 0, doubled 0, streams equal; slowest ready after "
        "a kill %.0f ms\n",
        storm.jobs, storm.clients, storm.kills, storm.reconnects, (double)storm.worst_ready_ns / 1e6);
    free(storm.ledger);
}
