/* block.c: inline text to lines. */
#include "ingest/block.h"

#include "ingest/limits.h"

void block_init(struct block *block, struct frame_writer *out)
{
    *block = (struct block){.out = out, .kind = LINE_TEXT};
    buf_init(&block->text, 2 * (size_t)LIMIT_LINE_BYTES);
}

void block_finish(struct block *block)
{
    buf_finish(&block->text);
}

bool block_is_empty(const struct block *block)
{
    for (size_t i = block->prefix_len; i < block->text.len; i++) {
        if (block->text.ptr[i] != '\t' && block->text.ptr[i] != ' ' && block->text.ptr[i] != '\n')
            return false;
    }
    return true;
}

static enum status send(struct block *block)
{
    struct frame_line line = {
        .kind = (uint8_t)block->kind,
        .level = (uint8_t)(block->kind == LINE_HEADING ? block->level : 0),
        .text = buf_span(&block->text),
    };
    bool empty = block_is_empty(block);

    if (block->kind == LINE_HEADING && line.text.len > LIMIT_HEADING_BYTES)
        line = (struct frame_line){.kind = LINE_TEXT, .text = line.text}; /* nobody writes such headings */
    if (block->kind == LINE_CODE) {
        while (line.text.len && line.text.ptr[0] == '\n')
            line.text = span_slice(line.text, 1, line.text.len);
    }
    while (block->kind == LINE_TABLE_ROW && line.text.len && line.text.ptr[line.text.len - 1] == '\t')
        line.text.len--; /* cells that are empty at the end */
    block->space = false;
    return empty ? STATUS_OK : frame_writer_line(block->out, &line);
}

enum status block_begin(struct block *block, enum line_kind kind, int level, const char *prefix)
{
    enum status status = send(block);

    buf_clear(&block->text);
    block->kind = kind;
    block->level = level;
    block->prefix_len = prefix ? strlen(prefix) : 0;
    if (!status && prefix)
        status = buf_append_cstr(&block->text, prefix);
    return status;
}

enum status block_end(struct block *block)
{
    return block_begin(block, LINE_TEXT, 0, NULL);
}

void block_space(struct block *block)
{
    block->space = true;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

/* A space that waits, unless a border stands before it. */
static enum status put_space(struct block *block)
{
    char last = block->text.len ? block->text.ptr[block->text.len - 1] : ' ';

    block->space = false;
    return is_space(last) ? STATUS_OK : buf_append_byte(&block->text, ' ');
}

static enum status make_room(struct block *block, size_t more)
{
    enum line_kind kind = block->kind;
    int level = block->level;

    if (block->text.len + more <= LIMIT_LINE_BYTES)
        return STATUS_OK;
    return block_begin(block, kind, level, NULL);
}

enum status block_add(struct block *block, struct span text)
{
    enum status status = STATUS_OK;

    while (text.len && !status) {
        size_t word = 0;
        bool code = block->kind == LINE_CODE;

        while (word < text.len && word < 65536 && (code || !is_space(text.ptr[word])))
            word++;
        if (word == 0) {
            block->space = true;
            text = span_slice(text, 1, text.len);
            continue;
        }
        status = make_room(block, word + 1);
        if (!status && block->space && !code)
            status = put_space(block);
        if (!status)
            status = buf_append(&block->text, text.ptr, word);
        text = span_slice(text, word, text.len);
    }
    return status;
}

enum status block_tab(struct block *block)
{
    block->space = false;
    return block->text.len < LIMIT_LINE_BYTES ? buf_append_byte(&block->text, '\t') : STATUS_OK;
}
