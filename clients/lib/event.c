/* event.c: one received message → one struct dsa_event. The header is the daemon's, but a field that is missing
 * or of another type is simply absent: the event keeps its default. */
#include "clients/lib/internal.h"

#include <string.h>

#include "base/utf8.h"

static const char *text_field(const json_t *json, const char *name)
{
    const char *text = json_string_value(json_object_get(json, name));

    return text ? text : "";
}

static int64_t integer_field(const json_t *json, const char *name, int64_t fallback)
{
    const json_t *value = json_object_get(json, name);

    return json_is_integer(value) ? json_integer_value(value) : fallback;
}

static void place_fields(struct dsa_client *client, const json_t *json)
{
    struct dsa_event *event = &client->event;
    const json_t *rects = json_object_get(json, "rects");

    event->document = integer_field(json, "document", 0);
    event->title = text_field(json, "title");
    event->path = text_field(json, "path");
    event->member = text_field(json, "member");
    event->label = text_field(json, "label");
    event->page = (int)integer_field(json, "page", 0);
    event->verified = json_is_true(json_object_get(json, "verified"));
    event->score = json_number_value(json_object_get(json, "score"));
    for (size_t i = 0; i < json_array_size(rects) && event->rect_count < EVENT_MAX_RECTS; i++) {
        const json_t *rect = json_array_get(rects, i);

        if (json_array_size(rect) != 5)
            continue;
        client->rects[event->rect_count++] = (struct dsa_rect){
            (int)json_integer_value(json_array_get(rect, 0)), (float)json_number_value(json_array_get(rect, 1)),
            (float)json_number_value(json_array_get(rect, 2)), (float)json_number_value(json_array_get(rect, 3)),
            (float)json_number_value(json_array_get(rect, 4))};
    }
    event->rects = client->rects;
}

enum status event_fill(struct dsa_client *client, const struct wire_message *message, const struct request *request)
{
    struct dsa_event *event = &client->event;
    const json_t *json;

    json_decref(client->json);
    client->json = json_loadb(message->header.ptr, message->header.len, 0, NULL);
    json = client->json;
    buf_clear(&client->header);
    if (!json || buf_append_span(&client->header, message->header))
        return STATUS_BAD_INPUT;
    *event = (struct dsa_event){.request = request ? request->number : 0,
                                .job = integer_field(json, "job", request ? request->job : 0),
                                .seq = integer_field(json, "seq", -1),
                                .json = buf_cstr(&client->header),
                                .json_len = message->header.len,
                                .text = message->body.len ? message->body.ptr : "",
                                .text_len = message->body.len,
                                .title = "", .path = "", .member = "", .label = "", .phase = "", .reason = "",
                                .answered_by = "", .code = "", .message = ""};
    switch (message->type) {
    case WIRE_ACCEPTED:
        event->type = DSA_EVENT_ACCEPTED;
        break;
    case WIRE_EVIDENCE:
        event->type = DSA_EVENT_EVIDENCE;
        event->number = (int)integer_field(json, "rank", 0);
        event->count = (int)integer_field(json, "count", 0);
        place_fields(client, json);
        break;
    case WIRE_TOKENS:
        event->type = DSA_EVENT_TOKENS;
        event->count = (int)integer_field(json, "n", 0);
        break;
    case WIRE_CITATION:
        event->type = DSA_EVENT_CITATION;
        event->number = (int)integer_field(json, "block", 0);
        place_fields(client, json);
        break;
    case WIRE_PROGRESS:
        event->type = DSA_EVENT_PROGRESS;
        event->phase = text_field(json, "phase");
        event->done = integer_field(json, "done", 0);
        event->total = integer_field(json, "total", 0);
        break;
    case WIRE_FINAL:
        event->type = DSA_EVENT_FINAL;
        event->reason = text_field(json, "reason");
        event->answered_by = text_field(json, "answered_by");
        break;
    case WIRE_ERROR:
        event->type = DSA_EVENT_ERROR;
        event->code = text_field(json, "code");
        event->message = text_field(json, "message");
        event->retryable = json_is_true(json_object_get(json, "retryable"));
        break;
    case WIRE_RESET:
        event->type = DSA_EVENT_RESET;
        break;
    default:
        event->type = DSA_EVENT_REPLY;
        break;
    }
    return STATUS_OK;
}

/* Characters that would move a terminal's cursor, change its state or hide what is written. */
static bool is_unsafe(uint32_t code)
{
    if (code == '\n' || code == '\t')
        return false;
    return code < 0x20 || (code >= 0x7F && code < 0xA0) || (code >= 0x202A && code <= 0x202E) ||
           (code >= 0x2066 && code <= 0x2069) || code == 0x200E || code == 0x200F || code == 0xFEFF ||
           code == 0x2028 || code == 0x2029;
}

DSA_EXPORT size_t dsa_sanitize(const char *text, size_t text_len, char *out, size_t cap)
{
    static const char replacement[3] = {'\xEF', '\xBF', '\xBD'};
    size_t used = 0;

    for (size_t at = 0; at < text_len;) {
        uint32_t code = 0;
        size_t len = utf8_decode(text + at, text_len - at, &code);
        bool bad = len == 0 || is_unsafe(code);
        const char *from = bad ? replacement : text + at;
        size_t n = bad ? sizeof replacement : len;

        if (used + n < cap)
            memcpy(out + used, from, n);
        else if (used < cap)
            cap = used + 1; /* never half a character */
        used += n;
        at += len ? len : 1;
    }
    if (cap)
        out[used < cap ? used : cap - 1] = '\0';
    return used;
}

DSA_EXPORT int dsa_version(void)
{
    return DSA_API_VERSION;
}
