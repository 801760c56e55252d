/* bench_retrieval: how long a search takes over many chunks of Zipf text.
 *
 *   build/bench/bench_retrieval [--chunks N] [--queries N] [--dir DIR]
 *
 * Text: 180 words a chunk from 200,000 words with frequencies as 1/rank, 100 chunks a document, written through the
 * store as ingest writes. Questions: 3 rare words (rank 5,000 to 50,000), 8 middling (300 to 5,000), 12 of which
 * 3 are common (the first 30) and 9 are not (30 to 3,000). Times are of store_search() alone, and of
 * retrieval_search(), which also chooses terms, reads 200 passages and folds near-duplicates. An existing DIR is used
 * as it is. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "retrieval/retrieval.h"

enum { VOCABULARY = 200000, WORDS_PER_CHUNK = 180, CHUNKS_PER_DOCUMENT = 100, MAX_QUERIES = 1000, WORD_BYTES = 16 };

static uint64_t random_state = 1;

static uint64_t next_random(void) /* splitmix64 */
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double next_unit(void)
{
    return (double)(next_random() >> 11) * 0x1p-53;
}

/* Rank 0..VOCABULARY-1 with probability about 1/(rank+1): the inverse of the logarithm. */
static int zipf(void)
{
    int rank = (int)exp(next_unit() * log(VOCABULARY + 1.0)) - 1;

    return rank < 0 ? 0 : rank >= VOCABULARY ? VOCABULARY - 1 : rank;
}

/* Common words are short. Ends in "k", which no stemmer takes off. */
static size_t put_word(char *out, int rank)
{
    uint64_t h = (uint64_t)(rank + 1) * 0x9e3779b97f4a7c15u;
    size_t len = rank < 100 ? 2 : rank < 5000 ? 4 : 6;
    int rest = rank;

    for (size_t i = 0; i < len; i++, rest /= 26)
        out[i] = (char)('a' + (i < 4 ? (unsigned)rest % 26 : (unsigned)(h >> (8 * i)) % 26));
    out[len++] = 'k';
    return len;
}

static enum status fill(struct store *store, int64_t chunks, struct error *err)
{
    static char text[CHUNKS_PER_DOCUMENT][WORDS_PER_CHUNK * WORD_BYTES];
    int64_t start_ns = clock_monotonic_ns();
    double bytes = 0;
    enum status status = store_group_commits(store, 2000, err);

    for (int64_t done = 0; done < chunks && !status; done += CHUNKS_PER_DOCUMENT) {
        char path[64];
        struct store_document document = {.collection = done / CHUNKS_PER_DOCUMENT % 20 ? "most" : "few", .path = path,
                                          .media_type = "text/plain", .title = "A document", .status = DOCUMENT_OK};
        struct store_writer *writer = NULL;
        int64_t id;
        size_t len[CHUNKS_PER_DOCUMENT];

        (void)snprintf(path, sizeof path, "/bench/%lld", (long long)done);
        status = store_document_begin(store, &document, &writer, err);
        for (int c = 0; c < CHUNKS_PER_DOCUMENT && !status; c++) {
            struct store_page page = {.number = c + 1};

            len[c] = 0;
            for (int w = 0; w < WORDS_PER_CHUNK; w++) {
                len[c] += put_word(text[c] + len[c], zipf());
                text[c][len[c]++] = w % 12 == 11 ? '\n' : ' ';
            }
            bytes += (double)len[c];
            page.text = span_of(text[c], len[c]);
            status = store_put_page(writer, &page, err);
        }
        for (int c = 0; c < CHUNKS_PER_DOCUMENT && !status; c++) {
            struct store_chunk_span span = {c + 1, 0, (uint32_t)len[c]};
            struct store_chunk chunk = {.ordinal = c, .spans = &span, .span_count = 1, .text = span_of(text[c], len[c]),
                                        .token_estimate = (int)len[c] / 4, .hash = next_random() | 1,
                                        .simhash = next_random() | 1};

            status = store_put_chunk(writer, &chunk, err);
        }
        if (status)
            store_document_rollback(writer);
        else
            status = store_document_commit(writer, &id, err);
    }
    if (!status)
        status = store_flush(store, err);
    if (!status) {
        double seconds = (double)(clock_monotonic_ns() - start_ns) / 1e9;

        (void)printf("written: %lld chunks, %.0f MB of text, %.0f chunks/s, %.1f MB/s\n", (long long)chunks,
                     bytes / 1e6,
                     (double)chunks / seconds, bytes / 1e6 / seconds);
        start_ns = clock_monotonic_ns();
        status = store_optimize(store, err);
        (void)printf("optimize: %.1f s\n", (double)(clock_monotonic_ns() - start_ns) / 1e9);
    }
    return status;
}

/* Time on the clock, and on the processor: on a busy machine only the second says what the work costs. */
struct lap {
    double wall_ms, cpu_ms;
};

