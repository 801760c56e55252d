/* chunk.c: from blocks to passages.
 *
 * Each block is cut into sentences, pieces of at most CHUNK_MAX_BYTES. Pieces collect until the section ends;
 * then the section is divided: n = the fewest passages that hold it, each filled to about 1/n of it and closed at
 * the end of a sentence, at the end of a paragraph if one is near. A heading opens a section; headings that
 * follow each other directly are one opening, so that no passage consists of a heading alone unless the document
 * ends there. */
#include "ingest/chunk.h"

#include <ctype.h>
#include <stdlib.h>

#define XXH_STATIC_LINKING_ONLY /* the state on the stack; the library is Debian's own build of this header */
#include <xxhash.h>

#include "ingest/sentence.h"

enum {
    SHINGLE_WORDS = 5,
    /* What a piece adds to its passage's text besides its own bytes: the "\n" where spans meet. */
    SPAN_SEPARATOR_BYTES = 1
};

struct piece {
    uint32_t page; /* index into pages */
    uint32_t start, end;
    bool may_close;   /* a passage may end after it */
    bool ends_block;  /* better still */
};

struct chunker {
    const struct chunk_page *pages;
    struct arena *arena;
    struct chunk_list *out;
    VEC(struct piece) pieces; /* of the section so far */
    bool has_body;            /* of these, not all are headings */
    struct {
        char *title;
        int level;
    } path[HEADING_LEVELS];
    int depth;
    const char *heading; /* the path, joined; of the section in work */
};

void chunk_list_finish(struct chunk_list *list)
{
    vec_finish(&list->chunks);
}

/* --- Fingerprints ----------------------------------------------------------------------------------------- */

uint64_t chunk_hash(struct span text)
{
    XXH3_state_t state;
    char part[256];
    size_t len = 0;
    bool blank = false, begun = false;

    (void)XXH3_64bits_reset(&state);
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];

        if (isspace(c)) {
            blank = begun;
            continue;
        }
        if (len + 2 > sizeof part) {
            (void)XXH3_64bits_update(&state, part, len);
            len = 0;
        }
        if (blank)
            part[len++] = ' ';
        part[len++] = (char)tolower(c);
        blank = false;
        begun = true;
    }
    (void)XXH3_64bits_update(&state, part, len);
    return XXH3_64bits_digest(&state);
}

/* The next run of letters and digits from *at, hashed; false at the end. */
static bool next_word_hash(struct span text, size_t *at, uint64_t *hash)
{
    char folded[64];
    size_t len = 0, i = *at;

    while (i < text.len && (unsigned char)text.ptr[i] < 0x80 && !isalnum((unsigned char)text.ptr[i]))
        i++;
    while (i < text.len && ((unsigned char)text.ptr[i] >= 0x80 || isalnum((unsigned char)text.ptr[i]))) {
        if (len < sizeof folded)
            folded[len++] = (char)tolower((unsigned char)text.ptr[i]);
        i++;
    }
    *at = i;
    *hash = XXH3_64bits(folded, len);
    return len > 0;
}

uint64_t chunk_simhash(struct span text)
{
    uint64_t window[SHINGLE_WORDS] = {0}, word, result = 0;
    int32_t votes[64] = {0};
    size_t at = 0, words = 0, shingles = 0;
    bool more = next_word_hash(text, &at, &word);

    while (more) {
        memmove(window, window + 1, sizeof window - sizeof *window);
        window[SHINGLE_WORDS - 1] = word;
        words++;
        more = next_word_hash(text, &at, &word);
        if (words >= SHINGLE_WORDS || !more) { /* a text of fewer words is one shingle */
            uint64_t shingle = XXH3_64bits(window, sizeof window);

            shingles++;
            for (int bit = 0; bit < 64; bit++)
                votes[bit] += (shingle >> bit & 1) ? 1 : -1;
        }
    }
    for (int bit = 0; shingles && bit < 64; bit++)
        result |= (uint64_t)(votes[bit] > 0) << bit;
    return result;
}

/* --- Passages ---------------------------------------------------------------------------------------------- */

/* Joins the titles of the path with " > ", the deepest ones kept whole where it is too long. */
static enum status join_path(struct chunker *chunker)
{
    struct buf path;
    enum status status = STATUS_OK;

