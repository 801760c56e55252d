/* test_base.c: the vocabulary: errors, buffers, arenas, UTF-8. */
#include <stdint.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/utf8.h"
#include "base/vec.h"
#include "tests/harness/check.h"

TEST(error_prefix_goes_in_front_and_long_messages_are_cut)
{
    struct error err = {0};
    char text[2 * ERROR_MESSAGE_BYTES];

    CHECK_EQ_INT(error_set(&err, STATUS_IO, "page %d", 3), STATUS_IO);
    error_prefix(&err, "file '%s'", "a.pdf");
    CHECK_EQ_STR(err.message, "file 'a.pdf': page 3");
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    (void)error_set(&err, STATUS_LIMIT, "%s", text);
    CHECK_EQ_INT(strlen(err.message), ERROR_MESSAGE_BYTES - 1);
    (void)error_set(NULL, STATUS_BUG, "nobody listens");
}

TEST(buf_refuses_to_pass_its_maximum_and_keeps_what_it_has)
{
    struct buf buf;
    struct error *none = NULL;

    buf_init(&buf, 100);
    for (int i = 0; i < 10; i++)
        CHECK_OK(buf_append(&buf, "0123456789", 10), none);
    CHECK_STATUS(buf_append_byte(&buf, 'x'), STATUS_LIMIT);
    CHECK_STATUS(buf_append(&buf, NULL, SIZE_MAX), STATUS_LIMIT);
    CHECK_EQ_INT(buf.len, 100);
    CHECK_EQ_INT(buf_cstr(&buf)[100], 0);
    buf_clear(&buf);
    CHECK_OK(buf_printf(&buf, "%05d|%s", 42, "z"), none);
    CHECK_EQ_STR(buf_cstr(&buf), "00042|z");
    buf_finish(&buf);
}

TEST(arena_aligns_zeroes_and_stops_at_its_maximum)
{
    struct arena arena;
    char *a, *b;

    arena_init(&arena, 1 << 20);
    a = arena_alloc(&arena, 3);
    b = arena_alloc(&arena, 200000);
    CHECK(a && b);
    CHECK_EQ_INT((uintptr_t)a % 16, 0);
    CHECK_EQ_INT((uintptr_t)b % 16, 0);
    for (int i = 0; i < 200000; i++)
        CHECK_EQ_INT(b[i], 0);
    CHECK(arena_alloc(&arena, 1 << 20) == NULL);
    CHECK(arena_alloc_array(&arena, SIZE_MAX / 2, 4) == NULL);
    CHECK_EQ_STR(arena_copy_cstr(&arena, span_from_cstr("abc")), "abc");
    arena_finish(&arena);
}

TEST(vec_grows_and_refuses_overflow)
{
    VEC(int) numbers = {0};
    struct error *none = NULL;

    for (int i = 0; i < 1000; i++) {
        CHECK_OK(vec_reserve(&numbers, 1), none);
        numbers.items[numbers.count++] = i;
    }
    CHECK_EQ_INT(numbers.items[999], 999);
    CHECK_STATUS(vec_reserve(&numbers, SIZE_MAX), STATUS_NO_MEMORY);
    CHECK_STATUS(vec_reserve(&numbers, SIZE_MAX / 4), STATUS_NO_MEMORY);
    vec_finish(&numbers);
}

TEST(utf8_round_trips_every_scalar_value)
{
    for (uint32_t code = 0; code <= 0x110000; code++) {
        char bytes[UTF8_MAX_BYTES];
        size_t len = utf8_encode(code, bytes);
        uint32_t back;

        if ((code >= 0xD800 && code < 0xE000) || code > 0x10FFFF) {
            CHECK_EQ_INT(len, 0);
            continue;
        }
        CHECK_EQ_INT(utf8_decode(bytes, len, &back), len);
        CHECK_EQ_INT(back, code);
        CHECK_EQ_INT(utf8_decode(bytes, len - 1, &back), 0);
    }
}

TEST(utf8_refuses_overlong_surrogate_and_stray_bytes)
{
    static const char *const bad[] = {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE0\x9F\xBF",
                                      "\xED\xA0\x80", "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
                                      "a\xFF", "\xE2\x82", "\xE2\x28\xA1"};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(!utf8_valid(span_from_cstr(bad[i])));
    CHECK(utf8_valid(span_from_cstr("z\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80")));
}

TEST(utf8_complete_prefix_holds_back_only_what_may_still_become_whole)
{
    CHECK_EQ_INT(utf8_complete_prefix(span_from_cstr("a\xE2\x82")), 1);
    CHECK_EQ_INT(utf8_complete_prefix(span_from_cstr("a\xE2\x82\xAC")), 4);
    CHECK_EQ_INT(utf8_complete_prefix(span_from_cstr("a\xF0\x9F\x98")), 1);
    CHECK_EQ_INT(utf8_complete_prefix(span_from_cstr("a\xED\xA0")), 3);
    CHECK_EQ_INT(utf8_complete_prefix(span_from_cstr("\x80\x80\x80\x80")), 4);
    CHECK_EQ_INT(utf8_complete_prefix(span_from_cstr("")), 0);
}
