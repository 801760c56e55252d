/* test_clients.c: the library without a daemon, and the programs with one. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "tests/daemon/fixture.h"

#include <signal.h>

static void expect_sanitized(struct span text, const char *expected)
{
    char out[256];

    CHECK_EQ_INT(dsa_sanitize(text.ptr, text.len, out, sizeof out), strlen(expected));
    CHECK_EQ_STR(out, expected);
}

TEST(control_characters_never_reach_a_terminal)
{
    expect_sanitized(span_from_cstr("plain\n\ttext \xC3\xA9"), "plain\n\ttext \xC3\xA9");
    expect_sanitized(span_from_cstr("\x1B[31mred"), "\xEF\xBF\xBD[31mred");
    expect_sanitized(span_from_cstr("a\rb\x08" "c\x7F"), "a\xEF\xBF\xBD" "b\xEF\xBF\xBD" "c\xEF\xBF\xBD");
    expect_sanitized(span_of("a\0b", 3), "a\xEF\xBF\xBD" "b");
    expect_sanitized(span_from_cstr("\xC2\x9B" "31m"), "\xEF\xBF\xBD" "31m");           /* CSI in eight bits */
    expect_sanitized(span_from_cstr("x\xE2\x80\xAE" "y"), "x\xEF\xBF\xBDy");            /* right-to-left override */
    expect_sanitized(span_from_cstr("\xFF\xC3"), "\xEF\xBF\xBD\xEF\xBF\xBD");           /* not UTF-8 */
    expect_sanitized(span_from_cstr(""), "");
}

TEST(sanitized_text_is_cut_between_characters)
{
    char out[8];

    for (size_t cap = 0; cap <= sizeof out; cap++) {
        memset(out, 'x', sizeof out);
        CHECK_EQ_INT(dsa_sanitize("\xC3\xA9\xE2\x82\xAC" "ab", 7, out, cap), 7);
        if (cap)
            CHECK(utf8_valid(span_from_cstr(out)) && strlen(out) < cap);
    }
}

TEST(random_bytes_become_valid_and_harmless)
{
    for (int round = 0; round < 2000; round++) {
        char in[64], out[200];
        size_t len = check_random() % sizeof in, used;

        for (size_t i = 0; i < len; i++)
            in[i] = (char)check_random();
        used = dsa_sanitize(in, len, out, sizeof out);
        CHECK(used < sizeof out && utf8_valid(span_of(out, used)));
        for (size_t i = 0; i < used; i++)
            CHECK((unsigned char)out[i] >= 0x20 || out[i] == '\n' || out[i] == '\t');
    }
}

TEST(arguments_that_can_not_be_right_are_refused)
{
    struct dsa_options options = {.size = sizeof options};
    struct dsa_client *client = NULL;
    char message[256] = "";

    CHECK_EQ_INT(dsa_open(&options, &client, message, sizeof message), DSA_ERROR);
    CHECK_EQ_STR(message, "no endpoint");
    CHECK(!client);
    options.endpoint = "nonsense";
    CHECK_EQ_INT(dsa_open(&options, &client, message, sizeof message), DSA_ERROR);
    CHECK(strstr(message, "nonsense"));
    options.endpoint = "ipc:///tmp/x";
    options.credit_bytes = 100;
    CHECK_EQ_INT(dsa_open(&options, &client, message, sizeof message), DSA_ERROR);
    options.size = 3;
    CHECK_EQ_INT(dsa_open(&options, &client, message, sizeof message), DSA_ERROR);
    dsa_close(NULL);
}

