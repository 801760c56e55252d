/* engine/render.h: from output tokens to the text that a person reads.
 *
 * A decoder that knows the style's special tokens: the reader's marks become “quotation” [id], its <|none|> the
 * fixed sentence; special tokens of the other styles are not shown. Text comes out in whole characters. One owner. */
#ifndef ENGINE_RENDER_H
#define ENGINE_RENDER_H

#include "engine/prompt.h"

#define RENDER_NONE "Not in these documents."

struct render {
    struct decoder decoder;
    int32_t open, close, none; /* the reader's marks; -1 in other styles */
    enum { RENDER_TEXT, RENDER_QUOTED, RENDER_ID } state;
    bool started;              /* something was shown: a space comes before the next quotation */
    bool trim;                 /* in a quotation, nothing of it shown yet */
    char spaces[64];           /* white space inside a quotation, held back until something follows it */
    size_t space_len;
};

void render_init(struct render *render, const struct tokenizer *tokenizer, enum prompt_style style);
enum status render_put(struct render *render, int32_t id, struct buf *out) MUST_CHECK;
enum status render_flush(struct render *render, struct buf *out) MUST_CHECK; /* at the end of the answer */

#endif
