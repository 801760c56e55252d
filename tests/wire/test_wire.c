/* test_wire.c: round trips, limits, and a decoder that is fed rubbish. */
#include "tests/harness/check.h"

#include <stdlib.h>
#include <string.h>

#include "wire/wire.h"

static const char id_bytes[] = "0123456789abcdef";

static size_t good_frames(struct span frames[5])
{
    frames[0] = span_from_cstr("DSA1");
    frames[1] = span_from_cstr("S");
    frames[2] = span_of(id_bytes, WIRE_ID_BYTES);
    frames[3] = span_from_cstr("{\"key\":\"a\"}");
    frames[4] = span_from_cstr("What is a lightning indexer?");
    return 5;
}

TEST(encode_then_decode)
{
    struct wire_message out = {.type = WIRE_TOKENS, .header = span_from_cstr("{\"seq\":3}"),
                               .body = span_of("a\0b", 3)}, in;
    struct span frames[5];
    struct error err = {0};

    wire_id_random(out.id);
    CHECK_EQ_INT(wire_encode(&out, frames), 5);
    CHECK_OK(wire_decode(frames, 5, &in, &err), &err);
    CHECK_EQ_INT(in.type, WIRE_TOKENS);
    CHECK(memcmp(in.id, out.id, WIRE_ID_BYTES) == 0);
    CHECK_EQ_SPAN(in.header, out.header);
    CHECK_EQ_SPAN(in.body, out.body);
}

TEST(empty_header_becomes_an_object_and_empty_body_no_frame)
{
    struct wire_message out = {.type = WIRE_PING}, in;
    struct span frames[5];
    struct error err = {0};

    CHECK_EQ_INT(wire_encode(&out, frames), 4);
    CHECK_OK(wire_decode(frames, 4, &in, &err), &err);
    CHECK_EQ_SPAN(in.header, span_from_cstr("{}"));
    CHECK_EQ_INT(in.body.len, 0);
}

TEST(type_bytes_are_their_value)
{
    struct span frames[5];

    for (int type = 0; type < 256; type++) {
        struct wire_message message = {.type = type};

        (void)wire_encode(&message, frames);
        CHECK_EQ_INT((unsigned char)frames[1].ptr[0], type);
    }
}

TEST(versions_and_garbage_are_told_apart)
{
    CHECK_STATUS(wire_check_magic(span_from_cstr("DSA1")), STATUS_OK);
    CHECK_STATUS(wire_check_magic(span_from_cstr("DSA2")), STATUS_UNSUPPORTED);
    CHECK_STATUS(wire_check_magic(span_from_cstr("DSA0")), STATUS_UNSUPPORTED);
    CHECK_STATUS(wire_check_magic(span_from_cstr("DSAx")), STATUS_BAD_INPUT);
    CHECK_STATUS(wire_check_magic(span_from_cstr("DSA12")), STATUS_BAD_INPUT);
    CHECK_STATUS(wire_check_magic(span_of(NULL, 0)), STATUS_BAD_INPUT);
    CHECK_STATUS(wire_check_magic(span_from_cstr("GET /")), STATUS_BAD_INPUT);
}

TEST(each_broken_frame_is_refused)
{
    static char big_header[WIRE_MAX_HEADER_BYTES + 1];
    static char big_body[WIRE_MAX_BODY_BYTES + 1];
    struct wire_message message = {.type = -1};
    struct span frames[6];
    struct error err = {0};
    size_t n = good_frames(frames);

    CHECK_OK(wire_decode(frames, n, &message, &err), &err);
    message.type = -1;
    for (size_t count = 0; count < 4; count++)
        CHECK_STATUS(wire_decode(frames, count, &message, &err), STATUS_BAD_INPUT);
    frames[5] = frames[4];
    CHECK_STATUS(wire_decode(frames, 6, &message, &err), STATUS_BAD_INPUT);
    frames[1] = span_from_cstr("SS");
    CHECK_STATUS(wire_decode(frames, n, &message, &err), STATUS_BAD_INPUT);
    frames[1] = span_of(NULL, 0);
    CHECK_STATUS(wire_decode(frames, n, &message, &err), STATUS_BAD_INPUT);
    n = good_frames(frames);
    frames[2].len--;
    CHECK_STATUS(wire_decode(frames, n, &message, &err), STATUS_BAD_INPUT);
    n = good_frames(frames);
    frames[0] = span_from_cstr("DSA2");
    CHECK_STATUS(wire_decode(frames, n, &message, &err), STATUS_UNSUPPORTED);
    n = good_frames(frames);
    memset(big_header, ' ', sizeof big_header);
    frames[3] = span_of(big_header, sizeof big_header);
    CHECK_STATUS(wire_decode(frames, n, &message, &err), STATUS_LIMIT);
    n = good_frames(frames);
    frames[4] = span_of(big_body, sizeof big_body);
    CHECK_STATUS(wire_decode(frames, n, &message, &err), STATUS_LIMIT);
    CHECK_EQ_INT(message.type, -1); /* untouched by every failure */
}

