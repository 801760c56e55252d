/* cancel.c: R6: from CANCEL to the end of the stream, while the engine decodes. TORTURE_CANCELS=10000 for the full
 * form. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "tests/daemon/fixture.h"

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

TEST(a_cancelled_answer_ends_at_once)
{
    const char *setting = getenv("TORTURE_CANCELS");
    int count = setting ? atoi(setting) : 20;
    double *ms = calloc((size_t)count + 1, sizeof *ms);
    struct fixture f;
    struct dsa_client *client;
    struct outcome o;

    CHECK(ms && count > 0);
    fixture_store(&f, true);
    f.model = fixture_model();
    fixture_start(&f);
    client = fixture_client(&f);
    for (int i = 0; i < count; i++) {
        struct dsa_question q = {.size = sizeof q, .kind = "batch", .max_tokens = 3900,
                                 .text = "{\"messages\":[{\"role\":\"user\",\"content\":\"Talk.\"}]}"};
        const struct dsa_event *event;
        uint64_t request = 0;
        int64_t asked_ns;

        CHECK_EQ_INT(dsa_ask(client, &q, &request), DSA_OK);
        do
            CHECK_EQ_INT(dsa_next_event(client, 20000, &event), DSA_OK);
        while (event->request != request || event->type != DSA_EVENT_TOKENS);
        CHECK_EQ_INT(dsa_cancel(client, request), DSA_OK);
        asked_ns = clock_monotonic_ns();
        do
            CHECK_EQ_INT(dsa_next_event(client, 20000, &event), DSA_OK);
        while (event->request != request || (event->type != DSA_EVENT_ERROR && event->type != DSA_EVENT_FINAL));
        CHECK_EQ_INT(event->type, DSA_EVENT_ERROR);
        CHECK_EQ_STR(event->code, "cancelled");
        ms[i] = (double)(clock_monotonic_ns() - asked_ns) / 1e6;
    }
    fixture_ask(client, "What is granite?", &o); /* the engine has room again */
    CHECK(o.final);
    qsort(ms, (size_t)count, sizeof *ms, compare);
    (void)printf("# %d cancels: p50 %.1f ms, p99 %.1f ms\n", count, ms[count / 2], ms[count * 99 / 100]);
    free(ms);
    dsa_close(client);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}
