/* test_frames.c: frames survive the pipe whole, and nothing that a hostile child could write gets through. */
#include "ingest/frames.h"

#include <math.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "ingest/limits.h"
#include "tests/harness/check.h"

static struct span cstr(const char *text)
{
    return span_from_cstr(text);
}

/* One line with two words, the second of two-byte characters. */
static const struct frame_word two_words[] = {
    {0, 3, 100, 200, 160, 220},
    {4, 8, -10, 200, 90, 220},
};
static const struct frame_line sample_line = {
    .kind = LINE_HEADING, .level = 2, .flags = LINE_BOLD | LINE_TINY, .font_size = 11.5f,
    .words = two_words, .word_count = 2, .text = {"abc \xC3\xA4\xC3\xB6", 8},
};

static enum status put_then_get_line(const struct frame_line *line)
{
    struct buf bytes;
    struct frame frame;
    struct frame_line got;
    struct frame_word *storage = NULL;
    size_t used, cap = 0;
    enum status status;

    buf_init(&bytes, LIMIT_FRAME_BYTES + 64);
    CHECK_OK(frame_put_line(&bytes, line), (struct error *)NULL);
    CHECK_OK(frame_next(buf_span(&bytes), &frame, &used), (struct error *)NULL);
    CHECK_EQ_INT(used, bytes.len);
    status = frame_get_line(frame.payload, &got, &storage, &cap);
    if (!status) {
        CHECK_EQ_INT(got.kind, line->kind);
        CHECK_EQ_INT(got.level, line->level);
        CHECK_EQ_INT(got.flags, line->flags);
        CHECK(got.font_size == line->font_size);
        CHECK_EQ_INT(got.word_count, line->word_count);
        CHECK(got.word_count == 0 || memcmp(got.words, line->words, got.word_count * sizeof *got.words) == 0);
        CHECK_EQ_SPAN(got.text, line->text);
    }
    free(storage);
    buf_finish(&bytes);
    return status;
}

TEST(line_round_trip)
{
    struct frame_line plain = {.text = cstr("plain")}, empty = {0},
                      code = {.kind = LINE_CODE, .text = cstr("a\n  b\tc")};

    CHECK_STATUS(put_then_get_line(&sample_line), STATUS_OK);
    CHECK_STATUS(put_then_get_line(&plain), STATUS_OK);
    CHECK_STATUS(put_then_get_line(&empty), STATUS_OK);
    CHECK_STATUS(put_then_get_line(&code), STATUS_OK);
}

TEST(page_round_trip)
{
    struct frame_page page = {.number = 7, .width = 595.25f, .height = 842, .label = cstr("iv")}, got;
    struct buf bytes;
    struct frame frame;
    size_t used;

    buf_init(&bytes, 4096);
    CHECK_OK(frame_put_page(&bytes, &page), (struct error *)NULL);
    CHECK_OK(frame_next(buf_span(&bytes), &frame, &used), (struct error *)NULL);
    CHECK_EQ_INT(frame.type, FRAME_PAGE_BEGIN);
    CHECK_OK(frame_get_page(frame.payload, &got), (struct error *)NULL);
    CHECK_EQ_INT(got.number, 7);
    CHECK(got.width == 595.25f && got.height == 842);
    CHECK_EQ_SPAN(got.label, cstr("iv"));
    buf_finish(&bytes);
}

TEST(every_prefix_asks_for_more_bytes)
{
    struct buf bytes;
    struct frame frame;
    size_t used = 99;

    buf_init(&bytes, 4096);
    CHECK_OK(frame_put_line(&bytes, &sample_line), (struct error *)NULL);
    for (size_t len = 0; len < bytes.len; len++)
        CHECK_STATUS(frame_next(span_of(bytes.ptr, len), &frame, &used), STATUS_AGAIN);
    CHECK_EQ_INT(used, 99);
    CHECK_OK(frame_next(buf_span(&bytes), &frame, &used), (struct error *)NULL);
    buf_finish(&bytes);
}

