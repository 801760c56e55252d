/* frames.c: the bytes of a frame, written by the child and checked by the parent.
 *
 * Both sides live here so that one test can hold them against each other. Numbers are little-endian whatever the
 * machine; a float is its IEEE bits. Decoding trusts no count: every one is checked against the bytes present. */
#include "ingest/frames.h"

#include <math.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "base/vec.h"
#include "ingest/limits.h"

enum {
    HEADER_BYTES = 12,
    PAGE_HEADER_BYTES = 16,
    LINE_HEADER_BYTES = 16,
    WORD_BYTES = 24,
    LINE_FLAGS = LINE_BOLD | LINE_TINY | LINE_FAINT | LINE_ROTATED,
    /* A page is at most LIMIT_PAGE_POINTS wide; text may stand outside of it, but not farther than a page. */
    COORDINATE_MAX = 2 * 20 * LIMIT_PAGE_POINTS
};

static void put_u32(char *out, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        out[i] = (char)(value >> (8 * i));
}

static uint32_t get_u32(const char *in)
{
    const unsigned char *p = (const unsigned char *)in;

    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void put_f32(char *out, float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    put_u32(out, bits);
}

static float get_f32(const char *in)
{
    uint32_t bits = get_u32(in);
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Appends the header of a frame and makes room for its payload; *payload is where that goes. */
static enum status frame_begin(struct buf *out, enum frame_type type, size_t payload_bytes, char **payload)
{
    enum status status;

    if (payload_bytes > LIMIT_FRAME_BYTES)
        return STATUS_LIMIT;
    status = buf_reserve(out, HEADER_BYTES + payload_bytes);
    if (status)
        return status;
    put_u32(out->ptr + out->len, FRAME_MAGIC);
    put_u32(out->ptr + out->len + 4, (uint32_t)type);
    put_u32(out->ptr + out->len + 8, (uint32_t)payload_bytes);
    *payload = out->ptr + out->len + HEADER_BYTES;
    out->len += HEADER_BYTES + payload_bytes;
    out->ptr[out->len] = '\0';
    return STATUS_OK;
}

enum status frame_put(struct buf *out, enum frame_type type, struct span payload)
{
    char *at;
    enum status status = frame_begin(out, type, payload.len, &at);

    if (!status && payload.len)
        memcpy(at, payload.ptr, payload.len);
    return status;
}

enum status frame_put_page(struct buf *out, const struct frame_page *page)
{
    char *at;
    enum status status = frame_begin(out, FRAME_PAGE_BEGIN, PAGE_HEADER_BYTES + page->label.len, &at);

    if (status)
        return status;
    put_u32(at, page->number);
    put_f32(at + 4, page->width);
    put_f32(at + 8, page->height);
    put_u32(at + 12, (uint32_t)page->label.len);
    if (page->label.len)
        memcpy(at + PAGE_HEADER_BYTES, page->label.ptr, page->label.len);
    return STATUS_OK;
}

enum status frame_put_line(struct buf *out, const struct frame_line *line)
{
    char *at;
    enum status status = frame_begin(out, FRAME_LINE,
                                     LINE_HEADER_BYTES + (size_t)line->word_count * WORD_BYTES + line->text.len, &at);

    if (status)
        return status;
    at[0] = (char)line->kind;
    at[1] = (char)line->level;
    at[2] = (char)line->flags;
    at[3] = 0;
    put_f32(at + 4, line->font_size);
    put_u32(at + 8, line->word_count);
    put_u32(at + 12, (uint32_t)line->text.len);
    at += LINE_HEADER_BYTES;
    for (uint32_t i = 0; i < line->word_count; i++, at += WORD_BYTES) {
        const struct frame_word *word = &line->words[i];

        put_u32(at, word->start);
        put_u32(at + 4, word->end);
        put_u32(at + 8, (uint32_t)word->x0);
        put_u32(at + 12, (uint32_t)word->y0);
        put_u32(at + 16, (uint32_t)word->x1);
        put_u32(at + 20, (uint32_t)word->y1);
    }
    if (line->text.len)
        memcpy(at, line->text.ptr, line->text.len);
    return STATUS_OK;
}

enum status frame_next(struct span bytes, struct frame *frame, size_t *used)
{
    uint32_t type, payload_bytes;

    if (bytes.len < HEADER_BYTES) {
        /* Rubbish is told apart from a short read as early as the bytes allow. */
        for (size_t i = 0; i < bytes.len && i < 4; i++) {
            if ((unsigned char)bytes.ptr[i] != (unsigned char)(FRAME_MAGIC >> (8 * i)))
                return STATUS_CORRUPT;
        }
        return STATUS_AGAIN;
    }
    type = get_u32(bytes.ptr + 4);
    payload_bytes = get_u32(bytes.ptr + 8);
    if (get_u32(bytes.ptr) != FRAME_MAGIC || type < FRAME_START || type >= FRAME_TYPE_END ||
        payload_bytes > LIMIT_FRAME_BYTES)
        return STATUS_CORRUPT;
    if (bytes.len - HEADER_BYTES < payload_bytes)
        return STATUS_AGAIN;
    frame->type = (enum frame_type)type;
    frame->payload = span_of(bytes.ptr + HEADER_BYTES, payload_bytes);
    *used = HEADER_BYTES + payload_bytes;
    return STATUS_OK;
}

static bool page_side_valid(float points)
{
    return isfinite(points) && points >= 0 && points <= LIMIT_PAGE_POINTS;
}

enum status frame_get_page(struct span payload, struct frame_page *page)
{
    struct frame_page got;

    if (payload.len < PAGE_HEADER_BYTES || get_u32(payload.ptr + 12) != payload.len - PAGE_HEADER_BYTES)
        return STATUS_CORRUPT;
    got = (struct frame_page){
        .number = get_u32(payload.ptr),
        .width = get_f32(payload.ptr + 4),
        .height = get_f32(payload.ptr + 8),
        .label = span_of(payload.ptr + PAGE_HEADER_BYTES, payload.len - PAGE_HEADER_BYTES),
    };
    if (got.number == 0 || !page_side_valid(got.width) || !page_side_valid(got.height) ||
        got.label.len > LIMIT_META_BYTES || !utf8_valid(got.label) || memchr(got.label.ptr, 0, got.label.len))
        return STATUS_CORRUPT;
    *page = got;
    return STATUS_OK;
}

static bool coordinate_valid(int32_t value)
{
    return value >= -COORDINATE_MAX && value <= COORDINATE_MAX;
}

/* True between characters of valid UTF-8. */
static bool is_boundary(struct span text, uint32_t at)
{
    return at == text.len || ((unsigned char)text.ptr[at] & 0xC0) != 0x80;
}

static bool words_valid(const struct frame_word *words, uint32_t count, struct span text)
{
    uint32_t last = 0;

    for (uint32_t i = 0; i < count; i++) {
        const struct frame_word *w = &words[i];

        if (w->start < last || w->start >= w->end || w->end > text.len || !is_boundary(text, w->start) ||
            !is_boundary(text, w->end))
            return false;
        if (w->x0 > w->x1 || w->y0 > w->y1 || !coordinate_valid(w->x0) || !coordinate_valid(w->y0) ||
            !coordinate_valid(w->x1) || !coordinate_valid(w->y1))
            return false;
        last = w->end;
    }
    return true;
}

static bool text_valid(const struct frame_line *line)
{
    struct span text = line->text;

    if (text.len > LIMIT_LINE_BYTES || !utf8_valid(text))
        return false;
    if (text.len == 0)
        return true;
    if (memchr(text.ptr, '\0', text.len) || text.ptr[text.len - 1] == '\n')
        return false;
    return line->kind == LINE_CODE || !memchr(text.ptr, '\n', text.len);
}

enum status frame_get_line(struct span payload, struct frame_line *line, struct frame_word **storage,
                           size_t *storage_cap)
{
    struct frame_line got;
    size_t text_len;
    const char *at;

    if (payload.len < LINE_HEADER_BYTES)
        return STATUS_CORRUPT;
    got = (struct frame_line){
        .kind = (uint8_t)payload.ptr[0],
        .level = (uint8_t)payload.ptr[1],
        .flags = (uint8_t)payload.ptr[2],
        .font_size = get_f32(payload.ptr + 4),
        .word_count = get_u32(payload.ptr + 8),
    };
    text_len = get_u32(payload.ptr + 12);
    /* Both counts are below 2^32, so this sum fits in 64 bits. */
    if ((uint64_t)got.word_count * WORD_BYTES + text_len != payload.len - LINE_HEADER_BYTES)
        return STATUS_CORRUPT;
    at = payload.ptr + LINE_HEADER_BYTES;
    got.text = span_of(at + (size_t)got.word_count * WORD_BYTES, text_len);
    if (got.kind > LINE_CODE || got.flags & ~LINE_FLAGS || !isfinite(got.font_size) || got.font_size < 0 ||
        payload.ptr[3] != 0 || !text_valid(&got))
        return STATUS_CORRUPT;
    if (got.kind == LINE_HEADING ? got.level < 1 || got.level > 6 : got.level != 0)
        return STATUS_CORRUPT;
    if (got.word_count > *storage_cap) {
        enum status status = vec_reserve_bytes((void **)storage, storage_cap, 0, got.word_count, sizeof **storage);

        if (status)
            return status;
    }
    for (uint32_t i = 0; i < got.word_count; i++, at += WORD_BYTES) {
        (*storage)[i] = (struct frame_word){
            .start = get_u32(at),
            .end = get_u32(at + 4),
            .x0 = (int32_t)get_u32(at + 8),
            .y0 = (int32_t)get_u32(at + 12),
            .x1 = (int32_t)get_u32(at + 16),
            .y1 = (int32_t)get_u32(at + 20),
        };
    }
    got.words = *storage;
    if (!words_valid(got.words, got.word_count, got.text))
        return STATUS_CORRUPT;
    *line = got;
    return STATUS_OK;
}

/* Frames at the top level of a stream: neither in a page nor in a member. */
static enum status step_top(struct frame_order *order, const struct frame *frame)
{
    struct frame_page page;

    switch (frame->type) {
    case FRAME_META:
        if (order->has_meta)
            return STATUS_CORRUPT;
        order->has_meta = true;
        return STATUS_OK;
    case FRAME_OUTLINE:
        if (order->has_outline || order->members)
            return STATUS_CORRUPT;
        order->has_outline = true;
        return STATUS_OK;
    case FRAME_PROBLEM:
        return STATUS_OK;
    case FRAME_PAGE_BEGIN:
        if (order->members || order->pages == LIMIT_PAGES || frame_get_page(frame->payload, &page) ||
            page.number <= order->last_page)
            return STATUS_CORRUPT;
        order->pages++;
        order->last_page = page.number;
        order->state = FRAME_ORDER_PAGE;
        return STATUS_OK;
    case FRAME_MEMBER_BEGIN:
        if (order->pages || order->members == LIMIT_ARCHIVE_MEMBERS)
            return STATUS_CORRUPT;
        order->members++;
        order->state = FRAME_ORDER_MEMBER;
        return STATUS_OK;
    case FRAME_END:
        order->state = FRAME_ORDER_ENDED;
        return STATUS_OK;
    default:
        return STATUS_CORRUPT;
    }
}

enum status frame_order_step(struct frame_order *order, const struct frame *frame)
{
    bool is_empty = frame->type == FRAME_PAGE_END || frame->type == FRAME_PROGRESS || frame->type == FRAME_END;

    if (order->state == FRAME_ORDER_ENDED || (is_empty && frame->payload.len))
        return STATUS_CORRUPT;
    if (frame->type == FRAME_PROGRESS)
        return STATUS_OK;
    switch (order->state) {
    case FRAME_ORDER_START:
        if (frame->type != FRAME_START)
            return STATUS_CORRUPT;
        order->state = FRAME_ORDER_TOP;
        return STATUS_OK;
    case FRAME_ORDER_TOP:
        return step_top(order, frame);
    case FRAME_ORDER_PAGE:
        if (frame->type == FRAME_PAGE_END)
            order->state = FRAME_ORDER_TOP;
        else if (frame->type != FRAME_LINE)
            return STATUS_CORRUPT;
        return STATUS_OK;
    case FRAME_ORDER_MEMBER:
        if (frame->type == FRAME_MEMBER_END)
            order->state = FRAME_ORDER_TOP;
        else if (frame->type != FRAME_MEMBER_DATA)
            return STATUS_CORRUPT;
        return STATUS_OK;
    case FRAME_ORDER_ENDED:
        break;
    }
    return STATUS_CORRUPT;
}
