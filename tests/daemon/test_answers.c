/* test_answers.c: a question's whole way, without and with a model; jobs seen from outside. */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/daemon/fixture.h"

TEST(the_best_sentence_is_quoted_and_cited_without_a_model)
{
    struct fixture f;
    struct outcome o;
    struct dsa_client *client;

    client = fixture_open(&f, NULL);
    fixture_ask(client, "How fast does the peregrine falcon dive when it hunts?", &o);
    CHECK_EQ_STR(o.code, "");
    CHECK(o.final);
    CHECK_EQ_STR(o.answered_by, "extractive-baseline");
    CHECK(o.evidence >= 1);
    CHECK_EQ_STR(o.answer, "\xE2\x80\x9CThe peregrine falcon dives at three hundred kilometres an hour when it hunts "
                           "pigeons.\xE2\x80\x9D [1]");
    CHECK_EQ_INT(o.citations, 1);
    CHECK_EQ_INT(o.verified, 1);
    CHECK_EQ_STR(o.places, "/archive/falcons.pdf p. i\n");
    fixture_close(&f, client);
}

TEST(nothing_that_fits_is_said_so)
{
    struct fixture f;
    struct outcome o;
    struct dsa_client *client;

    client = fixture_open(&f, NULL);
    fixture_ask(client, "xyzzyq plughh", &o);
    CHECK(o.final);
    CHECK_EQ_STR(o.answered_by, "none");
    CHECK_EQ_STR(o.reason, "no-evidence");
    CHECK_EQ_INT(o.evidence, 0);
    CHECK_EQ_STR(o.answer, "");
    fixture_close(&f, client);
}

TEST(a_collection_limits_the_search)
{
    const char *const nature[] = {"nature"};
    struct fixture f;
    struct outcome o;
    struct dsa_client *client;
    struct dsa_question q = fixture_question("When does the night ferry leave Aberdeen?");
    uint64_t request = 0;

    client = fixture_open(&f, NULL);
    q.collections = nature;
    q.collection_count = 1;
    CHECK_EQ_INT(dsa_ask(client, &q, &request), DSA_OK);
    fixture_follow(client, request, 30, &o);
    CHECK(o.final);
    CHECK(strstr(o.places, "ferries") == NULL);
    fixture_close(&f, client);
}

TEST(a_repeated_key_is_the_same_job)
{
    struct fixture f;
    struct outcome first, second;
    struct dsa_client *client;
    struct dsa_question q = fixture_question("What is granite?");
    uint64_t request = 0;

    client = fixture_open(&f, NULL);
    q.key = "the-same";
    CHECK_EQ_INT(dsa_ask(client, &q, &request), DSA_OK);
    fixture_follow(client, request, 30, &first);
    CHECK_EQ_INT(dsa_ask(client, &q, &request), DSA_OK);
    fixture_follow(client, request, 30, &second);
    CHECK_EQ_INT(second.job, first.job);
    CHECK_EQ_STR(second.answer, first.answer);
    CHECK_EQ_INT(second.last_seq, first.last_seq);
    fixture_close(&f, client);
}

TEST(attach_gives_the_same_bytes_from_any_number_on)
{
    struct fixture f;
    struct outcome whole, part;
    struct dsa_client *client;
    uint64_t request = 0;

    client = fixture_open(&f, NULL);
    fixture_ask(client, "How much does a pendulum clock lose a day?", &whole);
    CHECK(whole.final);
    for (int64_t from = 0; from <= whole.last_seq; from++) {
        const struct dsa_event *event;
        int64_t expected = from;

        CHECK_EQ_INT(dsa_attach(client, whole.job, from, &request), DSA_OK);
        for (;;) {
            CHECK_EQ_INT(dsa_next_event(client, 10000, &event), DSA_OK);
            if (event->request != request || event->seq < 0)
                continue;
            CHECK_EQ_INT(event->seq, expected);
            expected++;
            if (event->type == DSA_EVENT_FINAL)
                break;
        }
        CHECK_EQ_INT(expected, whole.last_seq + 1);
    }
    CHECK_EQ_INT(dsa_attach(client, whole.job, 0, &request), DSA_OK);
    fixture_follow(client, request, 10, &part);
    CHECK_EQ_STR(part.answer, whole.answer);
    CHECK_EQ_INT(dsa_attach(client, 999, 0, &request), DSA_OK);
    fixture_follow(client, request, 10, &part);
    CHECK_EQ_STR(part.code, "no-such-job");
    fixture_close(&f, client);
}