TEST(headers_that_can_never_be_frames)
{
    char header[12] = {'D', 'S', 'A', 'X', FRAME_END, 0, 0, 0, 0, 0, 0, 0};
    struct frame frame;
    size_t used;

    CHECK_STATUS(frame_next(span_of(header, 12), &frame, &used), STATUS_OK);
    header[4] = 0; /* type 0 */
    CHECK_STATUS(frame_next(span_of(header, 12), &frame, &used), STATUS_CORRUPT);
    header[4] = FRAME_TYPE_END;
    CHECK_STATUS(frame_next(span_of(header, 12), &frame, &used), STATUS_CORRUPT);
    header[4] = FRAME_LINE;
    header[11] = 0x7F; /* two gigabytes announced */
    CHECK_STATUS(frame_next(span_of(header, 12), &frame, &used), STATUS_CORRUPT);
    header[11] = 0;
    header[0] = 'X';
    CHECK_STATUS(frame_next(span_of(header, 12), &frame, &used), STATUS_CORRUPT);
    CHECK_STATUS(frame_next(span_of(header, 1), &frame, &used), STATUS_CORRUPT);
}

TEST(a_frame_beyond_the_cap_is_not_written)
{
    struct buf bytes;
    char *big = calloc(1, LIMIT_FRAME_BYTES + 1);

    buf_init(&bytes, (size_t)LIMIT_FRAME_BYTES * 2);
    CHECK_STATUS(frame_put(&bytes, FRAME_MEMBER_DATA, span_of(big, LIMIT_FRAME_BYTES + 1)), STATUS_LIMIT);
    CHECK_EQ_INT(bytes.len, 0);
    CHECK_STATUS(frame_put(&bytes, FRAME_MEMBER_DATA, span_of(big, LIMIT_FRAME_BYTES)), STATUS_OK);
    buf_finish(&bytes);
    free(big);
}

TEST(hostile_lines_are_refused)
{
    struct frame_word word = {0, 3, 0, 0, 10, 10};
    struct frame_line line = {.words = &word, .word_count = 1, .text = cstr("abc\xC3\xA4")};
    char *long_text;

    CHECK_STATUS(put_then_get_line(&line), STATUS_OK);
#define REFUSED(change, restore)                                   \
    do {                                                          \
        change;                                                   \
        CHECK_STATUS(put_then_get_line(&line), STATUS_CORRUPT);   \
        restore;                                                  \
        CHECK_STATUS(put_then_get_line(&line), STATUS_OK);        \
    } while (0)
    REFUSED(line.kind = LINE_CODE + 1, line.kind = LINE_TEXT);
    REFUSED(line.level = 1, line.level = 0); /* a level on what is no heading */
    REFUSED(line.flags = 128, line.flags = 0);
    REFUSED(line.font_size = NAN, line.font_size = 0);
    REFUSED(line.font_size = INFINITY, line.font_size = 0);
    REFUSED(line.font_size = -1, line.font_size = 0);
    REFUSED(word.end = 6, word.end = 3);      /* past the text */
    REFUSED(word.end = 4, word.end = 3);      /* inside a character */
    REFUSED(word.start = 3, word.start = 0);  /* empty */
    REFUSED(word.x1 = -1, word.x1 = 10);      /* turned over */
    REFUSED(word.y1 = INT32_MAX, word.y1 = 10);
    REFUSED(word.x0 = INT32_MIN, word.x0 = 0);
    REFUSED(line.text = cstr("abc\xC3"), line.text = cstr("abc\xC3\xA4"));
    REFUSED(line.text = cstr("ab\nc"), line.text = cstr("abc"));
    REFUSED(line.text = cstr("abc\n"), line.text = cstr("abc"));
    REFUSED(line.text = span_of("ab\0c", 4), line.text = cstr("abc"));
#undef REFUSED
    line.kind = LINE_HEADING;
    CHECK_STATUS(put_then_get_line(&line), STATUS_CORRUPT); /* a heading without a level */
    line.level = 7;
    CHECK_STATUS(put_then_get_line(&line), STATUS_CORRUPT);
    line.kind = LINE_CODE;
    line.level = 0;
    line.text = cstr("abc\n");
    CHECK_STATUS(put_then_get_line(&line), STATUS_CORRUPT);

    long_text = malloc(LIMIT_LINE_BYTES + 1);
    memset(long_text, 'a', LIMIT_LINE_BYTES + 1);
    line.text = span_of(long_text, LIMIT_LINE_BYTES);
    CHECK_STATUS(put_then_get_line(&line), STATUS_OK);
    line.text.len++;
    CHECK_STATUS(put_then_get_line(&line), STATUS_CORRUPT);
    free(long_text);
}