TEST(a_deadline_ends_a_request_to_nobody)
{
    struct dsa_options options = {.size = sizeof options};
    struct dsa_question q = fixture_question("anybody there?");
    struct dsa_client *client = NULL;
    const struct dsa_event *event;
    uint64_t request = 0;
    char endpoint[300];
    int64_t started = clock_monotonic_ns();

    (void)snprintf(endpoint, sizeof endpoint, "ipc://%s/nobody.sock", check_temp_dir());
    options.endpoint = endpoint;
    CHECK_EQ_INT(dsa_open(&options, &client, NULL, 0), DSA_OK);
    q.deadline_ms = 150;
    CHECK_EQ_INT(dsa_ask(client, &q, &request), DSA_OK);
    CHECK_EQ_INT(dsa_next_event(client, 10, &event), DSA_TIMEOUT);
    CHECK_EQ_INT(dsa_next_event(client, 5000, &event), DSA_OK);
    CHECK_EQ_INT(event->type, DSA_EVENT_ERROR);
    CHECK_EQ_STR(event->code, "deadline");
    CHECK_EQ_INT(event->request, request);
    CHECK(clock_monotonic_ns() - started < INT64_C(4000000000));
    dsa_close(client);
}

TEST(a_question_waits_for_a_daemon_that_comes_later)
{
    struct fixture f;
    struct dsa_client *client;
    struct dsa_question q = fixture_question("What is granite?");
    struct outcome o;
    uint64_t request = 0;
    const struct dsa_event *event;

    fixture_store(&f, true);
    client = fixture_client(&f);
    CHECK_EQ_INT(dsa_ask(client, &q, &request), DSA_OK);
    CHECK_EQ_INT(dsa_next_event(client, 100, &event), DSA_TIMEOUT);
    fixture_start(&f);
    fixture_follow(client, request, 30, &o);
    CHECK(o.final);
    dsa_close(client);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}

/* --- Programs --------------------------------------------------------------------------------------------------------
 */

TEST(dsa_query_shows_evidence_answer_and_citation)
{
    char output[8192];
    struct fixture f;
    const char *answer, *evidence, *citation;

    fixture_store(&f, true);
    fixture_start(&f);
    CHECK_EQ_INT(fixture_run((const char *[]){QUERY_PATH, "--store", f.store, "When does the night ferry leave?", NULL},
                             output, sizeof output), 0);
    evidence = strstr(output, "Evidence");
    answer = strstr(output, "\xE2\x80\x9CThe night ferry to Lerwick leaves Aberdeen harbour at seven");
    citation = strstr(output, "[1] ferries.pdf p. i\n");
    CHECK(evidence && answer && citation);
    CHECK(evidence < answer && answer < citation);
    CHECK(strstr(output, "No model is loaded"));
    CHECK_EQ_INT(fixture_run((const char *[]){QUERY_PATH, "--store", f.store, "--json", "What is granite?", NULL},
                             output, sizeof output),
                 0);
    CHECK(strstr(output, "\"event\":\"final\""));
    CHECK_EQ_INT(fixture_run((const char *[]){QUERY_PATH, "--store", f.store, "--detach", "What is granite?", NULL},
                             output, sizeof output),
                 0);
    CHECK_EQ_STR(output, "job 3\n");
    CHECK_EQ_INT(fixture_run((const char *[]){QUERY_PATH, "--store", f.store, "--attach", "3", NULL}, output,
                             sizeof output), 0);
    CHECK(strstr(output, "igneous"));
    CHECK_EQ_INT(fixture_run((const char *[]){QUERY_PATH, "--store", f.store, "--collection", "moon", "x", NULL},
                             output, sizeof output),
                 66);
    CHECK(strstr(output, "no-such-collection"));
    CHECK_EQ_INT(fixture_run((const char *[]){QUERY_PATH, "--store", f.store, "", NULL}, output, sizeof output), 65);
    CHECK_EQ_INT(fixture_run((const char *[]){QUERY_PATH, "--store", f.store, NULL}, output, sizeof output), 64);
    CHECK_EQ_INT(fixture_run((const char *[]){QUERY_PATH, "--budget", "x", "q", NULL}, output, sizeof output), 64);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
    CHECK_EQ_INT(fixture_run((const char *[]){QUERY_PATH, "--store", f.store, "x", NULL}, output, sizeof output), 69);
}

