/* render.c: see render.h; the reader's answers have three states: between quotations, inside one, in the id after it.
 */
#include "engine/render.h"

void render_init(struct render *render, const struct tokenizer *tokenizer, enum prompt_style style)
{
    bool reader = style == PROMPT_READER;

    *render = (struct render){.open = -1, .close = -1, .none = -1};
    decoder_init(&render->decoder, tokenizer);
    render->open = reader ? tokenizer_special_id(tokenizer, "<|open|>") : -1;
    render->close = reader ? tokenizer_special_id(tokenizer, "<|close|>") : -1;
    render->none = reader ? tokenizer_special_id(tokenizer, "<|none|>") : -1;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Appends text of a quotation: white space is held back until something follows it, and never begins it. */
static enum status put_quoted(struct render *render, struct span text, struct buf *out)
{
    enum status status = STATUS_OK;

    for (size_t i = 0; i < text.len && !status; i++) {
        if (is_space(text.ptr[i])) {
            if (render->trim)
                continue;
            if (render->space_len < sizeof render->spaces) {
                render->spaces[render->space_len++] = text.ptr[i];
                continue;
            }
        }
        status = buf_append(out, render->spaces, render->space_len);
        status = status ? status : buf_append_byte(out, text.ptr[i]);
        render->space_len = 0;
        render->trim = false;
    }
    return status;
}

/* The text of one token, or what the decoder still holds (id < 0). */
static enum status put_text(struct render *render, int32_t id, struct buf *out)
{
    enum status status;
    struct buf text;

    if (render->state != RENDER_QUOTED)
        return id < 0 ? decoder_flush(&render->decoder, out) : decoder_put(&render->decoder, id, out);
    buf_init(&text, out->max);
    status = id < 0 ? decoder_flush(&render->decoder, &text) : decoder_put(&render->decoder, id, &text);
    status = status ? status : put_quoted(render, buf_span(&text), out);
    buf_finish(&text);
    return status;
}

/* Ends whatever state we are in: an id gets its bracket, a quotation its mark. */
static enum status leave(struct render *render, struct buf *out)
{
    enum status status = put_text(render, -1, out);

    if (!status && render->state == RENDER_ID)
        status = buf_append_byte(out, ']');
    else if (!status && render->state == RENDER_QUOTED)
        status = buf_append_cstr(out, "\u201d");
    render->state = RENDER_TEXT;
    render->space_len = 0;
    return status;
}

static enum status put_mark(struct render *render, int32_t id, struct buf *out)
{
    bool was_quoted = render->state == RENDER_QUOTED;
    enum status status = leave(render, out);

    if (status)
        return status;
    if (id == render->close && was_quoted) {
        render->state = RENDER_ID;
        return buf_append_cstr(out, " [");
    }
    if (id != render->open && id != render->none)
        return STATUS_OK;
    if (render->started)
        status = buf_append_byte(out, ' ');
    render->started = true;
    if (status)
        return status;
    if (id == render->none)
        return buf_append_cstr(out, RENDER_NONE);
    render->state = RENDER_QUOTED;
    render->trim = true;
    return buf_append_cstr(out, "\u201c");
}

enum status render_put(struct render *render, int32_t id, struct buf *out)
{
    struct render before = *render;
    size_t len = out->len;
    enum status status;

    if (tokenizer_is_special(render->decoder.tokenizer, id)) {
        status = put_mark(render, id, out);
    } else {
        status = put_text(render, id, out);
        render->started = true;
    }
    if (status) {
        *render = before;
        if (out->ptr) {
            out->len = len;
            out->ptr[len] = '\0';
        }
    }
    return status;
}

enum status render_flush(struct render *render, struct buf *out)
{
    return leave(render, out);
}
