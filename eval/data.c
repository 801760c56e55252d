/* data.c: question sets from JSON lines. */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/vec.h"
#include "eval/eval.h"

enum { MAX_LINE_BYTES = 64 << 20 };

/* --- Names → numbers ------------------------------------------------------------------------------------- */

static uint64_t fnv1a(struct span text)
{
    uint64_t hash = 0xcbf29ce484222325u;

    for (size_t i = 0; i < text.len; i++)
        hash = (hash ^ (unsigned char)text.ptr[i]) * 0x100000001b3u;
    return hash;
}

struct index { /* open addressing over strings that the set's arena owns */
    struct {
        const char *name;
        size_t value;
    } *slots;
    size_t cap, count;
};

static size_t index_slot(const struct index *index, const char *name)
{
    size_t slot = (size_t)(fnv1a(span_from_cstr(name)) * 0x9e3779b97f4a7c15u >> 20) & (index->cap - 1);

    while (index->slots[slot].name && strcmp(index->slots[slot].name, name) != 0)
        slot = (slot + 1) & (index->cap - 1);
    return slot;
}

static bool index_find(const struct index *index, const char *name, size_t *value)
{
    size_t slot = index->cap ? index_slot(index, name) : 0;

    if (!index->cap || !index->slots[slot].name)
        return false;
    *value = index->slots[slot].value;
    return true;
}

static enum status index_put(struct index *index, const char *name, size_t value)
{
    size_t slot;

    if (index->count * 2 >= index->cap) {
        struct index grown = {.cap = index->cap ? index->cap * 2 : 1024};

        grown.slots = calloc(grown.cap, sizeof *grown.slots);
        if (!grown.slots)
            return STATUS_NO_MEMORY;
        for (size_t i = 0; i < index->cap; i++) {
            if (index->slots[i].name)
                grown.slots[index_slot(&grown, index->slots[i].name)] = index->slots[i];
        }
        grown.count = index->count;
        free(index->slots);
        *index = grown;
    }
    slot = index_slot(index, name);
    index->count += !index->slots[slot].name;
    index->slots[slot].name = name;
    index->slots[slot].value = value;
    return STATUS_OK;
}

/* --- Reading lines --------------------------------------------------------------------------------------- */

struct loading {
    struct eval_set *set;
    VEC(struct eval_passage) passages;
    VEC(struct eval_question) questions;
    struct index passage_index, question_index; /* by id; records: passages by "title\ntext" */
    const char *source; /* of the records wanted */
    struct index record_titles; /* records: passage of each record's first passage */
};

static const char *copy_text(struct loading *l, const json_t *value)
{
    const char *text = json_string_value(value);

    return arena_copy_cstr(&l->set->arena, span_of(text ? text : "", text ? json_string_length(value) : 0));
}

/* Calls `take` for each line's object. */
static enum status each_line(const char *path, struct loading *l,
                             enum status (*take)(struct loading *l, json_t *object), struct error *err)
{
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    long number = 0;
    enum status status = STATUS_OK;

    if (!file)
        return error_set(err, STATUS_IO, "'%s': %s", path, strerror(errno));
    while (!status && (len = getline(&line, &cap, file)) >= 0) {
        json_t *object;

        number++;
        if (len > MAX_LINE_BYTES) {
            status = error_set(err, STATUS_LIMIT, "'%s', line %ld: too long", path, number);
            break;
        }
        object = json_loadb(line, (size_t)len, JSON_ALLOW_NUL, NULL);
        status = json_is_object(object) ? take(l, object) : STATUS_BAD_INPUT;
        if (status)
            (void)error_set(err, status, "'%s', line %ld: not a record of this set", path, number);
        json_decref(object);
    }
    free(line);
    (void)fclose(file);
    return status;
}

static enum status add_passage(struct loading *l, const char *id, const char *title, const char *text)
{
    if (!id || !title || !text || vec_reserve(&l->passages, 1))
        return STATUS_NO_MEMORY;
    l->passages.items[l->passages.count++] = (struct eval_passage){id, title, text};
    return STATUS_OK;
}

static void finish_loading(struct loading *l)
{
    vec_finish(&l->passages);
    vec_finish(&l->questions);
    free(l->passage_index.slots);
    free(l->question_index.slots);
    free(l->record_titles.slots);
}

/* Moves what was collected into the set's arena. */
static enum status hand_over(struct loading *l, struct error *err)
{
    struct eval_set *set = l->set;

    set->passages = arena_alloc_array(&set->arena, l->passages.count + 1, sizeof *set->passages);
    set->questions = arena_alloc_array(&set->arena, l->questions.count + 1, sizeof *set->questions);
    if (!set->passages || !set->questions)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    if (l->passages.count)
        memcpy(set->passages, l->passages.items, l->passages.count * sizeof *set->passages);
    if (l->questions.count)
        memcpy(set->questions, l->questions.items, l->questions.count * sizeof *set->questions);
    set->passage_count = l->passages.count;
    set->question_count = l->questions.count;
    return STATUS_OK;
}