TEST(dsactl_looks_into_stores_and_after_jobs)
{
    char output[8192];
    struct fixture f;

    fixture_store(&f, true);
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "documents", NULL}, output, sizeof output),
                 0);
    CHECK(strstr(output, "/archive/clocks.pdf"));
    CHECK_EQ_INT(
        fixture_run((const char *[]){CTL_PATH, "--store", f.store, "documents", "--collection", "nature", NULL}, output,
                    sizeof output),
        0);
    CHECK(!strstr(output, "clocks"));
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "show", "1", NULL}, output, sizeof output),
                 0);
    CHECK(strstr(output, "On falcons"));
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "show", "1", "--page", "2", NULL}, output,
                             sizeof output), 0);
    CHECK(strstr(output, "brooded for thirty days"));
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "show", "99", NULL}, output, sizeof output),
                 66);
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "problems", NULL}, output, sizeof output),
                 0);
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "fly", NULL}, output, sizeof output), 64);
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "status", NULL}, output, sizeof output),
                 69);
    fixture_start(&f);
    CHECK_EQ_INT(fixture_run((const char *[]){QUERY_PATH, "--store", f.store, "What is granite?", NULL}, output,
                             sizeof output), 0);
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "status", NULL}, output, sizeof output), 0);
    CHECK(strstr(output, "final 1"));
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "jobs", NULL}, output, sizeof output), 0);
    CHECK(strstr(output, "What is granite?"));
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "job", "1", NULL}, output, sizeof output),
                 0);
    CHECK(strstr(output, "[1] granite.pdf p. "));
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "retry", "1", NULL}, output, sizeof output),
                 65);
    CHECK_EQ_INT(
        fixture_run((const char *[]){CTL_PATH, "--store", f.store, "cancel", "1", NULL}, output, sizeof output), 0);
    CHECK(strstr(output, "job 1 is final"));
    CHECK_EQ_INT(
        fixture_run((const char *[]){CTL_PATH, "--store", f.store, "cancel", "9", NULL}, output, sizeof output), 66);
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "ack", "1", NULL}, output, sizeof output),
                 0);
    CHECK(strstr(output, "not kept any more"));
    CHECK_EQ_INT(fixture_run((const char *[]){QUERY_PATH, "--store", f.store, "--attach", "1", NULL}, output,
                             sizeof output), 65);
    CHECK(strstr(output, "acknowledged"));
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "drain", NULL}, output, sizeof output), 0);
    CHECK_EQ_INT(fixture_wait(&f), 0);
}

static bool file_holds(const char *directory, const char *name, const char *word)
{
    static char bytes[16 << 20];
    char path[512];
    FILE *file;
    size_t len;

    (void)snprintf(path, sizeof path, "%s/%s", directory, name);
    file = fopen(path, "r");
    len = file ? fread(bytes, 1, sizeof bytes, file) : 0;
    if (file)
        (void)fclose(file);
    CHECK(len < sizeof bytes);
    return memmem(bytes, len, word, strlen(word)) != NULL;
}

static bool store_holds(const char *directory, const char *word)
{
    static const char *const names[] = {"corpus.db", "corpus.db-wal", "jobs.db",
                                        "jobs.db-wal", "streams.db", "streams.db-wal"};
    bool holds = false;

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        holds |= file_holds(directory, names[i], word);
    return holds;
}

