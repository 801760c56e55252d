/* test_rectmap.c: round trip, merging by lines, and damaged maps. */
#include <math.h>
#include <stdlib.h>

#include "store/rectmap.h"
#include "tests/harness/check.h"

enum { MAX_RUNS = 2000 };

/* Words on lines as a typesetter puts them, with odd heights and jumps between columns. */
static size_t make_page(struct rectmap_run *runs, size_t words)
{
    float x = 72, y = 72, height = 11.04f;
    uint32_t at = (uint32_t)(check_random() % 3);

    for (size_t i = 0; i < words; i++) {
        uint32_t len = 1 + (uint32_t)(check_random() % 11);
        float width = (float)len * (4.0f + 2.5f * (float)check_random_unit());

        if (x + width > 540) {
            x = 72;
            y += 13.2f;
            if (check_random() % 16 == 0)
                height = 8.0f + 8.0f * (float)check_random_unit();
        }
        runs[i] = (struct rectmap_run){at, at + len, {x, y, x + width, y + height}};
        x += width + 2.7f + 0.2f * (float)check_random_unit();
        at += len + 1 + (check_random() % 20 == 0);
    }
    return words;
}

TEST(rectmap_round_trip)
{
    static struct rectmap_run runs[MAX_RUNS];
    struct buf map;
    size_t count = make_page(runs, MAX_RUNS), found = 0;
    struct rect rect;

    buf_init(&map, 1 << 20);
    CHECK_STATUS(rectmap_pack(runs, count, &map), STATUS_OK);
    for (size_t i = 0; i < count; i++) {
        CHECK_STATUS(rectmap_find(buf_span(&map), runs[i].start, runs[i].end, &rect, 1, &found), STATUS_OK);
        CHECK_EQ_INT(found, 1);
        CHECK_NEAR(rect.x0, runs[i].rect.x0, 0.0251);
        CHECK_NEAR(rect.y0, runs[i].rect.y0, 0.0251);
        CHECK_NEAR(rect.x1, runs[i].rect.x1, 0.0251);
        CHECK_NEAR(rect.y1, runs[i].rect.y1, 0.0251);
    }
    CHECK(map.len < count * 4);
    buf_finish(&map);
}

TEST(rectmap_lines_and_cuts)
{
    struct rectmap_run runs[] = {{0, 4, {10, 10, 50, 20}}, {5, 9, {55, 10, 95, 20}}, {10, 14, {10, 22, 50, 32}},
                                 {15, 19, {300, 22, 340, 32}}};
    struct rect rects[4];
    struct buf map;
    size_t count = 0;

    buf_init(&map, 4096);
    CHECK_STATUS(rectmap_pack(runs, 4, &map), STATUS_OK);
    CHECK_STATUS(rectmap_find(buf_span(&map), 2, 12, rects, 4, &count), STATUS_OK);
    CHECK_EQ_INT(count, 2); /* half of the first word to the line's end, half of the third */
    CHECK_NEAR(rects[0].x0, 30, 0.03);
    CHECK_NEAR(rects[0].x1, 95, 0.03);
    CHECK_NEAR(rects[1].x0, 10, 0.03);
    CHECK_NEAR(rects[1].x1, 30, 0.03);
    CHECK_STATUS(rectmap_find(buf_span(&map), 10, 19, rects, 1, &count), STATUS_OK);
    CHECK_EQ_INT(count, 2); /* far apart on one line: two, of which one was asked for */
    CHECK_STATUS(rectmap_find(buf_span(&map), 4, 5, rects, 4, &count), STATUS_OK);
    CHECK_EQ_INT(count, 0);
    CHECK_STATUS(rectmap_find(span_of(NULL, 0), 0, 10, rects, 4, &count), STATUS_OK);
    CHECK_EQ_INT(count, 0);
    buf_finish(&map);
}

