/* rectmap.c: packing and reading the map from bytes to rectangles.
 *
 * Byte 0 is the version, 1; bytes 1 and 2 a checksum of the rest (FNV-1a, folded); then the number of runs (LEB128);
 * then, range-coded (range_coder.h), one group for each stretch of runs of the same top and bottom:
 *
 *   count - 1    runs in the group
 *   height       change from the group before
 *   pitch        top less the top before, less the same distance one group earlier
 *   left         left edge of the first run less that of the group before
 *   advance      mean width of a byte in 1/80 point, change from the group before
 *   count times: length - 1, gap - 1 (gap: bytes since the run before), space (not of a group's first run: distance
 *                from the right edge of the run before, less the same distance one run earlier), width less
 *                length * advance
 *
 * Lengths are in 1/20 point; numbers that can be negative are zigzag. In set text almost all are small and many are
 * 0: README has the measured bytes a word. */
#include "store/rectmap.h"

#include <math.h>
#include <stdbool.h>

#include "store/range_coder.h"

enum { VERSION = 1, HEAD_BYTES = 3, UNITS_PER_POINT = 20, ADVANCE_PARTS = 4 };
#define MAX_COORDINATE ((int64_t)1 << 20) /* units: 52,428 points, over three of the largest pages; clamped */

enum field { COUNT, HEIGHT, PITCH, LEFT, ADVANCE, LENGTH, GAP, SPACE, WIDTH, FIELDS };

static void init_models(struct number_model models[FIELDS])
{
    for (int f = 0; f < FIELDS; f++)
        number_model_init(&models[f]);
}

static uint16_t checksum(struct span bytes)
{
    uint32_t hash = 0x811c9dc5u;

    for (size_t i = 0; i < bytes.len; i++)
        hash = (hash ^ (unsigned char)bytes.ptr[i]) * 0x01000193u;
    return (uint16_t)(hash ^ hash >> 16);
}

struct box { /* units */
    int64_t x0, y0, x1, y1;
};

/* --- Packing --------------------------------------------------------------------------------------------- */

static bool to_units(float points, int64_t *units)
{
    double scaled = (double)points * UNITS_PER_POINT;

    if (isnan(scaled))
        return false;
    *units = llround(fmin(fmax(scaled, -(double)MAX_COORDINATE), (double)MAX_COORDINATE));
    return true;
}

static bool to_box(const struct rectmap_run *run, struct box *box)
{
    return to_units(run->rect.x0, &box->x0) && to_units(run->rect.y0, &box->y0) && to_units(run->rect.x1, &box->x1) &&
           to_units(run->rect.y1, &box->y1) && box->x0 <= box->x1 && box->y0 <= box->y1;
}

struct packer {
    struct range_encoder encoder;
    struct number_model models[FIELDS];
    uint32_t last_end; /* of the run before */
    int64_t top, pitch, left, height, advance; /* of the group before */
};

static void put_number(struct packer *packer, enum field field, uint64_t value)
{
    range_encode_number(&packer->encoder, &packer->models[field], value);
}

static void put_signed(struct packer *packer, enum field field, int64_t value)
{
    put_number(packer, field, ((uint64_t)value << 1) ^ (uint64_t)(value >> 63));
}

static void put_group_head(struct packer *packer, const struct box *first, size_t count, int64_t advance)
{
    int64_t height = first->y1 - first->y0, pitch = first->y0 - packer->top;

    put_number(packer, COUNT, count - 1);
    put_signed(packer, HEIGHT, height - packer->height);
    put_signed(packer, PITCH, pitch - packer->pitch);
    put_signed(packer, LEFT, first->x0 - packer->left);
    put_signed(packer, ADVANCE, advance - packer->advance);
    packer->top = first->y0;
    packer->pitch = pitch;
    packer->left = first->x0;
    packer->height = height;
    packer->advance = advance;
}