    buf_init(&path, CHUNK_HEADING_BYTES + HEADING_LEVELS * 4);
    for (int first = 0; first <= chunker->depth; first++) {
        size_t len = 0;

        for (int i = first; i < chunker->depth; i++)
            len += strlen(chunker->path[i].title) + (i > first ? 3 : 0);
        if (len > CHUNK_HEADING_BYTES && first + 1 < chunker->depth)
            continue;
        for (int i = first; i < chunker->depth && !status; i++) {
            if (i > first)
                status = buf_append_cstr(&path, " > ");
            if (!status)
                status = buf_append_cstr(&path, chunker->path[i].title);
        }
        break;
    }
    if (!status) {
        chunker->heading = arena_copy_cstr(chunker->arena, buf_span(&path));
        if (!chunker->heading)
            status = STATUS_NO_MEMORY;
    }
    buf_finish(&path);
    return status;
}

/* A heading's text, white space folded, cut to the room a path has. */
static char *copy_title(struct arena *arena, struct span text)
{
    char title[CHUNK_HEADING_BYTES + 1];
    size_t len = 0, cut = sentence_cut(text, CHUNK_HEADING_BYTES);

    for (size_t i = 0; i < cut; i++) {
        bool blank = isspace((unsigned char)text.ptr[i]);

        if (!blank || (len && title[len - 1] != ' '))
            title[len++] = blank ? ' ' : text.ptr[i];
    }
    while (len && title[len - 1] == ' ')
        len--;
    return arena_copy_cstr(arena, span_of(title, len));
}

static struct span piece_text(const struct chunker *chunker, const struct piece *piece)
{
    return span_slice(chunker->pages[piece->page].text, piece->start, piece->end);
}

/* Puts pieces [first, end) out as one passage. Neighbours on a page become one span, the white space between
 * them included, so that the passage reads as the page does. */
static enum status emit(struct chunker *chunker, size_t first, size_t end)
{
    const struct piece *pieces = chunker->pieces.items;
    struct store_chunk_span *spans = arena_alloc_array(chunker->arena, end - first, sizeof *spans);
    size_t count = 0, bytes = 0, at = 0;
    struct store_chunk *chunk;
    char *text;
    enum status status = vec_reserve(&chunker->out->chunks, 1);

    if (status || !spans)
        return STATUS_NO_MEMORY;
    for (size_t i = first; i < end; i++) {
        int number = chunker->pages[pieces[i].page].number;
        struct span piece = piece_text(chunker, &pieces[i]);

        while (piece.len && isspace((unsigned char)piece.ptr[piece.len - 1]))
            piece.len--;
        if (count && spans[count - 1].page == number)
            spans[count - 1].end = pieces[i].start + (uint32_t)piece.len;
        else
            spans[count++] = (struct store_chunk_span){number, pieces[i].start, pieces[i].start + (uint32_t)piece.len};
    }
    for (size_t i = 0; i < count; i++)
        bytes += spans[i].end - spans[i].start + (i > 0);
    text = arena_alloc(chunker->arena, bytes + 1);
    if (!text)
        return STATUS_NO_MEMORY;
    for (size_t i = 0, p = first; i < count; i++) {
        while (chunker->pages[pieces[p].page].number != spans[i].page)
            p++;
        if (i)
            text[at++] = '\n';
        memcpy(text + at, chunker->pages[pieces[p].page].text.ptr + spans[i].start, spans[i].end - spans[i].start);
        at += spans[i].end - spans[i].start;
    }
    chunk = &chunker->out->chunks.items[chunker->out->chunks.count];
    *chunk = (struct store_chunk){.ordinal = (int)chunker->out->chunks.count,
                                  .spans = spans,
                                  .span_count = count,
                                  .heading = chunker->heading ? chunker->heading : "",
                                  .text = span_of(text, bytes),
                                  .token_estimate = (int)((bytes + 3) / 4),
                                  .hash = chunk_hash(span_of(text, bytes)),
                                  .simhash = chunk_simhash(span_of(text, bytes))};
    chunker->out->chunks.count++;
    return STATUS_OK;
}

/* What piece `i` adds to a passage that began at piece `first`: on its own page also the white space before it. */
static size_t added_bytes(const struct chunker *chunker, size_t first, size_t i)
{
    const struct piece *piece = &chunker->pieces.items[i];

    if (i > first && piece[-1].page == piece->page)
        return piece->end - piece[-1].end;
    return piece->end - piece->start + (i > first ? SPAN_SEPARATOR_BYTES : 0);
}

/* Divides the collected section. Greedy with an equal share: each passage takes pieces up to its share, then goes
 * on to the next place where it may close, never over the maximum. */
static enum status flush_section(struct chunker *chunker)
{
    const size_t count = chunker->pieces.count;
    size_t left = 0, first = 0;
    enum status status = STATUS_OK;

