/* restore.c: see restore.h. */
#include "daemon/restore.h"

#include <string.h>

#include "daemon/writer.h"

enum { READ_AT_ONCE = 1024 }; /* stream messages a call */

struct restoring {
    struct question *question;
    struct work *work;
    size_t forced_cap;
    int64_t seen;
    enum status status;
};

static enum status restore_ids(struct restoring *restoring, const json_t *ids)
{
    struct work *work = restoring->work;
    size_t count = json_array_size(ids);

    if (vec_reserve_bytes((void **)&work->forced, &restoring->forced_cap, work->forced_count, count,
                          sizeof *work->forced))
        return STATUS_NO_MEMORY;
    for (size_t i = 0; i < count; i++)
        work->forced[work->forced_count++] = (int32_t)json_integer_value(json_array_get(ids, i));
    return STATUS_OK;
}

void restore_quote(json_t *brief, struct span quoted)
{
    (void)json_object_del(brief, "rects");
    (void)json_object_del(brief, "seq");
    (void)json_object_del(brief, "job");
    if (!memchr(quoted.ptr ? quoted.ptr : "", '\0', quoted.len))
        (void)json_object_set_new(brief, "quote", json_stringn(quoted.ptr ? quoted.ptr : "", quoted.len));
}

static bool restore_message(void *context, const struct stream_message *message)
{
    struct restoring *restoring = context;
    struct question *question = restoring->question;
    json_t *header = json_loadb(message->header.ptr, message->header.len, 0, NULL);
    enum status s = STATUS_OK;

    switch (message->type) {
    case WIRE_EVIDENCE:
        question->evidence_given++;
        break;
    case WIRE_TOKENS:
        s = restore_ids(restoring, json_object_get(header, "ids"));
        s = s ? s : buf_append_span(&question->answer, message->body);
        s = s ? s : buf_append_span(&restoring->work->said, message->body);
        break;
    case WIRE_CITATION:
        question->citations_given++;
        restore_quote(header, message->body);
        (void)json_array_append(question->citations, header);
        break;
    case WIRE_FINAL:
    case WIRE_ERROR:
        question->ended_before = true;
        break;
    default:
        break;
    }
    json_decref(header);
    restoring->seen++;
    restoring->status = s;
    question->next_seq = message->seq + 1;
    return s == STATUS_OK;
}

enum status restore(struct writer *writer, struct question *question, struct work *work, struct error *err)
{
    struct restoring restoring = {.question = question, .work = work};
    struct span kept = {0};
    enum status s;

    do {
        restoring.seen = 0;
        s = jobs_stream_read(writer->jobs, question->job, question->next_seq, READ_AT_ONCE, restore_message, &restoring,
                             err);
        if (!s)
            s = restoring.status;
        if (s)
            return s;
    } while (restoring.seen == READ_AT_ONCE);
    s = jobs_get_pack(writer->jobs, question->job, &kept, err);
    if (s && s != STATUS_NOT_FOUND)
        return s;
    if (!s && kept.len) {
        work->was_kept = true;
        return buf_append_span(&work->kept, kept);
    }
    return STATUS_OK;
}