TEST(a_forgotten_document_is_gone_from_every_file)
{
    char output[8192], copy[400], cache[400], summaries[400];
    struct fixture f;

    fixture_store(&f, true);
    f.model = fixture_model();
    (void)snprintf(summaries, sizeof summaries, "%s-summaries", f.store);
    fixture_start(&f);
    CHECK_EQ_INT(fixture_run((const char *[]){QUERY_PATH, "--store", f.store,
                                              "How fast does the peregrine falcon dive?", NULL}, output,
                             sizeof output), 0);
    CHECK_EQ_INT(fixture_run((const char *[]){QUERY_PATH, "--store", f.store, "What is granite?", NULL}, output,
                             sizeof output), 0);
    CHECK_EQ_INT(fixture_run((const char *[]){BATCH_PATH, "summarise", "--store", f.store, "--output", summaries,
                                              NULL}, output, sizeof output), 0);
    /* The daemon's memory holds the words too. */
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "forget", "1", NULL}, output,
                             sizeof output), 75);
    CHECK(strstr(output, "daemon stopped"));
    (void)snprintf(copy, sizeof copy, "%s-copy", f.store);
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "backup", copy, NULL}, output,
                             sizeof output), 0);
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "backup", copy, NULL}, output,
                             sizeof output), 65); /* it is there now */
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
    (void)snprintf(cache, sizeof cache, "%s/kv", f.store);
    (void)mkdir(cache, 0750);
    (void)snprintf(cache, sizeof cache, "%s/kv/0123.kv", f.store);
    CHECK(fclose(fopen(cache, "w")) == 0);
    CHECK(file_holds(f.store, "streams.db", "peregrine falcon dives"));
    CHECK(file_holds(f.store, "jobs.db", "peregrine falcon dives") || file_holds(f.store, "jobs.db-wal", "peregrine"));
    CHECK(store_holds(f.store, "summary/extractive-2/1/"));
    CHECK(store_holds(f.store, "regrin")); /* folded words, cut where they share letters with the one before */
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "forget", "1", NULL}, output,
                             sizeof output), 0);
    CHECK(strstr(output, "document 1 is forgotten"));
    CHECK(!store_holds(f.store, "summary/extractive-2/1/"));
    CHECK(!store_holds(f.store, "regrin"));
    CHECK(store_holds(f.store, "summary/extractive-2/2/")); /* the others' are there */
    CHECK(!store_holds(f.store, "peregrine falcon dives"));
    CHECK(!store_holds(f.store, "On falcons"));
    CHECK(access(cache, F_OK) != 0);
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "forget", "1", NULL}, output,
                             sizeof output), 66);
    fixture_start(&f);
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "job", "1", NULL}, output, sizeof output),
                 66);
    CHECK_EQ_INT(fixture_run((const char *[]){QUERY_PATH, "--store", f.store, "What is granite?", NULL}, output,
                             sizeof output), 0);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
    /* The copy is a store of its own, with everything. */
    CHECK(store_holds(copy, "On falcons"));
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", copy, "show", "1", NULL}, output, sizeof output), 0);
    CHECK(strstr(output, "On falcons"));
}

/* --- The door by tcp
 * --------------------------------------------------------------------------------------------------- */

static void make_key(const char *path, char public_key[64])
{
    char output[256];

    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "keygen", path, NULL}, output, sizeof output), 0);
    (void)snprintf(public_key, 64, "%.40s", output);
}