static void put_group(struct packer *packer, const struct rectmap_run *runs, size_t count)
{
    struct box box = {0}, last = {0};
    int64_t width = 0, bytes = 0, space = 0, advance;

    for (size_t i = 0; i < count; i++) {
        (void)to_box(&runs[i], &box);
        width += box.x1 - box.x0;
        bytes += runs[i].end - runs[i].start;
    }
    (void)to_box(&runs[0], &box);
    advance = (width * ADVANCE_PARTS + bytes / 2) / bytes;
    put_group_head(packer, &box, count, advance < MAX_COORDINATE ? advance : MAX_COORDINATE);
    for (size_t i = 0; i < count; i++) {
        int64_t length = runs[i].end - runs[i].start;

        (void)to_box(&runs[i], &box);
        put_number(packer, LENGTH, (uint64_t)length - 1);
        put_signed(packer, GAP, (int64_t)runs[i].start - packer->last_end - 1);
        if (i > 0) {
            put_signed(packer, SPACE, box.x0 - last.x1 - space);
            space = box.x0 - last.x1;
        }
        put_signed(packer, WIDTH, box.x1 - box.x0 - length * packer->advance / ADVANCE_PARTS);
        packer->last_end = runs[i].end;
        last = box;
    }
}

static enum status put_head(struct buf *out, size_t count)
{
    enum status status = buf_append(out, (const char[HEAD_BYTES]){VERSION}, HEAD_BYTES);

    do {
        if (!status)
            status = buf_append_byte(out, (char)((count & 0x7f) | (count > 0x7f ? 0x80 : 0)));
        count >>= 7;
    } while (count);
    return status;
}

enum status rectmap_pack(const struct rectmap_run *runs, size_t count, struct buf *out)
{
    struct packer packer = {0};
    size_t group = 0, start = out->len;
    uint16_t sum;
    enum status status;

    for (size_t i = 0; i < count; i++) {
        struct box box;

        if (runs[i].start >= runs[i].end || (i > 0 && runs[i].start < runs[i - 1].end) || !to_box(&runs[i], &box))
            return STATUS_BAD_INPUT;
    }
    if (!count)
        return STATUS_OK;
    status = put_head(out, count);
    init_models(packer.models);
    range_encode_begin(&packer.encoder, out);
    while (group < count && !status) {
        struct box first, next;
        size_t end = group + 1;

        (void)to_box(&runs[group], &first);
        while (end < count && to_box(&runs[end], &next) && next.y0 == first.y0 && next.y1 == first.y1)
            end++;
        put_group(&packer, runs + group, end - group);
        group = end;
    }
    if (!status)
        status = range_encode_end(&packer.encoder);
    if (status) { /* an append that fails leaves the buffer as it was; so do many */
        out->len = start;
        if (out->ptr)
            out->ptr[start] = '\0';
        return status;
    }
    sum = checksum(span_of(out->ptr + start + HEAD_BYTES, out->len - start - HEAD_BYTES));
    out->ptr[start + 1] = (char)(sum & 0xff);
    out->ptr[start + 2] = (char)(sum >> 8);
    return STATUS_OK;
}

/* --- Reading --------------------------------------------------------------------------------------------- */

struct reader {
    struct range_decoder decoder;
    struct number_model models[FIELDS];
    bool damaged;
    uint64_t runs_left, left; /* in the map, in the group */
    bool first;               /* the next run is the group's first */
    int64_t top, pitch, height, group_left, advance;
    int64_t x1, space;
    int64_t position; /* end of the run before */
};

static bool in_range(int64_t coordinate)
{
    return coordinate >= -2 * MAX_COORDINATE && coordinate <= 2 * MAX_COORDINATE; /* differences, too */
}

static uint64_t get_number(struct reader *reader, enum field field)
{
    uint64_t value = range_decode_number(&reader->decoder, &reader->models[field]);

    if (range_decode_overran(&reader->decoder))
        reader->damaged = true;
    return reader->damaged ? 0 : value;
}

