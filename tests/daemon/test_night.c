/* test_night.c: batch work gives way to people: between two chunks, and with the room that it holds. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "tests/daemon/fixture.h"

/* With a sanitizer the engine takes some twenty times as long: a shorter talk shows the same. */
enum {
    WORDS = 500,
    NIGHT_TOKENS = SANITIZED ? 100 : 300,
    LEAST_BYTES = NIGHT_TOKENS / 4,
    MOST_S = SANITIZED ? 200 : 60
};

/* A conversation that fills most of the caches, and talks on for a while. */
static uint64_t ask_at_night(struct dsa_client *client, const char *key)
{
    struct dsa_question q = {.size = sizeof q, .kind = "batch", .night = 1, .max_tokens = NIGHT_TOKENS, .key = key,
                             .temperature = 1, .seed = 8, .detach = 1};
    uint64_t request = 0;
    struct buf body;

    buf_init(&body, 1 << 20);
    CHECK(buf_printf(&body, "{\"messages\":[{\"role\":\"user\",\"content\":\"") == STATUS_OK);
    for (unsigned i = 0; i < WORDS; i++)
        CHECK(buf_printf(&body, "%x ", i * 2654435761u >> 8) == STATUS_OK);
    CHECK(buf_printf(&body, "\"}]}") == STATUS_OK);
    q.text = buf_cstr(&body);
    CHECK_EQ_INT(dsa_ask(client, &q, &request), DSA_OK);
    buf_finish(&body);
    return request;
}

/* Until `type` comes on that request; nothing may end it before. */
static void wait_for(struct dsa_client *client, uint64_t request, enum dsa_event_type type)
{
    const struct dsa_event *event;

    do {
        CHECK_EQ_INT(dsa_next_event(client, MOST_S * 1000, &event), DSA_OK);
        if (event->request == request && event->type == DSA_EVENT_ERROR)
            FAIL("%s: %s", event->code, event->message);
        CHECK(event->request != request || event->type == type || event->type != DSA_EVENT_FINAL);
    } while (event->request != request || event->type != type);
}

static bool has_ended(struct dsa_client *client, int64_t job)
{
    const struct dsa_event *event;
    char header[64];

    (void)snprintf(header, sizeof header, "{\"job\":%lld}", (long long)job);
    event = fixture_request(client, WIRE_LIST, header);
    CHECK_EQ_INT(event->type, DSA_EVENT_REPLY);
    return memmem(event->text, event->text_len, "\"final\"", 7) != NULL;
}

/* `at`: the event of the night's job at which people begin to ask. */
static void give_way(enum dsa_event_type at, const struct outcome *calm)
{
    struct fixture f;
    struct dsa_client *night, *day = fixture_open(&f, fixture_model());
    struct outcome o;
    uint64_t request;
    int before = 0;

    night = fixture_client(&f);
    request = ask_at_night(night, "night");
    wait_for(night, request, at);
    for (int i = 0; i < 6; i++) {
        fixture_ask(day, i % 2 ? "What is granite made of?" : "How fast does the peregrine falcon dive?", &o);
        CHECK(o.final);
        before += !has_ended(day, 1);
    }
    CHECK(before > 0); /* people were answered while the night had not ended */
    CHECK_EQ_INT(dsa_attach(day, 1, 0, &request), DSA_OK);
    fixture_follow(day, request, MOST_S, &o);
    CHECK(o.final);
    CHECK_EQ_INT(o.answer_len, calm->answer_len);
    CHECK(memcmp(o.answer, calm->answer, calm->answer_len) == 0);
    dsa_close(night);
    fixture_close(&f, day);
}

TEST(the_night_makes_room_and_says_the_same)
{
    struct fixture f;
    struct dsa_client *client = fixture_open(&f, fixture_model());
    struct outcome calm;

    fixture_follow(client, ask_at_night(client, "calm"), MOST_S, &calm);
    if (!calm.final || calm.answer_len <= LEAST_BYTES)
        FAIL("%s %s: %zu bytes", calm.code, calm.message, calm.answer_len);
    fixture_close(&f, client);
    give_way(DSA_EVENT_PROGRESS, &calm);
    give_way(DSA_EVENT_TOKENS, &calm);
}