TEST(a_random_checkpoint_quotes_verbatim_and_says_what_it_is)
{
    struct fixture f;
    struct outcome o;
    struct dsa_client *client;

    client = fixture_open(&f, fixture_model());
    fixture_ask(client, "How fast does the peregrine falcon dive?", &o);
    CHECK_EQ_STR(o.code, "");
    CHECK(o.final);
    CHECK_EQ_STR(o.answered_by, "random-checkpoint");
    CHECK(o.evidence >= 1);
    CHECK(o.answer_len > 0);
    CHECK_EQ_INT(o.citations, o.verified);
    if (strcmp(o.reason, "stop") == 0)
        CHECK(o.citations >= 1);
    fixture_close(&f, client);
}

/* The reader's form: special tokens inside, “quotation” [id] outside. */
TEST(the_readers_form_is_shown_as_quotations_with_ids)
{
    struct fixture f;
    struct outcome o;
    struct dsa_client *client;

    client = fixture_open(&f, fixture_reader());
    fixture_ask(client, "What is granite made of?", &o);
    CHECK_EQ_STR(o.code, "");
    CHECK(o.final);
    CHECK_EQ_STR(o.answered_by, "random-checkpoint");
    CHECK(o.answer_len > 0);
    CHECK(strstr(o.answer, "<|") == NULL);
    if (strcmp(o.reason, "stop") == 0) {
        CHECK(strncmp(o.answer, "\xE2\x80\x9C", 3) == 0);
        CHECK(strstr(o.answer, "\xE2\x80\x9D ["));
        CHECK(o.citations >= 1);
    }
    CHECK_EQ_INT(o.verified, o.citations);
    fixture_close(&f, client);
}

TEST(equal_questions_give_equal_answers)
{
    struct fixture f;
    struct outcome a, b;
    struct dsa_client *client;

    client = fixture_open(&f, fixture_model());
    fixture_ask(client, "What do ferries carry?", &a);
    fixture_ask(client, "What do ferries carry?", &b);
    CHECK(a.final && b.final);
    CHECK(a.job != b.job);
    CHECK_EQ_STR(b.answer, a.answer);
    CHECK_EQ_STR(b.places, a.places);
    fixture_close(&f, client);
}

TEST(another_connection_cancels_a_running_job)
{
    struct fixture f;
    struct outcome o;
    struct dsa_client *asking, *cancelling;
    struct dsa_question q = fixture_question("What is granite made of?");
    const struct dsa_event *event;
    uint64_t request = 0, cancel = 0;
    char header[64];

    fixture_store(&f, true);
    f.model = fixture_model();
    f.config = "[limits]\nmax-tokens = 100000\n";
    fixture_start(&f);
    asking = fixture_client(&f);
    cancelling = fixture_client(&f);
    q.kind = "batch"; /* a conversation outside quote mode goes on until its last token */
    q.text = "{\"messages\":[{\"role\":\"user\",\"content\":\"Talk.\"}]}";
    q.max_tokens = 3900; /* greedy: it never comes to a stop */
    CHECK_EQ_INT(dsa_ask(asking, &q, &request), DSA_OK);
    do
        CHECK_EQ_INT(dsa_next_event(asking, 20000, &event), DSA_OK);
    while (event->type != DSA_EVENT_TOKENS);
    (void)snprintf(header, sizeof header, "{\"job\":%lld}", (long long)event->job);
    CHECK_EQ_INT(dsa_request(cancelling, WIRE_CANCEL, header, 10000, &cancel), DSA_OK);
    do
        CHECK_EQ_INT(dsa_next_event(cancelling, 20000, &event), DSA_OK);
    while (event->request != cancel);
    CHECK_EQ_INT(event->type, DSA_EVENT_REPLY);
    CHECK(strstr(event->json, "cancelled"));
    do
        CHECK_EQ_INT(dsa_next_event(asking, 20000, &event), DSA_OK);
    while (event->type != DSA_EVENT_ERROR);
    CHECK_EQ_STR(event->code, "cancelled");
    fixture_ask(asking, "What do ferries carry?", &o); /* the engine is free again */
    CHECK(o.final);
    dsa_close(asking);
    dsa_close(cancelling);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}