    for (size_t i = 0; i < count; i++)
        left += added_bytes(chunker, 0, i);
    while (first < count && !status) {
        size_t end = first, close = first, bytes = 0, close_bytes = 0;
        size_t parts = (left + CHUNK_MAX_BYTES - 1) / CHUNK_MAX_BYTES, share = left / (parts ? parts : 1);

        if (parts > 1 && share < CHUNK_MIN_BYTES)
            share = CHUNK_MIN_BYTES;
        while (end < count) {
            size_t more = added_bytes(chunker, first, end);
            const struct piece *piece = &chunker->pieces.items[end];

            if (bytes + more > CHUNK_MAX_BYTES && end > first)
                break;
            bytes += more;
            end++;
            if (!piece->may_close && end < count)
                continue;
            close = end;
            close_bytes = bytes;
            if (bytes >= share || (bytes >= CHUNK_MIN_BYTES && piece->ends_block))
                break;
        }
        if (close == first) { /* nothing in it may close: cut where it is full */
            close = end;
            close_bytes = bytes;
        }
        status = emit(chunker, first, close);
        first = close;
        left -= close_bytes < left ? close_bytes : left;
    }
    chunker->pieces.count = 0;
    chunker->has_body = false;
    return status;
}

static enum status add_pieces(struct chunker *chunker, uint32_t page, const struct text_block *block,
                              bool goes_on)
{
    struct span text = span_slice(chunker->pages[page].text, block->start, block->end);
    size_t at = 0;
    enum status status;

    while (at < text.len) {
        struct span rest = span_slice(text, at, text.len);
        size_t sentence = sentence_length(rest), done = 0;

        while (done < sentence) {
            size_t len = sentence_cut(span_slice(rest, done, sentence), CHUNK_MAX_BYTES);
            bool last = done + len == sentence;

            status = vec_reserve(&chunker->pieces, 1);
            if (status)
                return status;
            chunker->pieces.items[chunker->pieces.count++] = (struct piece){
                .page = page,
                .start = block->start + (uint32_t)(at + done),
                .end = block->start + (uint32_t)(at + done + len),
                .may_close = last && !(goes_on && at + sentence == text.len) && block->kind != BLOCK_HEADING,
                .ends_block = at + done + len == text.len && !goes_on};
            done += len;
        }
        at += sentence;
    }
    return STATUS_OK;
}

/* The page's last paragraph runs on at the top of the next page. */
static bool runs_on(const struct chunk_page *pages, size_t page_count, size_t page, size_t block)
{
    const struct chunk_page *here = &pages[page], *next;

    if (block + 1 < here->block_count || page + 1 >= page_count || here->blocks[block].kind != BLOCK_PARAGRAPH)
        return false;
    next = &pages[page + 1];
    return next->block_count && next->blocks[0].kind == BLOCK_PARAGRAPH &&
           !sentence_ends(span_slice(here->text, here->blocks[block].start, here->blocks[block].end)) &&
           islower((unsigned char)next->text.ptr[next->blocks[0].start]);
}

static enum status open_section(struct chunker *chunker, const struct text_block *block, struct span text)
{
    enum status status = STATUS_OK;
    char *title;

    if (chunker->has_body)
        status = flush_section(chunker);
    if (status)
        return status;
    title = copy_title(chunker->arena, text);
    if (!title)
        return STATUS_NO_MEMORY;
    while (chunker->depth && chunker->path[chunker->depth - 1].level >= block->level)
        chunker->depth--;
    if (*title) {
        chunker->path[chunker->depth].title = title;
        chunker->path[chunker->depth].level = block->level;
        chunker->depth++;
    }
    return join_path(chunker);
}

enum status chunk_document(const struct chunk_page *pages, size_t page_count, struct arena *arena,
                           struct chunk_list *out, struct error *err)
{
    struct chunker chunker = {.pages = pages, .arena = arena, .out = out};
    enum status status = STATUS_OK;

    for (size_t p = 0; p < page_count && !status; p++) {
        for (size_t b = 0; b < pages[p].block_count && !status; b++) {
            const struct text_block *block = &pages[p].blocks[b];

            if (block->kind == BLOCK_HEADING)
                status = open_section(&chunker, block, span_slice(pages[p].text, block->start, block->end));
            else
                chunker.has_body = true;
            if (!status)
                status = add_pieces(&chunker, (uint32_t)p, block, runs_on(pages, page_count, p, b));
        }
    }
    if (!status && chunker.pieces.count)
        status = flush_section(&chunker);
    vec_finish(&chunker.pieces);
    return status ? error_set(err, status, "the text could not be cut into passages") : STATUS_OK;
}
