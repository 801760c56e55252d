/* rectmap.c: packing and reading the map from bytes to rectangles.
 *
 * Byte 0 is the version, 1. Then, to the end, one group for each stretch of runs of the same top and bottom:
 *
 *   count              runs in the group, >= 1
 *   top, left          signed, from the group before; left is of the first run
 *   height
 *   advance            mean width of a byte, in 1/80 point
 *   count times:       length * 2 + (gap == 1 ? 0 : 1), [gap], [space], width
 *
 * Numbers are LEB128, signed ones zigzag; lengths are in 1/20 point. `gap` is bytes since the run before, `space`
 * (not of a group's first run) is the distance from its right edge less the same distance one run earlier,
 * `width` is less length * advance. In set text every one of them is small: README has the measured bytes a word. */
#include "store/rectmap.h"

#include <math.h>
#include <stdbool.h>

enum { VERSION = 1, UNITS_PER_POINT = 20, ADVANCE_PARTS = 4 };
#define MAX_COORDINATE ((int64_t)1 << 30) /* units: 53 million points, far beyond any page, and sums stay in int64 */

struct box { /* units */
    int64_t x0, y0, x1, y1;
};

/* --- Packing ------------------------------------------------------------------------------------------------ */

static enum status put_number(struct buf *out, uint64_t value)
{
    char bytes[10];
    size_t len = 0;

    do {
        bytes[len++] = (char)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        value >>= 7;
    } while (value);
    return buf_append(out, bytes, len);
}

static enum status put_signed(struct buf *out, int64_t value)
{
    return put_number(out, ((uint64_t)value << 1) ^ (uint64_t)(value >> 63));
}

static bool to_units(float points, int64_t *units)
{
    double scaled = (double)points * UNITS_PER_POINT;

    if (!(fabs(scaled) < (double)MAX_COORDINATE))
        return false;
    *units = llround(scaled);
    return true;
}

static bool to_box(const struct rectmap_run *run, struct box *box)
{
    return to_units(run->rect.x0, &box->x0) && to_units(run->rect.y0, &box->y0) && to_units(run->rect.x1, &box->x1) &&
           to_units(run->rect.y1, &box->y1) && box->x0 <= box->x1 && box->y0 <= box->y1;
}

struct packer {
    struct buf *out;
    uint32_t last_end;      /* of the run before */
    int64_t last_y0, last_x0; /* of the group before */
};

static enum status put_group(struct packer *packer, const struct rectmap_run *runs, size_t count)
{
    struct box box = {0}, last = {0};
    int64_t width = 0, bytes = 0, advance, last_space = 0;
    enum status status;

    for (size_t i = 0; i < count; i++) {
        (void)to_box(&runs[i], &box);
        width += box.x1 - box.x0;
        bytes += runs[i].end - runs[i].start;
    }
    advance = (width * ADVANCE_PARTS + bytes / 2) / bytes;
    (void)to_box(&runs[0], &box);
    status = put_number(packer->out, count);
    if (!status)
        status = put_signed(packer->out, box.y0 - packer->last_y0);
    if (!status)
        status = put_signed(packer->out, box.x0 - packer->last_x0);
    if (!status)
        status = put_number(packer->out, (uint64_t)(box.y1 - box.y0));
    if (!status)
        status = put_number(packer->out, (uint64_t)advance);
    packer->last_y0 = box.y0;
    packer->last_x0 = box.x0;
    for (size_t i = 0; i < count && !status; i++) {
        uint64_t length = runs[i].end - runs[i].start, gap = runs[i].start - packer->last_end;

        (void)to_box(&runs[i], &box);
        status = put_number(packer->out, length * 2 + (gap != 1));
        if (!status && gap != 1)
            status = put_number(packer->out, gap);
        if (!status && i > 0) {
            status = put_signed(packer->out, box.x0 - last.x1 - last_space);
            last_space = box.x0 - last.x1;
        }
        if (!status)
            status = put_signed(packer->out, box.x1 - box.x0 - (int64_t)length * advance / ADVANCE_PARTS);
        packer->last_end = runs[i].end;
        last = box;
    }
    return status;
}

enum status rectmap_pack(const struct rectmap_run *runs, size_t count, struct buf *out)
{
    struct packer packer = {.out = out};
    size_t group = 0, len = out->len;
    enum status status = STATUS_OK;