/* --- BEIR ------------------------------------------------------------------------------------------------ */

static enum status take_beir_passage(struct loading *l, json_t *object)
{
    const char *id = copy_text(l, json_object_get(object, "_id"));
    enum status status = add_passage(l, id, copy_text(l, json_object_get(object, "title")),
                                     copy_text(l, json_object_get(object, "text")));

    return status ? status : index_put(&l->passage_index, id, l->passages.count - 1);
}

static enum status take_beir_question(struct loading *l, json_t *object)
{
    struct eval_question question = {.id = copy_text(l, json_object_get(object, "_id")),
                                     .text = copy_text(l, json_object_get(object, "text")), .title = "",
                                     .answerable = true};

    if (!question.id || !question.text || vec_reserve(&l->questions, 1))
        return STATUS_NO_MEMORY;
    l->questions.items[l->questions.count++] = question;
    return index_put(&l->question_index, question.id, l->questions.count - 1);
}

static enum status add_judgement(struct loading *l, struct eval_question *question, size_t passage, double grade)
{
    struct eval_judgement *grown = arena_alloc_array(&l->set->arena, question->judgement_count + 1, sizeof *grown);

    if (!grown)
        return STATUS_NO_MEMORY;
    if (question->judgement_count)
        memcpy(grown, question->judgements, question->judgement_count * sizeof *grown);
    grown[question->judgement_count++] = (struct eval_judgement){passage, grade};
    question->judgements = grown;
    if (!question->title[0])
        question->title = l->passages.items[passage].title;
    return STATUS_OK;
}

static enum status load_judgements(struct loading *l, const char *path, struct error *err)
{
    FILE *file = fopen(path, "re");
    char question_id[512], passage_id[512];
    double grade;
    enum status status = STATUS_OK;

    if (!file)
        return error_set(err, STATUS_IO, "'%s': %s", path, strerror(errno));
    (void)fscanf(file, "%*[^\n]\n"); /* the header */
    while (!status && fscanf(file, "%511[^\t]\t%511[^\t]\t%lf\n", question_id, passage_id, &grade) == 3) {
        size_t question, passage;

        if (grade > 0 && index_find(&l->question_index, question_id, &question) &&
            index_find(&l->passage_index, passage_id, &passage))
            status = add_judgement(l, &l->questions.items[question], passage, grade);
    }
    if (!status && !feof(file))
        status = error_set(err, STATUS_BAD_INPUT, "'%s': not a list of judgements", path);
    (void)fclose(file);
    return status;
}

enum status eval_load_beir(const char *dir, struct eval_set *set, struct error *err)
{
    struct loading l = {.set = set};
    char path[4096];
    enum status status;

    *set = (struct eval_set){0};
    arena_init(&set->arena, EVAL_ARENA_BYTES);
    set->name = arena_copy_cstr(&set->arena, span_from_cstr(dir));
    (void)snprintf(path, sizeof path, "%s/corpus.jsonl", dir);
    status = each_line(path, &l, take_beir_passage, err);
    (void)snprintf(path, sizeof path, "%s/queries.jsonl", dir);
    if (!status)
        status = each_line(path, &l, take_beir_question, err);
    (void)snprintf(path, sizeof path, "%s/qrels.tsv", dir);
    if (!status)
        status = load_judgements(&l, path, err);
    if (!status)
        status = hand_over(&l, err);
    finish_loading(&l);
    return status;
}

/* --- Records with answers -------------------------------------------------------------------------------- */

static enum status copy_answers(struct loading *l, const json_t *list, struct eval_question *question)
{
    size_t count = json_array_size(list);
    const char **answers = arena_alloc_array(&l->set->arena, count + 1, sizeof *answers);
    size_t used = 0;

    if (!answers)
        return STATUS_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        const char *answer = json_string_value(json_array_get(list, i));

        if (!answer || !answer[strspn(answer, " \t\n")])
            continue;
        answers[used] = arena_copy_cstr(&l->set->arena, span_from_cstr(answer));
        if (!answers[used++])
            return STATUS_NO_MEMORY;
    }
    question->answers = answers;
    question->answer_count = used;
    return STATUS_OK;
}

static enum status take_answers(struct loading *l, json_t *object)
{
    const char *id = json_string_value(json_object_get(object, "id"));
    size_t question;

    if (!id)
        return STATUS_BAD_INPUT;
    if (!index_find(&l->question_index, id, &question))
        return STATUS_OK;
    l->set->questions[question].answerable = !json_is_false(json_object_get(object, "answerable"));
    return copy_answers(l, json_object_get(object, "answers"), &l->set->questions[question]);
}

enum status eval_load_answers(const char *path, struct eval_set *set, struct error *err)
{
    struct loading l = {.set = set};
    enum status status = STATUS_OK;