TEST(rectmap_refuses)
{
    struct rectmap_run overlap[] = {{0, 4, {0, 0, 1, 1}}, {3, 5, {0, 0, 1, 1}}};
    struct rectmap_run empty[] = {{4, 4, {0, 0, 1, 1}}};
    struct rectmap_run turned[] = {{0, 4, {2, 0, 1, 1}}};
    struct rectmap_run not_a_number[] = {{0, 4, {0, NAN, 1, 1}}};
    struct rectmap_run good[] = {{0, 4, {0, 0, 1, 1}}, {5, 9, {0, 2, 1, 3}}};
    struct buf map;

    buf_init(&map, 8);
    CHECK_STATUS(rectmap_pack(overlap, 2, &map), STATUS_BAD_INPUT);
    CHECK_STATUS(rectmap_pack(empty, 1, &map), STATUS_BAD_INPUT);
    CHECK_STATUS(rectmap_pack(turned, 1, &map), STATUS_BAD_INPUT);
    CHECK_STATUS(rectmap_pack(not_a_number, 1, &map), STATUS_BAD_INPUT);
    CHECK_EQ_INT(map.len, 0);
    CHECK_STATUS(rectmap_pack(good, 2, &map), STATUS_LIMIT);
    CHECK_EQ_INT(map.len, 0);
    buf_finish(&map);
}

TEST(rectmap_survives_damage)
{
    static struct rectmap_run runs[200];
    struct rect rects[8];
    struct buf map;
    size_t count, damaged = 0;

    make_page(runs, 200);
    buf_init(&map, 1 << 20);
    CHECK_STATUS(rectmap_pack(runs, 200, &map), STATUS_OK);
    for (int round = 0; round < 20000; round++) {
        size_t len = check_random() % (map.len + 1);
        char *copy = malloc(len ? len : 1); /* its own block, so that a sanitizer sees a read beyond it */

        CHECK(copy != NULL);
        memcpy(copy, map.ptr, len);
        for (int flips = (int)(check_random() % 4); flips > 0 && len; flips--)
            copy[check_random() % len] = (char)check_random();
        if (round % 7 == 0 && len) {
            for (size_t i = 1; i < len; i++)
                copy[i] = (char)check_random();
        }
        if (round % 2 && len > 3) { /* a right checksum over wrong bytes, to get past it */
            uint32_t hash = 0x811c9dc5u;

            for (size_t i = 3; i < len; i++)
                hash = (hash ^ (unsigned char)copy[i]) * 0x01000193u;
            hash ^= hash >> 16;
            copy[0] = 1;
            copy[1] = (char)(hash & 0xff);
            copy[2] = (char)(hash >> 8 & 0xff);
        }
        damaged += rectmap_find(span_of(copy, len), 0, 3000, rects, 8, &count) == STATUS_CORRUPT;
        free(copy);
    }
    CHECK(damaged > 1000);
    buf_finish(&map);
}

/* Whatever a hostile document makes of its coordinates, the map is readable. */
TEST(rectmap_clamps_absurd_coordinates)
{
    static struct rectmap_run runs[3000];
    static const float edges[] = {-1e30f, -INFINITY, -60000, -1, 0, 1, 14400, 60000, 1e30f, INFINITY};
    struct buf map;
    struct rect rects[8];
    size_t count;

    buf_init(&map, 1 << 20);
    for (int round = 0; round < 50; round++) {
        uint32_t at = 0;

        for (size_t i = 0; i < 3000; i++) {
            float x[2], y[2];

            for (int e = 0; e < 2; e++) {
                x[e] = edges[check_random() % 10];
                y[e] = round % 2 ? (float)e : edges[check_random() % 10];
            }
            runs[i] =
                (struct rectmap_run){at,
                                     at + 1 + (i % 500 == 7 ? 1 << 20 : 0),
                                     {fminf(x[0], x[1]), fminf(y[0], y[1]), fmaxf(x[0], x[1]), fmaxf(y[0], y[1])}};
            at = runs[i].end + (uint32_t)(check_random() % 3 ? 0 : check_random() % 100000);
        }
        buf_clear(&map);
        CHECK_STATUS(rectmap_pack(runs, 3000, &map), STATUS_OK);
        CHECK_STATUS(rectmap_find(buf_span(&map), 0, UINT32_MAX, rects, 8, &count), STATUS_OK);
        CHECK(count > 0);
    }
    buf_finish(&map);
}