    for (size_t i = 0; i < count; i++) {
        struct box box;

        if (runs[i].start >= runs[i].end || (i > 0 && runs[i].start < runs[i - 1].end) || !to_box(&runs[i], &box))
            return STATUS_BAD_INPUT;
    }
    if (count)
        status = buf_append_byte(out, VERSION);
    while (group < count && !status) {
        struct box first, next;
        size_t end = group + 1;

        (void)to_box(&runs[group], &first);
        while (end < count && to_box(&runs[end], &next) && next.y0 == first.y0 && next.y1 == first.y1)
            end++;
        status = put_group(&packer, runs + group, end - group);
        group = end;
    }
    if (status) { /* an append that fails leaves the buffer as it was; so do many */
        out->len = len;
        if (out->ptr)
            out->ptr[len] = '\0';
    }
    return status;
}

/* --- Reading ------------------------------------------------------------------------------------------------- */

struct reader {
    const unsigned char *at, *end;
    bool damaged;
    uint64_t left; /* runs left in the group */
    bool first;    /* the next run is the group's first */
    int64_t y0, y1, group_x0, x1, space, advance;
    uint64_t position; /* end of the run before */
};

static uint64_t get_number(struct reader *reader)
{
    uint64_t value = 0;

    for (int shift = 0; shift < 63 && reader->at < reader->end; shift += 7) {
        unsigned char byte = *reader->at++;

        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return value;
    }
    reader->damaged = true;
    return 0;
}

/* A number that stays within MAX_COORDINATE, or damage. */
static int64_t get_length(struct reader *reader)
{
    uint64_t value = get_number(reader);

    if (value > (uint64_t)MAX_COORDINATE)
        reader->damaged = true;
    return reader->damaged ? 0 : (int64_t)value;
}

static int64_t get_signed(struct reader *reader)
{
    uint64_t value = get_number(reader);

    if (value > (uint64_t)MAX_COORDINATE * 4 + 1)
        reader->damaged = true;
    return reader->damaged ? 0 : (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

static bool in_range(int64_t coordinate)
{
    return coordinate >= -MAX_COORDINATE && coordinate <= MAX_COORDINATE;
}

static void get_group(struct reader *reader)
{
    reader->left = get_number(reader);
    reader->y0 += get_signed(reader);
    reader->group_x0 += get_signed(reader);
    reader->y1 = reader->y0 + get_length(reader);
    reader->advance = get_length(reader);
    reader->first = true;
    reader->space = 0;
    if (!reader->left || !in_range(reader->y0) || !in_range(reader->y1) || !in_range(reader->group_x0))
        reader->damaged = true;
}

/* False at the end and on damage. */
static bool get_run(struct reader *reader, uint32_t *start, uint32_t *end, struct box *box)
{
    uint64_t head, gap = 1;
    int64_t length;

    if (!reader->left) {
        if (reader->at == reader->end)
            return false;
        get_group(reader);
    }
    head = get_number(reader);
    if (head & 1)
        gap = get_number(reader);
    length = (int64_t)(head >> 1);
    if (reader->damaged || length < 1 || head > UINT32_MAX || gap > UINT32_MAX) {
        reader->damaged = true;
        return false;
    }
    box->x0 = reader->group_x0;
    if (!reader->first) {
        reader->space += get_signed(reader);
        if (!in_range(reader->space))
            reader->damaged = true;
        box->x0 = reader->x1 + reader->space;
    }
    box->x1 = box->x0 + length * reader->advance / ADVANCE_PARTS + get_signed(reader);
    box->y0 = reader->y0;
    box->y1 = reader->y1;
    if (reader->damaged || !in_range(box->x0) || !in_range(box->x1) || box->x0 > box->x1 ||
        reader->position + gap + (uint64_t)length > UINT32_MAX) {
        reader->damaged = true;
        return false;
    }
    *start = (uint32_t)(reader->position + gap);
    *end = *start + (uint32_t)length;
    reader->position = *end;
    reader->x1 = box->x1;
    reader->first = false;
    reader->left--;
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
    struct reader reader = {.at = (const unsigned char *)map.ptr};
    struct rect line = {0};
    struct box box;
    uint32_t run_start, run_end;
    size_t found = 0;

    if (map.len) {
        reader.end = reader.at + map.len;
        if (*reader.at++ != VERSION)
            return STATUS_CORRUPT;
    }
    while (map.len && get_run(&reader, &run_start, &run_end, &box)) {
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