TEST(tcp_admits_the_keys_of_the_list_alone)
{
    char server[300], friend_key[300], stranger[300], list[300], config[1024], output[4096], key[64];
    struct fixture f;
    FILE *file;

    fixture_store(&f, true);
    (void)snprintf(server, sizeof server, "%s/server.key", f.store);
    (void)snprintf(friend_key, sizeof friend_key, "%s/friend.key", f.store);
    (void)snprintf(stranger, sizeof stranger, "%s/stranger.key", f.store);
    (void)snprintf(list, sizeof list, "%s/authorized", f.store);
    make_key(server, key);
    make_key(stranger, key);
    make_key(friend_key, key);
    file = fopen(list, "w");
    CHECK(file);
    (void)fprintf(file, "# who may\n%s\n", key);
    (void)fclose(file);
    (void)snprintf(config, sizeof config,
                   "[daemon]\nlisten = tcp://127.0.0.1:*\n[curve]\nsecret-key-file = %s\nauthorized-keys = %s\n",
                   server, list);
    f.config = config;
    fixture_start(&f);
    CHECK_EQ_INT(
        fixture_run((const char *[]){QUERY_PATH, "--store", f.store, "--key", friend_key, "What is granite?", NULL},
                    output, sizeof output),
        0);
    CHECK(strstr(output, "igneous"));
    CHECK_EQ_INT(
        fixture_run((const char *[]){QUERY_PATH, "--store", f.store, "--key", stranger, "What is granite?", NULL},
                    output, sizeof output),
        69);
    CHECK_EQ_INT(fixture_run((const char *[]){QUERY_PATH, "--store", f.store, "What is granite?", NULL}, output,
                             sizeof output), 64);
    /* The friend is no operator. */
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "--key", friend_key, "drain", NULL}, output,
                             sizeof output), 77);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
    CHECK(chmod(server, 0644) == 0);
    CHECK_EQ_INT(fixture_run((const char *[]){DSAD_PATH, "--store", f.store, "--config", "/dev/null", "--listen",
                                              "tcp://127.0.0.1:*", NULL}, output, sizeof output), 78);
}

/* --- Batches ---------------------------------------------------------------------------------------------------------
 */

static int count_lines(const char *path, const char *holding)
{
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t cap = 0;
    int count = 0;

    CHECK(file);
    while (getline(&line, &cap, file) > 0)
        count += strstr(line, holding) != NULL;
    free(line);
    (void)fclose(file);
    return count;
}

TEST(dsa_batch_runs_a_file_and_does_nothing_twice)
{
    char input[300], answers[330], errors[330], output[4096];
    struct fixture f;
    FILE *file;

    fixture_store(&f, true);
    f.model = fixture_model();
    fixture_start(&f);
    (void)snprintf(input, sizeof input, "%s.jsonl", f.store);
    (void)snprintf(answers, sizeof answers, "%s.output.jsonl", input);
    (void)snprintf(errors, sizeof errors, "%s.errors.jsonl", input);
    file = fopen(input, "w");
    CHECK(file);
    for (int i = 0; i < 50; i++)
        (void)fprintf(file,
                      "{\"custom_id\":\"c%d\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"model\":"
                      "\"x\",\"max_tokens\":8,\"messages\":[{\"role\":\"user\",\"content\":\"Say %d.\"}]}}\n",
                      i, i);
    (void)fputs("not json\n\n{\"custom_id\":\"bad\",\"url\":\"/v1/embeddings\",\"body\":{}}\n", file);
    (void)fputs("{\"custom_id\":\"refused\",\"body\":{\"max_tokens\":-1,\"messages\":[{\"role\":\"user\",\"content\":"
                "\"x\"}]}}\n",
                file);
    (void)fclose(file);
    CHECK_EQ_INT(fixture_run((const char *[]){BATCH_PATH, "--store", f.store, "--json", "run", input, NULL}, output,
                             sizeof output), 2);
    CHECK(strstr(output, "\"done\":50") && strstr(output, "\"failed\":3") && strstr(output, "\"cached\":0"));
    CHECK_EQ_INT(count_lines(answers, "\"status_code\":200"), 50);
    CHECK_EQ_INT(count_lines(answers, "\"custom_id\":\"c17\""), 1);
    CHECK_EQ_INT(count_lines(errors, "\"error\":{"), 3);
    CHECK_EQ_INT(count_lines(errors, "bad-request"), 1);
    CHECK_EQ_INT(fixture_stop(&f, SIGKILL), 128 + SIGKILL);
    fixture_start(&f);
    CHECK_EQ_INT(fixture_run((const char *[]){BATCH_PATH, "--store", f.store, "--json", "run", input, NULL}, output,
                             sizeof output), 2);
    CHECK(strstr(output, "\"done\":50") && strstr(output, "\"cached\":50"));
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "status", NULL}, output, sizeof output), 0);
    CHECK(strstr(output, "final 50"));
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}