/* To its first tokens, which are to be those that it had before. */
static void follow_to_tokens(struct dsa_client *client, uint64_t request, char first[64])
{
    const struct dsa_event *event;
    int64_t next = 0;

    do {
        CHECK_EQ_INT(dsa_next_event(client, 20000, &event), DSA_OK);
        CHECK(event->request != request || event->type != DSA_EVENT_ERROR);
        if (event->request == request && event->seq >= 0)
            CHECK_EQ_INT(event->seq, next++);
    } while (event->request != request || event->type != DSA_EVENT_TOKENS);
    (void)snprintf(first, 64, "%.*s", (int)(event->text_len < 60 ? event->text_len : 60), event->text);
}

TEST(a_cancelled_job_is_tried_again_as_if_new)
{
    struct fixture f;
    struct dsa_client *client = fixture_open(&f, fixture_model());
    struct dsa_question q = {.size = sizeof q, .kind = "batch", .max_tokens = 3900, .detach = 1,
                             .text = "{\"messages\":[{\"role\":\"user\",\"content\":\"Talk.\"}]}"};
    const struct dsa_event *event;
    uint64_t request = 0;
    char first[64], again[64];

    CHECK_EQ_INT(dsa_ask(client, &q, &request), DSA_OK);
    follow_to_tokens(client, request, first);
    event = fixture_request(client, WIRE_RETRY, "{\"job\":1}");
    CHECK_EQ_INT(event->type, DSA_EVENT_ERROR); /* it has not ended */
    CHECK_EQ_INT(fixture_request(client, WIRE_CANCEL, "{\"job\":1}")->type, DSA_EVENT_REPLY);
    event = fixture_request(client, WIRE_RETRY, "{\"job\":1}");
    CHECK_EQ_INT(event->type, DSA_EVENT_REPLY);
    CHECK(strstr(event->json, "queued"));
    CHECK_EQ_INT(dsa_attach(client, 1, 0, &request), DSA_OK);
    follow_to_tokens(client, request, again);
    CHECK(strncmp(first, again, strlen(first) < strlen(again) ? strlen(first) : strlen(again)) == 0);
    CHECK_EQ_INT(fixture_request(client, WIRE_CANCEL, "{\"job\":1}")->type, DSA_EVENT_REPLY);
    fixture_close(&f, client);
}

static void lists_and_status(struct dsa_client *client, int64_t job)
{
    const struct dsa_event *event;
    uint64_t request = 0;
    char header[64];
    json_t *json;

    (void)snprintf(header, sizeof header, "{\"job\":%lld}", (long long)job);
    CHECK_EQ_INT(dsa_request(client, WIRE_LIST, header, 10000, &request), DSA_OK);
    do
        CHECK_EQ_INT(dsa_next_event(client, 10000, &event), DSA_OK);
    while (event->request != request);
    CHECK_EQ_INT(event->type, DSA_EVENT_REPLY);
    json = json_loadb(event->text, event->text_len, 0, NULL);
    CHECK_EQ_INT(json_array_size(json), 1);
    CHECK_EQ_STR(json_string_value(json_object_get(json_array_get(json, 0), "state")), "final");
    (void)snprintf(header, sizeof header, "uid:%lu", (unsigned long)getuid());
    CHECK_EQ_STR(json_string_value(json_object_get(json_array_get(json, 0), "principal")), header);
    json_decref(json);
    CHECK_EQ_INT(dsa_request(client, WIRE_STATUS, NULL, 10000, &request), DSA_OK);
    do
        CHECK_EQ_INT(dsa_next_event(client, 10000, &event), DSA_OK);
    while (event->request != request);
    json = json_loadb(event->json, event->json_len, 0, NULL);
    CHECK_EQ_INT(json_integer_value(json_object_get(json_object_get(json, "jobs"), "final")), 1);
    CHECK_EQ_INT(json_integer_value(json_object_get(json, "sessions")), 1);
    json_decref(json);
}