    for (size_t i = 0; i < set->question_count && !status; i++)
        status = index_put(&l.question_index, set->questions[i].id, i);
    if (status)
        (void)error_set(err, status, "out of memory");
    else
        status = each_line(path, &l, take_answers, err);
    finish_loading(&l);
    return status;
}

/* The passage with that title and text, once. */
static enum status intern_passage(struct loading *l, const json_t *object, size_t *passage)
{
    const char *title = copy_text(l, json_object_get(object, "title")),
               *text = copy_text(l, json_object_get(object, "text"));
    size_t bytes;
    char *key;
    enum status status;

    if (!title || !text)
        return STATUS_NO_MEMORY;
    bytes = strlen(title) + strlen(text) + 2;
    key = arena_alloc(&l->set->arena, bytes);
    if (!key)
        return STATUS_NO_MEMORY;
    (void)snprintf(key, bytes, "%s\n%s", title, text);
    if (index_find(&l->passage_index, key, passage))
        return STATUS_OK;
    status = add_passage(l, key, title, text);
    *passage = l->passages.count - 1;
    return status ? status : index_put(&l->passage_index, key, *passage);
}

static enum status take_record(struct loading *l, json_t *object)
{
    const char *source = json_string_value(json_object_get(object, "source"));
    const json_t *passages = json_object_get(object, "passages"), *gold = json_object_get(object, "gold");
    struct eval_question question = {.title = ""};
    enum status status = STATUS_OK;

    if (l->source && (!source || strcmp(source, l->source) != 0))
        return STATUS_OK;
    question.answerable = !json_is_false(json_object_get(object, "answerable"));
    for (size_t i = 0; i < json_array_size(passages) && !status; i++) {
        const json_t *item = json_array_get(passages, i);
        const char *ref = json_string_value(json_object_get(item, "ref"));
        size_t passage = 0;
        bool known = true, is_gold = json_array_size(gold) == 0;

        if (ref)
            known = index_find(&l->record_titles, ref, &passage);
        else
            status = intern_passage(l, item, &passage);
        if (!status && i == 0 && !ref) {
            const char *id = copy_text(l, json_object_get(object, "id"));

            status = id ? index_put(&l->record_titles, id, passage) : STATUS_NO_MEMORY;
        }
        for (size_t g = 0; g < json_array_size(gold); g++)
            is_gold |= json_integer_value(json_array_get(gold, g)) == (json_int_t)i;
        if (!status && known && is_gold)
            status = add_judgement(l, &question, passage, 1);
    }
    if (status)
        return status;
    question.id = copy_text(l, json_object_get(object, "id"));
    question.text = copy_text(l, json_object_get(object, "question"));
    status = copy_answers(l, json_object_get(object, "answers"), &question);
    if (status || !question.id || !question.text || vec_reserve(&l->questions, 1))
        return STATUS_NO_MEMORY;
    if (question.text[0] && question.judgement_count)
        l->questions.items[l->questions.count++] = question;
    return STATUS_OK;
}

enum status eval_load_records(const char *path, const char *source, struct eval_set *set, struct error *err)
{
    struct loading l = {.set = set, .source = source};
    enum status status;

    *set = (struct eval_set){0};
    arena_init(&set->arena, EVAL_ARENA_BYTES);
    set->name = arena_copy_cstr(&set->arena, span_from_cstr(path));
    status = each_line(path, &l, take_record, err);
    if (!status)
        status = hand_over(&l, err);
    finish_loading(&l);
    return status;
}

void eval_set_finish(struct eval_set *set)
{
    arena_finish(&set->arena);
    *set = (struct eval_set){0};
}

bool eval_reported(const struct eval_question *question)
{
    return fnv1a(span_from_cstr(question->title)) & 1;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Does `text` go on with `answer` at `at`? */
static bool matches_at(struct span text, size_t at, struct span answer)
{
    size_t a = 0;

    while (a < answer.len) {
        if (is_space(answer.ptr[a])) {
            if (at >= text.len || !is_space(text.ptr[at]))
                return false;
            while (a < answer.len && is_space(answer.ptr[a]))
                a++;
            while (at < text.len && is_space(text.ptr[at]))
                at++;
            continue;
        }
        if (at >= text.len || tolower((unsigned char)text.ptr[at]) != tolower((unsigned char)answer.ptr[a]))
            return false;
        at++;
        a++;
    }
    return true;
}

bool eval_has_answer(const struct eval_question *question, struct span text)
{
    for (size_t i = 0; i < question->answer_count; i++) {
        struct span answer = span_from_cstr(question->answers[i]);

        while (answer.len && is_space(answer.ptr[0]))
            answer = span_slice(answer, 1, answer.len);
        while (answer.len && is_space(answer.ptr[answer.len - 1]))
            answer.len--;
        for (size_t at = 0; answer.len && at + 1 <= text.len; at++) {
            if (matches_at(text, at, answer))
                return true;
        }
    }
    return false;
}