TEST(dsa_batch_summarises_a_store_and_does_nothing_twice)
{
    char directory[330], lines[400], output[4096];
    struct fixture f;

    fixture_store(&f, true);
    (void)snprintf(directory, sizeof directory, "%s-summaries", f.store);
    (void)snprintf(lines, sizeof lines, "%s/summaries.jsonl", directory);
    CHECK_EQ_INT(fixture_run((const char *[]){BATCH_PATH, "summarise", "--store", f.store, "--estimate", NULL}, output,
                             sizeof output), 0); /* no daemon needed */
    CHECK(strstr(output, "4 documents") && strstr(output, "hours"));
    CHECK_EQ_INT(fixture_run((const char *[]){BATCH_PATH, "summarise", "--store", f.store, NULL}, output,
                             sizeof output), 69);
    fixture_start(&f);
    CHECK_EQ_INT(fixture_run((const char *[]){BATCH_PATH, "summarise", "--store", f.store, "--json", "--output",
                                              directory, NULL}, output, sizeof output), 0);
    CHECK(strstr(output, "\"done\":4") && strstr(output, "\"cached\":0") && strstr(output, "\"complete\":true"));
    CHECK_EQ_INT(count_lines(lines, "\"verified\":true"), 4);
    CHECK(file_holds(directory, "1-falcons.pdf.md", "# On falcons"));
    CHECK(file_holds(directory, "1-falcons.pdf.md", "#page=2>)"));
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "summaries", "falcons dive\"", NULL},
                             output, sizeof output), 0);
    CHECK(strstr(output, "On falcons") && !strstr(output, "On granite"));
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "--json", "summaries", NULL}, output,
                             sizeof output), 0);
    CHECK(strstr(output, "On falcons") && strstr(output, "On granite"));
    CHECK(file_holds(f.store, "corpus.db-wal", "summary/extractive-2/") ||
          file_holds(f.store, "corpus.db", "summary/extractive-2/"));
    {
        int held = open(directory, O_RDONLY | O_DIRECTORY);

        CHECK(held >= 0 && flock(held, LOCK_EX) == 0); /* as another run would */
        CHECK_EQ_INT(fixture_run((const char *[]){BATCH_PATH, "summarise", "--store", f.store, "--output", directory,
                                                  NULL}, output, sizeof output), 75);
        (void)close(held);
    }
    CHECK_EQ_INT(fixture_stop(&f, SIGKILL), 128 + SIGKILL);
    fixture_start(&f);
    CHECK_EQ_INT(fixture_run((const char *[]){BATCH_PATH, "summarise", "--store", f.store, "--json", "--output",
                                              directory, NULL}, output, sizeof output), 0);
    CHECK(strstr(output, "\"done\":4") && strstr(output, "\"cached\":4"));
    CHECK_EQ_INT(count_lines(lines, "\"cached\":true"), 4);
    /* By number alone the job is a new one, and the summary the one of before. */
    CHECK_EQ_INT(fixture_run((const char *[]){BATCH_PATH, "summarise", "--connect", f.endpoint, "--document", "1",
                                              "--json", NULL}, output, sizeof output), 0);
    CHECK(strstr(output, "\"done\":1") && strstr(output, "\"cached\":1"));
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "status", NULL}, output, sizeof output), 0);
    CHECK(strstr(output, "final 5"));
    CHECK_EQ_INT(fixture_run((const char *[]){BATCH_PATH, "summarise", "--connect", f.endpoint, "--document", "99",
                                              "--json", NULL}, output, sizeof output), 2);
    CHECK(strstr(output, "\"failed\":1") && strstr(output, "bad-request"));
    CHECK_EQ_INT(fixture_run((const char *[]){BATCH_PATH, "summarise", "--store", f.store, "--document", "99", NULL},
                             output, sizeof output), 66);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}