TEST(lists_and_status_tell_what_became_of_jobs)
{
    struct fixture f;
    struct outcome o;
    struct dsa_client *client;

    client = fixture_open(&f, NULL);
    fixture_ask(client, "What is granite?", &o);
    lists_and_status(client, o.job);
    fixture_close(&f, client);
}

TEST(the_descriptor_can_be_polled)
{
    struct fixture f;
    struct dsa_client *client;
    struct dsa_question q = fixture_question("What is granite?");
    const struct dsa_event *event = NULL;
    uint64_t request = 0;
    bool final = false;

    client = fixture_open(&f, NULL);
    CHECK_EQ_INT(dsa_ask(client, &q, &request), DSA_OK);
    while (!final) {
        struct pollfd pfd = {.fd = dsa_fd(client), .events = POLLIN};

        while (!final && dsa_next_event(client, 0, &event) == DSA_OK)
            final = event->type == DSA_EVENT_FINAL;
        if (!final && poll(&pfd, 1, 10000) != 1)
            FAIL("poll() does not wake");
    }
    fixture_close(&f, client);
}

TEST(a_program_that_sleeps_keeps_its_connection)
{
    struct fixture f;
    struct dsa_client *other = fixture_open(&f, NULL), *client = NULL;
    struct dsa_options options = {.size = sizeof options, .endpoint = f.endpoint, .ping_ms = 100, .dead_ms = 1000};
    const struct dsa_event *event;

    CHECK_EQ_INT(dsa_open(&options, &client, NULL, 0), DSA_OK);
    CHECK_EQ_INT(dsa_next_event(client, 10000, &event), DSA_OK);
    CHECK_EQ_INT(event->type, DSA_EVENT_CONNECTED);
    (void)usleep(1300000);
    for (int i = 0; i < 5; i++) /* no other connection is made */
        CHECK_EQ_INT(dsa_next_event(client, 100, &event), DSA_TIMEOUT);
    dsa_close(client);
    fixture_close(&f, other);
}

/* --- Summaries ---------------------------------------------------------------------------------------------------- */

static void summarise(const struct fixture *f, const char *key, int64_t document, struct outcome *outcome)
{
    struct dsa_client *client = fixture_client(f);
    struct dsa_question q = {.size = sizeof q, .text = "Summarise.", .kind = "summarise", .key = key,
                             .documents = &document, .document_count = 1, .night = 1, .detach = 1};
    uint64_t request = 0;

    CHECK_EQ_INT(dsa_ask(client, &q, &request), DSA_OK);
    fixture_follow(client, request, 30, outcome);
    dsa_close(client);
}

TEST(a_summary_is_quotations_with_pages_and_is_made_once)
{
    struct outcome first, second, none;
    struct fixture f;

    fixture_store(&f, true);
    fixture_start(&f);
    summarise(&f, "s1", 1, &first);
    CHECK(first.final);
    CHECK_EQ_STR(first.answered_by, "extractive-baseline");
    CHECK(first.citations >= 2);
    CHECK_EQ_INT(first.verified, first.citations);
    CHECK(strstr(first.answer, "peregrine falcon dives"));
    CHECK(strstr(first.places, "p. 2"));
    summarise(&f, "s2", 1, &second); /* another job, the same summary */
    CHECK(second.final);
    CHECK_EQ_STR(second.answer, first.answer);
    CHECK_EQ_STR(second.places, first.places);
    summarise(&f, "s3", 99, &none);
    CHECK(!none.final);
    CHECK_EQ_STR(none.code, "bad-request");
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}