TEST(headers_that_are_no_json_object_are_refused)
{
    static const char *const bad[] = {"", "[]", "1", "\"x\"", "null", "{", "{}{}", "{\"a\":}", "{\"a\":1,}",
                                      "{\"a\":1,\"a\":2}", "\xff{}", "{\"a\":\"\xc0\x80\"}", "{\"\\u0000\":1}",
                                      "{\"a\":1e999}"};
    struct wire_message message;
    struct span frames[5];
    struct error err = {0};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t n = good_frames(frames);

        frames[3] = span_from_cstr(bad[i]);
        if (wire_decode(frames, n, &message, &err) == STATUS_OK)
            FAIL("accepted header '%s'", bad[i]);
        CHECK(err.message[0] != '\0');
    }
}

TEST(deep_nesting_is_refused_without_a_crash)
{
    static char deep[WIRE_MAX_HEADER_BYTES];
    struct wire_message message;
    struct span frames[5];
    struct error err = {0};
    size_t n = good_frames(frames);

    memset(deep, '[', sizeof deep);
    memcpy(deep, "{\"a\":", 5);
    frames[3] = span_of(deep, sizeof deep);
    CHECK_STATUS(wire_decode(frames, n, &message, &err), STATUS_BAD_INPUT);
}

/* Random mutations of good messages: whatever the bytes, the decoder answers, and what it accepts is in bounds.
 * Frames are copied to exact-size heap blocks so that a sanitizer sees any read beyond them. */
TEST(random_mutations_never_break_the_decoder)
{
    int accepted = 0;

    for (int round = 0; round < 20000; round++) {
        struct span frames[6];
        char *owned[6] = {0};
        struct wire_message message;
        struct error err = {0};
        size_t n = good_frames(frames);

        frames[5] = frames[3];
        n = check_random() % 8 ? n : check_random() % 7;
        for (size_t i = 0; i < n; i++) {
            size_t len = frames[i].len;

            if (check_random() % 8 == 0)
                len = check_random() % (len + 1);
            owned[i] = malloc(len ? len : 1);
            CHECK(owned[i]);
            memcpy(owned[i], frames[i].ptr, len);
            if (len && check_random() % 6 == 0)
                owned[i][check_random() % len] = (char)check_random();
            frames[i] = span_of(owned[i], len);
        }
        if (wire_decode(frames, n, &message, &err) == STATUS_OK) {
            accepted++;
            CHECK(n == 4 || n == 5);
            CHECK(message.type >= 0 && message.type < 256);
        }
        for (size_t i = 0; i < n; i++)
            free(owned[i]);
    }
    CHECK(accepted > 1000 && accepted < 20000);
}

TEST(id_text_round_trip)
{
    unsigned char id[WIRE_ID_BYTES], back[WIRE_ID_BYTES];
    char text[2 * WIRE_ID_BYTES + 1];

    for (int i = 0; i < 100; i++) {
        wire_id_random(id);
        wire_id_text(id, text);
        CHECK_EQ_INT(strlen(text), 32);
        CHECK(wire_id_parse(text, back));
        CHECK(memcmp(id, back, sizeof id) == 0);
    }
    CHECK(!wire_id_parse("", back));
    CHECK(!wire_id_parse("0123", back));
    text[31] = 'g';
    CHECK(!wire_id_parse(text, back));
    CHECK(!wire_id_parse("0123456789abcdef0123456789abcdef0", back));
}

TEST(a_window_never_holds_more_messages_than_the_high_water_mark)
{
    int64_t least = wire_cost(span_of(NULL, 0), span_of(NULL, 0));

    CHECK(WIRE_DEFAULT_CREDIT_BYTES / least <= 1000); /* RCVHWM and SNDHWM are 1000 */
    CHECK(WIRE_DEFAULT_CREDIT_BYTES >= WIRE_MAX_STREAM_BYTES + WIRE_MESSAGE_OVERHEAD_BYTES);
}