/* Numbers have 56 bits at most, so that a sum of a few cannot overflow before it is checked. */
static int64_t get_signed(struct reader *reader, enum field field)
{
    uint64_t value = get_number(reader, field);

    return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

static void get_group(struct reader *reader)
{
    reader->left = get_number(reader, COUNT) + 1;
    reader->height += get_signed(reader, HEIGHT);
    reader->pitch += get_signed(reader, PITCH);
    reader->top += reader->pitch;
    reader->group_left += get_signed(reader, LEFT);
    reader->advance += get_signed(reader, ADVANCE);
    reader->first = true;
    reader->space = 0;
    if (reader->left > reader->runs_left || reader->height < 0 || !in_range(reader->height) ||
        !in_range(reader->pitch) || !in_range(reader->top) || !in_range(reader->group_left) || reader->advance < 0 ||
        !in_range(reader->advance))
        reader->damaged = true;
}

/* False at the end and on damage. */
static bool get_run(struct reader *reader, uint32_t *start, uint32_t *end, struct box *box)
{
    int64_t length, gap, width;

    if (!reader->runs_left)
        return false;
    if (!reader->left)
        get_group(reader);
    length = (int64_t)get_number(reader, LENGTH) + 1;
    gap = get_signed(reader, GAP) + 1;
    if (!reader->first)
        reader->space += get_signed(reader, SPACE);
    if (reader->damaged || length > INT32_MAX || gap < 0 || !in_range(reader->space)) {
        reader->damaged = true;
        return false;
    }
    width = length * reader->advance / ADVANCE_PARTS + get_signed(reader, WIDTH);
    box->x0 = reader->first ? reader->group_left : reader->x1 + reader->space;
    box->x1 = box->x0 + width;
    box->y0 = reader->top;
    box->y1 = reader->top + reader->height;
    if (reader->damaged || width < 0 || !in_range(box->x0) || !in_range(box->x1) || !in_range(box->y1) ||
        reader->position + gap + length > UINT32_MAX) {
        reader->damaged = true;
        return false;
    }
    *start = (uint32_t)(reader->position + gap);
    *end = *start + (uint32_t)length;
    reader->position = *end;
    reader->x1 = box->x1;
    reader->first = false;
    reader->left--;
    reader->runs_left--;
    return true;
}

/* Checks the head and sets the reader to the first run. */
static bool open_map(struct span map, struct reader *reader)
{
    const unsigned char *bytes = (const unsigned char *)map.ptr;
    size_t at = HEAD_BYTES;

    if (map.len <= HEAD_BYTES || bytes[0] != VERSION ||
        checksum(span_slice(map, HEAD_BYTES, map.len)) != (uint16_t)(bytes[1] | bytes[2] << 8))
        return false;
    for (int shift = 0;; shift += 7) {
        if (at == map.len || shift > 28)
            return false;
        reader->runs_left |= (uint64_t)(bytes[at] & 0x7f) << shift;
        if (!(bytes[at++] & 0x80))
            break;
    }
    init_models(reader->models);
    range_decode_begin(&reader->decoder, span_slice(map, at, map.len));
    return true;
}

/* On one line: they share at least half of the lower one's height, and are less than three heights apart. */
static bool same_line(const struct rect *a, const struct rect *b)
{
    float top = fmaxf(a->y0, b->y0), bottom = fminf(a->y1, b->y1), height = fminf(a->y1 - a->y0, b->y1 - b->y0);
    float apart = fmaxf(a->x0, b->x0) - fminf(a->x1, b->x1);

    return bottom - top >= height / 2 && apart <= 3 * fmaxf(a->y1 - a->y0, b->y1 - b->y0);
}

static float to_points(int64_t units)
{
    return (float)units / UNITS_PER_POINT;
}

enum status rectmap_find(struct span map, uint32_t start, uint32_t end, struct rect *rects, size_t cap, size_t *count)
{
    struct reader reader = {0};
    struct rect line = {0};
    struct box box;
    uint32_t run_start, run_end;
    size_t found = 0;

    if (map.len && !open_map(map, &reader))
        return STATUS_CORRUPT;
    while (get_run(&reader, &run_start, &run_end, &box)) {
        int64_t width = box.x1 - box.x0, length = run_end - run_start;
        struct rect part;
        int64_t x0 = box.x0, x1 = box.x1;

        if (run_end <= start || run_start >= end)
            continue;
        if (run_start < start)
            x0 = box.x0 + width * (start - run_start) / length;
        if (run_end > end)
            x1 = box.x0 + width * (end - run_start) / length;
        part = (struct rect){to_points(x0), to_points(box.y0), to_points(x1), to_points(box.y1)};
        if (found && same_line(&line, &part)) {
            line = (struct rect){fminf(line.x0, part.x0), fminf(line.y0, part.y0), fmaxf(line.x1, part.x1),
                                 fmaxf(line.y1, part.y1)};
        } else {
            found++;
            line = part;
        }
        if (found <= cap)
            rects[found - 1] = line;
    }
    if (reader.damaged)
        return STATUS_CORRUPT;
    *count = found;
    return STATUS_OK;
}