TEST(words_that_overlap_or_descend_are_refused)
{
    struct frame_word words[] = {{0, 3, 0, 0, 1, 1}, {3, 6, 0, 0, 1, 1}};
    struct frame_line line = {.words = words, .word_count = 2, .text = cstr("abcdef")};

    CHECK_STATUS(put_then_get_line(&line), STATUS_OK);
    words[1].start = 2;
    CHECK_STATUS(put_then_get_line(&line), STATUS_CORRUPT);
    words[0] = (struct frame_word){3, 6, 0, 0, 1, 1};
    words[1] = (struct frame_word){0, 3, 0, 0, 1, 1};
    CHECK_STATUS(put_then_get_line(&line), STATUS_CORRUPT);
}

TEST(hostile_pages_are_refused)
{
    struct frame_page page = {.number = 1, .width = 612, .height = 792, .label = cstr("1")}, got;
    const float sides[] = {NAN, INFINITY, -1, LIMIT_PAGE_POINTS + 1};

    for (int i = 0; i < 6; i++) {
        struct frame_page bad = page;
        struct buf bytes;
        struct frame frame;
        size_t used;

        if (i < 4)
            bad.width = sides[i];
        else if (i == 4)
            bad.number = 0;
        else
            bad.label = cstr("\xFF");
        buf_init(&bytes, 4096);
        CHECK_OK(frame_put_page(&bytes, &bad), (struct error *)NULL);
        CHECK_OK(frame_next(buf_span(&bytes), &frame, &used), (struct error *)NULL);
        CHECK_STATUS(frame_get_page(frame.payload, &got), STATUS_CORRUPT);
        CHECK_STATUS(frame_get_page(span_slice(frame.payload, 0, frame.payload.len - 1), &got), STATUS_CORRUPT);
        buf_finish(&bytes);
    }
}

/* Flips bytes of a good line's frame at random: what is still accepted must still keep every promise. */
TEST(random_damage_never_breaks_a_promise)
{
    struct buf good;
    struct frame_word *storage = NULL;
    size_t cap = 0, accepted = 0;

    buf_init(&good, 4096);
    CHECK_OK(frame_put_line(&good, &sample_line), (struct error *)NULL);
    for (int round = 0; round < 50000; round++) {
        char bytes[256];
        struct frame frame;
        struct frame_line line;
        size_t used, flips = 1 + check_random() % 3;

        memcpy(bytes, good.ptr, good.len);
        for (size_t i = 0; i < flips; i++)
            bytes[check_random() % good.len] = (char)check_random();
        if (frame_next(span_of(bytes, good.len), &frame, &used))
            continue;
        CHECK(used <= good.len);
        if (frame.type != FRAME_LINE || frame_get_line(frame.payload, &line, &storage, &cap))
            continue;
        accepted++;
        CHECK(utf8_valid(line.text) && line.kind <= LINE_CODE && isfinite(line.font_size));
        for (uint32_t i = 0; i < line.word_count; i++) {
            CHECK(line.words[i].start < line.words[i].end && line.words[i].end <= line.text.len);
            CHECK(i == 0 || line.words[i].start >= line.words[i - 1].end);
            CHECK(line.words[i].x0 <= line.words[i].x1 && line.words[i].y0 <= line.words[i].y1);
        }
    }
    CHECK(accepted > 0);
    free(storage);
    buf_finish(&good);
}

/* --- Order ------------------------------------------------------------------------------------------------ */