static double now_ms(clockid_t clock)
{
    struct timespec now;

    (void)clock_gettime(clock, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void start_lap(struct lap *lap)
{
    *lap = (struct lap){now_ms(CLOCK_MONOTONIC), now_ms(CLOCK_THREAD_CPUTIME_ID)};
}

static int compare_doubles(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;

    return a < b ? -1 : a > b;
}

struct kind {
    const char *name;
    struct {
        int words, from, to; /* ranks [from, to) */
    } parts[2];
    double aim_ms;
};

static size_t make_question(const struct kind *kind, char *question, char *match)
{
    size_t len = 0, match_len = 0;

    for (int p = 0; p < 2; p++) {
        for (int w = 0; w < kind->parts[p].words; w++) {
            char word[WORD_BYTES];
            int rank = kind->parts[p].from + (int)(next_unit() * (kind->parts[p].to - kind->parts[p].from));
            size_t word_len = put_word(word, rank);

            match_len += (size_t)sprintf(match + match_len, "%s\"%.*s\"", match_len ? " OR " : "", (int)word_len, word);
            len += (size_t)sprintf(question + len, "%.*s ", (int)word_len, word);
        }
    }
    return len;
}

struct times {
    double wall_ms[MAX_QUERIES], cpu_ms[MAX_QUERIES];
    int count;
};

static void end_lap(const struct lap *lap, struct times *times)
{
    times->wall_ms[times->count] = now_ms(CLOCK_MONOTONIC) - lap->wall_ms;
    times->cpu_ms[times->count++] = now_ms(CLOCK_THREAD_CPUTIME_ID) - lap->cpu_ms;
}

static void print_times(const char *what, struct times *times)
{
    size_t count = (size_t)times->count;

    qsort(times->wall_ms, count, sizeof times->wall_ms[0], compare_doubles);
    qsort(times->cpu_ms, count, sizeof times->cpu_ms[0], compare_doubles);
    (void)printf("  %-18s wall p50 %7.1f p95 %7.1f   cpu p50 %7.1f p95 %7.1f ms\n", what, times->wall_ms[count / 2],
                 times->wall_ms[count * 95 / 100], times->cpu_ms[count / 2], times->cpu_ms[count * 95 / 100]);
}

static enum status time_kind(struct store *store, const struct kind *kind, int queries, const char *collection,
                             struct error *err)
{
    static struct times search_times, whole_times;
    enum status status = STATUS_OK;

    search_times.count = whole_times.count = 0;
    for (int q = -2; q < queries && !status; q++) { /* two to warm up */
        char question[1024], match[1024];
        size_t len = make_question(kind, question, match);
        struct store_search search = {.match = match, .k1 = 1.2, .b = 0.5, .title_weight = 2, .heading_weight = 1.5,
                                      .body_weight = 1, .limit = 200, .collections = &collection,
                                      .collection_count = collection != NULL};
        struct retrieval_options options = {.collections = &collection, .collection_count = collection != NULL};
        struct retrieval_result result;
        struct store_hit *hits = NULL;
        size_t count = 0;
        struct arena arena;
        struct lap lap;

        start_lap(&lap);
        status = store_search(store, &search, &hits, &count, err);
        if (q >= 0)
            end_lap(&lap, &search_times);
        free(hits);
        arena_init(&arena, (size_t)64 << 20);
        start_lap(&lap);
        if (!status)
            status = retrieval_search(store, span_of(question, len), &options, &arena, &result, err);
        if (q >= 0)
            end_lap(&lap, &whole_times);
        arena_finish(&arena);
    }
    if (!status) {
        (void)printf("%s%s: aim p95 %.0f ms\n", kind->name, collection ? ", in a collection of 1 in 20" : "",
                     kind->aim_ms);
        print_times("store_search", &search_times);
        print_times("retrieval_search", &whole_times);
        (void)fflush(stdout);
    }
    return status;
}

static double file_bytes(const char *dir)
{
    char path[4096];
    struct stat info;

    (void)snprintf(path, sizeof path, "%s/corpus.db", dir);
    return stat(path, &info) ? 0 : (double)info.st_size;
}

int main(int argc, char **argv)
{
    static const struct option names[] = {{"chunks", required_argument, NULL, 'c'},
                                          {"queries", required_argument, NULL, 'q'},
                                          {"dir", required_argument, NULL, 'd'}, {0}};
    static const struct kind kinds[] = {{"3 rare words", {{3, 5000, 50000}, {0, 0, 0}}, 20},
                                        {"8 middling words", {{8, 300, 5000}, {0, 0, 0}}, 90},
                                        {"12 words, 3 of them common", {{3, 0, 30}, {9, 30, 3000}}, 280}};
    struct store *store = NULL;
    struct store_totals totals = {0};
    struct error err = {0};
    const char *dir = NULL;
    char temp[] = "/tmp/dsa-bench-XXXXXX";
    int64_t chunks = 100000;
    int queries = 50, option;
    enum status status;

    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (option) {
        case 'c': chunks = atoll(optarg); break;
        case 'q': queries = atoi(optarg); break;
        case 'd': dir = optarg; break;
        default: return 64;
        }
    }
    if (queries < 1 || queries > MAX_QUERIES)
        queries = 50;
    if (!dir)
        dir = mkdtemp(temp);
    status = dir ? store_open(dir, STORE_INGEST, true, &store, &err) : STATUS_IO;
    if (!status)
        status = store_get_totals(store, NULL, &totals, &err);
    if (!status && !totals.chunks)
        status = fill(store, chunks, &err);
    if (!status)
        status = store_get_totals(store, NULL, &totals, &err);
    store_close(store);
    store = NULL;
    if (!status)
        status = store_open(dir, STORE_READ, false, &store, &err);
    if (!status)
        (void)printf("%lld chunks, corpus.db %.0f MB, %.2f of the text\n", (long long)totals.chunks,
                     file_bytes(dir) / 1e6, file_bytes(dir) / (double)(totals.text_bytes ? totals.text_bytes : 1));
    random_state = 7;
    for (int filtered = 0; filtered < 2 && !status; filtered++) {
        for (size_t k = 0; k < sizeof kinds / sizeof kinds[0] && !status; k++)
            status = time_kind(store, &kinds[k], queries, filtered ? "few" : NULL, &err);
    }
    store_close(store);
    if (status)
        (void)fprintf(stderr, "bench_retrieval: %s\n", err.message);
    else if (dir == temp)
        (void)printf("kept: %s\n", dir);
    return status ? 1 : 0;
}
