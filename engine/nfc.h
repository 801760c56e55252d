/* engine/nfc.h: Unicode normalisation form C, for tokenizers that ask for it (Qwen). Internal to the tokenizer. */
#ifndef ENGINE_NFC_H
#define ENGINE_NFC_H

#include "base/buf.h"

/* Is `text` (valid UTF-8) surely in form C already? A quick look; false means perhaps not. */
bool nfc_quick(struct span text);
/* Appends the form C of `text`, which must be valid UTF-8. At most three times as long. */
enum status nfc_append(struct span text, struct buf *out) MUST_CHECK;

#endif