/* Steps through "S P L p E": one letter a frame, pages numbered from 1. Returns how many frames were accepted. */
static int accepted_frames(const char *letters)
{
    struct frame_order order = {0};
    uint32_t page = 0;
    int count = 0;

    for (; *letters; letters++) {
        struct frame frame = {0};
        struct buf bytes;
        size_t used;
        enum status status;

        if (*letters == ' ')
            continue;
        buf_init(&bytes, 4096);
        if (*letters == 'P' || *letters == 'Q') { /* Q: a page number that does not ascend */
            struct frame_page begin = {.number = *letters == 'P' ? ++page : page};

            CHECK_OK(frame_put_page(&bytes, &begin), (struct error *)NULL);
        } else {
            const char *names = "SMPLpOBDbX.E";
            const char *at = strchr(names, *letters);

            CHECK(at);
            CHECK_OK(frame_put(&bytes, (enum frame_type)(FRAME_START + (at - names)), span_of(NULL, 0)),
                     (struct error *)NULL);
        }
        CHECK_OK(frame_next(buf_span(&bytes), &frame, &used), (struct error *)NULL);
        status = frame_order_step(&order, &frame);
        buf_finish(&bytes);
        if (status) {
            CHECK_STATUS(status, STATUS_CORRUPT);
            return count;
        }
        count++;
    }
    return count;
}

TEST(order_of_frames)
{
    /* S start, M meta, P…p page, L line, O outline, B…b member, D data, X problem, . progress, E end */
    CHECK_EQ_INT(accepted_frames(". S M . P L . L p X P p O E"), 14);
    CHECK_EQ_INT(accepted_frames("S P p M E"), 5);
    CHECK_EQ_INT(accepted_frames("S M B D D . b X B b E"), 11);
    CHECK_EQ_INT(accepted_frames("S X E"), 3);
    CHECK_EQ_INT(accepted_frames("P"), 0);
    CHECK_EQ_INT(accepted_frames("S S"), 1);
    CHECK_EQ_INT(accepted_frames("S M M"), 2);
    CHECK_EQ_INT(accepted_frames("S O O"), 2);
    CHECK_EQ_INT(accepted_frames("S L"), 1);
    CHECK_EQ_INT(accepted_frames("S P X"), 2);
    CHECK_EQ_INT(accepted_frames("S P E"), 2);
    CHECK_EQ_INT(accepted_frames("S P P"), 2);
    CHECK_EQ_INT(accepted_frames("S P p Q"), 3);
    CHECK_EQ_INT(accepted_frames("S B L"), 2);
    CHECK_EQ_INT(accepted_frames("S B b P"), 3);
    CHECK_EQ_INT(accepted_frames("S P p B"), 3);
    CHECK_EQ_INT(accepted_frames("S D"), 1);
    CHECK_EQ_INT(accepted_frames("S E E"), 2);
    CHECK_EQ_INT(accepted_frames("S E ."), 2);
}

TEST(frames_that_are_empty_carry_nothing)
{
    struct frame_order order = {.state = FRAME_ORDER_TOP};
    struct frame end = {FRAME_END, {"x", 1}}, progress = {FRAME_PROGRESS, {"x", 1}};

    CHECK_STATUS(frame_order_step(&order, &progress), STATUS_CORRUPT);
    CHECK_STATUS(frame_order_step(&order, &end), STATUS_CORRUPT);
}

TEST(a_stream_has_so_many_pages_and_no_more)
{
    struct frame_order order = {.state = FRAME_ORDER_TOP, .pages = LIMIT_PAGES};
    struct frame_page page = {.number = LIMIT_PAGES + 1};
    struct buf bytes;
    struct frame frame;
    size_t used;

    buf_init(&bytes, 4096);
    CHECK_OK(frame_put_page(&bytes, &page), (struct error *)NULL);
    CHECK_OK(frame_next(buf_span(&bytes), &frame, &used), (struct error *)NULL);
    CHECK_STATUS(frame_order_step(&order, &frame), STATUS_CORRUPT);
    buf_finish(&bytes);
}
