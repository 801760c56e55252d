/* forward.c: one pass of some rows through all layers; owns the working memory.
 *
 *   h = embed(token)
 *   every layer:  h += attention(norm(h));  h += ffn(norm(h))        the sums are fused into the norms
 *   logits = head(norm(h)), of the first logit_rows rows alone; of the mark_rows after them two logits each
 *
 * All memory is taken once, for max_rows rows: nothing here grows with the length of a sequence but the page
 * table, and nothing with its square.
 *
 * A pass of more than max_rows rows is a sweep: layer by layer, max_rows rows at a time, so that the weights of a
 * layer that is streamed to the device come by once for all of them. Only the residual stream is kept for every row;
 * the sums that norms make otherwise are then made by themselves, with the same bits. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/forward_impl.h"
#include "engine/recordings.h"

struct whole_pass {
    struct forward *forward;
    struct pass *pass;
    const struct forward_batch *batch;
};

/* Room for `rows` rows of `width` numbers of 4 bytes; NULL is written when width is 0. Without a model only the bytes
 * are counted. */
static enum status take(struct forward *f, int64_t rows, int64_t width, void *out)
{
    void *memory = NULL;
    size_t bytes;

    if (width > 0) {
        if (!checked_mul((size_t)rows, (size_t)width * 4, &bytes) || f->buffer_count == MAX_BUFFERS ||
            (f->model && ops_alloc(f->model->ops, bytes, &memory)))
            return STATUS_NO_MEMORY;
        f->buffer[f->buffer_count++] = memory;
        f->bytes += (int64_t)bytes;
    }
    memcpy(out, &memory, sizeof memory);
    return STATUS_OK;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static size_t rows_needed(int64_t rows, int64_t sequences, int64_t pages)
{
    return (size_t)(5 * rows + sequences * pages);
}

/* Room for the rows' block. Where it moves, recordings of passes hold an old address. */
static enum status grow_rows(struct forward *f, size_t count)
{
    struct ops *ops = f->model->ops;
    void *device = NULL, *host = NULL;
    enum status s;

    if (count <= f->rows_cap)
        return STATUS_OK;
    s = ops_alloc(ops, count * sizeof(int32_t), &device);
    if (!s)
        s = ops_host_alloc(ops, count * sizeof(int32_t), &host);
    if (s) {
        ops_free(ops, device);
        return s;
    }
    recordings_clear(f->recordings);
    ops_free(ops, f->rows);
    ops_host_free(ops, f->host_rows);
    f->rows = device;
    f->host_rows = host;
    f->bytes += (int64_t)((count - f->rows_cap) * sizeof(int32_t));
    f->rows_cap = count;
    return STATUS_OK;
}

/* The host's sampler reads the logits where they are; guesses of the MTP layer are drawn from them. */
static bool takes_best(const struct forward *f, const struct model_config *c)
{
    return !c->mtp && (!f->model || !ops_is_host(f->model->ops)); /* without a model it is a device's plan */
}

/* Tokens of a shortlist: what top-p leaves of a row is mostly far fewer. More than a quarter would save little. */
static int list_length(const struct model_config *c)
{
    enum { MOST = 1024 };

    return (c->vocab + 3) / 4 < MOST ? (c->vocab + 3) / 4 : (int)MOST;
}

static int64_t list_words(int length)
{
    return 3 + 2 * (int64_t)length;
}

static enum status take_all(struct forward *f, const struct model_config *c)
{
    int64_t latent_words = ((int64_t)c->heads * c->latent * (int64_t)dtype_bytes(f->latent) + 3) / 4;
    int64_t R = f->max_rows, ffn = max64(c->dense_inter, (int64_t)c->expert_inter * c->shared_experts);
    enum status s;

    s = take(f, f->max_sweep_rows, c->hidden, &f->hidden);
    if (!s)
        s = take(f, R, c->hidden, &f->normed);
    if (!s)
        s = take(f, R, c->hidden, &f->delta);
    if (!s)
        s = take(f, R, c->q_lora, &f->qr);
    if (!s)
        s = take(f, R, (int64_t)c->heads * (c->nope + c->rope), &f->q);
    if (!s)
        s = take(f, R, c->latent + c->rope, &f->kv);
    if (!s)
        s = take(f, R, latent_words, &f->q_latent);
    if (!s)
        s = take(f, R, latent_words, &f->o_latent);
    if (!s)
        s = take(f, R, (int64_t)c->heads * c->value, &f->heads);
    if (!s)
        s = take(f, R, (int64_t)c->index_heads * c->index_dim, &f->index_q);
    if (!s)
        s = take(f, R, c->index_dim, &f->index_k);
    if (!s)
        s = take(f, R, c->index_heads, &f->index_w);
    if (!s)
        s = take(f, R, c->index_topk, &f->selected);
    if (!s)
        s = take(f, R, ffn, &f->ffn_gate);
    if (!s)
        s = take(f, R, ffn, &f->ffn_up);
    if (!s)
        s = take(f, R, c->experts, &f->router_logits);
    if (!s)
        s = take(f, R, c->experts_kept, &f->expert_weights);
    if (!s)
        s = take(f, R, c->experts_kept, &f->experts);
    if (!s && c->mtp)
        s = take(f, R, c->hidden, &f->last_hidden);
    if (!s && c->mtp)
        s = take(f, R, c->hidden, &f->draft_hidden);
    if (!s && c->mtp)
        s = take(f, R, 2 * (int64_t)c->hidden, &f->pair);
    if (!s && c->mtp)
        s = take(f, R, 1, &f->hidden_row);
    if (!s)
        s = take(f, f->max_logit_rows, c->vocab, &f->logits);
    if (!s && takes_best(f, c))
        s = take(f, f->max_logit_rows, 2, &f->best);
    if (!s && takes_best(f, c))
        s = take(f, f->max_logit_rows, list_words(list_length(c)), &f->list);
    return s;
}

static void set_sizes(struct forward *f, const struct forward_sizes *sizes)
{
    f->max_rows = sizes->rows;
    f->max_sweep_rows = sizes->sweep_rows > sizes->rows ? sizes->sweep_rows : sizes->rows;
    f->max_logit_rows = sizes->logit_rows;
}

/* The rows of a pass, with the page tables of one full sequence and a step of the others; many long ones together make
 * it grow. */
static size_t first_rows(const struct forward *f, const struct model_config *c)
{
    return rows_needed(f->max_sweep_rows, 8, (c->window + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS);
}

int64_t forward_bytes_of(const struct model_config *config, enum dtype latent, const struct forward_sizes *sizes)
{
    struct forward f = {.latent = latent};

    set_sizes(&f, sizes);
    if (take_all(&f, config))
        return INT64_MAX / 2;
    return f.bytes + (int64_t)(first_rows(&f, config) * sizeof(int32_t));
}

enum status forward_create(const struct model *model, struct kv_cache *cache, const struct forward_sizes *sizes,
                           struct forward **out, struct error *err)
{
    const struct model_config *c = &model->config;
    struct forward *f = calloc(1, sizeof *f);
    enum status s;

    assert(sizes->logit_rows <= sizes->rows);
    if (!f)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    f->model = model;
    f->cache = cache;
    f->latent = model->latent;
    set_sizes(f, sizes);
    f->recordings = ops_is_host(model->ops) ? NULL : recordings_create(model->ops);
    s = take_all(f, c);
    if (!s)
        s = grow_rows(f, first_rows(f, c));
    if (!s && takes_best(f, c))
        s = ops_host_alloc(model->ops, 2 * (size_t)f->max_logit_rows * sizeof *f->host_best, (void **)&f->host_best);
    f->list_length = f->list ? list_length(c) : 0;
    if (!s && f->list)
        s = ops_host_alloc(model->ops,
                           (size_t)f->max_logit_rows * (size_t)list_words(f->list_length) * sizeof *f->host_list,
                           (void **)&f->host_list);
    f->order = calloc((size_t)f->max_sweep_rows, sizeof *f->order);
    f->place = calloc((size_t)f->max_sweep_rows, sizeof *f->place);
    if (s || !f->order || !f->place || (!f->recordings && !ops_is_host(model->ops))) {
        s = error_set(err, STATUS_NO_MEMORY, "no memory for passes of %d rows: %s", f->max_sweep_rows,
                      ops_last_error(model->ops));
        forward_destroy(f);
        return s;
    }
    *out = f;
    return STATUS_OK;
}

void forward_destroy(struct forward *f)
{
    if (!f)
        return;
    recordings_destroy(f->recordings);
    for (int i = 0; i < f->buffer_count; i++)
        ops_free(f->model->ops, f->buffer[i]);
    ops_free(f->model->ops, f->rows);
    ops_host_free(f->model->ops, f->host_rows);
    ops_host_free(f->model->ops, f->host_best);
    ops_host_free(f->model->ops, f->host_list);
    free(f->order);
    free(f->place);
    free(f);
}

int64_t forward_bytes(const struct forward *f)
{
    return f->bytes;
}

/* --- Trace ----------------------------------------------------------------------------------------------------- */

enum status pass_trace(struct pass *pass, const char *name, int layer, struct tensor *value, bool replaceable)
{
    struct ops *ops = pass->model->ops;
    size_t bytes = (size_t)tensor_count(value) * dtype_bytes(value->dtype);
    struct tensor host = *value;
    enum status s;

    if (!pass->trace)
        return STATUS_OK;
    assert(tensor_is_contiguous(value));
    host.data = malloc(bytes ? bytes : 1);
    if (!host.data)
        return STATUS_NO_MEMORY;
    s = ops_download(ops, host.data, value->data, bytes);
    if (!s)
        s = ops_sync(ops);
    if (!s && replaceable && pass->trace->replace && pass->trace->replace(pass->trace->context, name, layer, &host)) {
        s = ops_upload(ops, value->data, host.data, bytes);
        if (!s)
            s = ops_sync(ops);
    }
    if (!s && pass->trace->put)
        pass->trace->put(pass->trace->context, name, layer, &host);
    free(host.data);
    return s;
}

/* The stream after a layer is h + delta: the sum is made with the next norm, so the trace makes its own. */
static enum status trace_hidden(struct pass *pass, int layer, const struct tensor *hidden)
{
    struct ops *ops = pass->model->ops;
    size_t count = (size_t)tensor_count(hidden);
    struct tensor sum = *hidden;
    float *values, *added;
    enum status s;

    if (!pass->trace)
        return STATUS_OK;
    values = malloc(2 * count * sizeof *values);
    if (!values)
        return STATUS_NO_MEMORY;
    added = values + count;
    s = ops_download(ops, values, hidden->data, count * sizeof *values);
    if (!s)
        s = ops_download(ops, added, pass->delta.data, count * sizeof *values);
    if (!s)
        s = ops_sync(ops);
    for (size_t i = 0; i < count; i++)
        values[i] += added[i];
    sum.data = values;
    if (!s && pass->trace->put)
        pass->trace->put(pass->trace->context, "hidden", layer, &sum);
    if (!s && pass->trace->replace && pass->trace->replace(pass->trace->context, "hidden", layer, &sum)) {
        s = ops_upload(ops, hidden->data, values, count * sizeof *values);
        if (!s)
            s = ops_fill(ops, pass->delta.data, 0, count * sizeof *values);
        if (!s)
            s = ops_sync(ops);
    }
    free(values);
    return s;
}

/* --- The rows of a pass ---------------------------------------------------------------------------------------- */

/* Where the parts of the block stand, as the rows of this pass lie in it. */
static void name_rows(const struct forward *f, const struct forward_batch *b, int stride, struct pass *p)
{
    int64_t T = b->rows;

    p->all_tokens = tensor_1d(DTYPE_I32, f->rows, T);
    p->all_positions = tensor_1d(DTYPE_I32, f->rows + T, T);
    p->all_slots = tensor_1d(DTYPE_I32, f->rows + 2 * T, T);
    p->all_sequences = tensor_1d(DTYPE_I32, f->rows + 3 * T, T);
    p->all_visible = tensor_1d(DTYPE_I32, f->rows + 4 * T, T);
    p->page_table = tensor_2d(DTYPE_I32, f->rows + 5 * T, b->sequences, stride);
}

/* Packs and sends them, page tables `stride` wide. */
static enum status send_rows(struct forward *f, const struct forward_batch *b, int stride)
{
    size_t count = rows_needed(b->rows, b->sequences, stride), T = (size_t)b->rows;
    enum status s = grow_rows(f, count);
    int32_t *row, *table;

    if (s)
        return s;
    row = f->host_rows;
    table = row + 5 * T;
    for (size_t i = 0; i < T; i++) {
        size_t from = b->rows > f->max_rows ? (size_t)f->order[i] : i;

        row[i] = b->token[from];
        row[T + i] = b->position[from];
        row[2 * T + i] = b->slot[from];
        row[3 * T + i] = b->sequence[from];
        row[4 * T + i] = b->position[from] + 1;
    }
    for (int i = 0; i < b->sequences; i++) {
        memcpy(table + (size_t)i * (size_t)stride, b->page_table + (size_t)i * (size_t)b->pages,
               (size_t)b->pages * sizeof *table);
        for (int j = b->pages; j < stride; j++)
            table[(size_t)i * (size_t)stride + (size_t)j] = -1;
    }
    return ops_upload_queued(f->model->ops, f->rows, f->host_rows, count * sizeof *row);
}

/* Views of rows [first, first + T): of the block, of the residual stream, and of the memory that every part of a
 * pass uses anew. `seen` is what the host knows of the largest of visible. */
static void make_views(struct forward *f, struct pass *p, int64_t first, int64_t T, int32_t seen)
{
    const struct model_config *c = &f->model->config;
    int64_t ffn = max64(c->dense_inter, (int64_t)c->expert_inter * c->shared_experts);

    p->token = tensor_rows(&p->all_tokens, first, T);
    p->position = tensor_rows(&p->all_positions, first, T);
    p->slot = tensor_rows(&p->all_slots, first, T);
    p->sequence = tensor_rows(&p->all_sequences, first, T);
    p->visible = tensor_rows(&p->all_visible, first, T);
    p->rows = (struct ops_rows){&p->slot, &p->sequence, &p->visible, &p->page_table, seen};
    p->sparse = c->index_topk && seen > c->index_topk;
    p->hidden = tensor_2d(DTYPE_F32, f->hidden + first * c->hidden, T, c->hidden);
    p->normed = tensor_2d(DTYPE_F32, f->normed, T, c->hidden);
    p->qr = tensor_2d(DTYPE_F32, f->qr, T, c->q_lora);
    p->q = tensor_3d(DTYPE_F32, f->q, T, c->heads, c->nope + c->rope);
    p->kv = tensor_2d(DTYPE_F32, f->kv, T, c->latent + c->rope);
    p->q_latent = tensor_3d(f->latent, f->q_latent, T, c->heads, c->latent);
    p->o_latent = tensor_3d(f->latent, f->o_latent, T, c->heads, c->latent);
    p->heads = tensor_3d(DTYPE_F32, f->heads, T, c->heads, c->value);
    p->index_q = tensor_3d(DTYPE_F32, f->index_q, T, c->index_heads, c->index_dim);
    p->index_k = tensor_2d(DTYPE_F32, f->index_k, T, c->index_dim);
    p->index_w = tensor_2d(DTYPE_F32, f->index_w, T, c->index_heads);
    p->selected = tensor_2d(DTYPE_I32, f->selected, T, c->index_topk);
    p->ffn_gate = tensor_2d(DTYPE_F32, f->ffn_gate, T, ffn);
    p->ffn_up = tensor_2d(DTYPE_F32, f->ffn_up, T, ffn);
    p->router_logits = tensor_2d(DTYPE_F32, f->router_logits, T, c->experts);
    p->experts = tensor_2d(DTYPE_I32, f->experts, T, c->experts_kept);
    p->expert_weights = tensor_2d(DTYPE_F32, f->expert_weights, T, c->experts_kept);
    p->delta = tensor_2d(DTYPE_F32, f->delta, T, c->hidden);
}

/* The largest of visible among rows [first, first + T) of the block. */
static int32_t seen_by(const struct forward *f, const struct forward_batch *b, int64_t first, int64_t T)
{
    const int32_t *visible = f->host_rows + 4 * (int64_t)b->rows + first;
    int32_t most = 0;

    for (int64_t i = 0; i < T; i++)
        most = visible[i] > most ? visible[i] : most;
    return most;
}

/* --- The layers ------------------------------------------------------------------------------------------------- */

static enum status embed(struct pass *p)
{
    struct ops_embed_args args = {&p->model->embedding, &p->token, &p->hidden};

    return ops_embed(p->model->ops, &args);
}

enum status forward_layer(struct pass *p, int layer, const struct tensor *residual)
{
    const struct model *m = p->model;
    struct ops_rmsnorm_args norm = {&p->hidden, residual, &m->layer[layer].input_norm, m->config.norm_eps, &p->normed};
    enum status s = layer_mla(p, layer, &norm);

    norm.residual = &p->delta;
    norm.weight = &m->layer[layer].post_norm;
    if (!s)
        s = layer_ffn(p, layer, &norm);
    if (!s)
        s = trace_hidden(p, layer, &p->hidden);
    return s;
}

static enum status run_layers(struct pass *p)
{
    const struct model *m = p->model;
    enum status s = embed(p);

    for (int i = 0; i < m->config.layers && !s; i++) {
        s = ops_group_use(m->ops, m->layer[i].group);
        if (!s)
            s = forward_layer(p, i, i ? &p->delta : NULL);
        if (!s)
            s = ops_group_done(m->ops, m->layer[i].group);
    }
    return s;
}

static enum status sweep_layer(struct forward *f, const struct forward_batch *b, struct pass *p, int layer)
{
    struct ops *ops = f->model->ops;
    enum status s = STATUS_OK;

    for (int64_t first = 0; first < b->rows && !s; first += f->max_rows) {
        int64_t T = b->rows - first < f->max_rows ? b->rows - first : f->max_rows;

        make_views(f, p, first, T, seen_by(f, b, first, T));
        if (layer == 0)
            s = embed(p);
        if (!s)
            s = forward_layer(p, layer, NULL);
        if (!s)
            s = ops_add(ops, &p->hidden, &p->delta);
    }
    return s;
}

/* Every row of a sequence runs after those it sees: by sequence, then by position. */
static void order_sweep(struct forward *f, const struct forward_batch *b)
{
    int32_t *first = f->place; /* where each sequence's rows begin, until `place` gets its own meaning */

    /* Positions of one sequence's share are one run, but logit and marked rows stand before the others: a row's place
     * inside the run is its distance from the run's smallest position. */
    for (int s = 0, next = 0; s < b->sequences; s++) {
        int32_t least = INT32_MAX, count = 0;

        for (int i = 0; i < b->rows; i++) {
            if (b->sequence[i] == s) {
                least = b->position[i] < least ? b->position[i] : least;
                count++;
            }
        }
        first[s] = next - least; /* position + first = place */
        next += count;
    }
    for (int i = 0; i < b->rows; i++)
        f->order[b->position[i] + first[b->sequence[i]]] = i;
    for (int i = 0; i < b->rows; i++)
        f->place[f->order[i]] = i;
}

static enum status sweep(struct forward *f, const struct forward_batch *b, struct pass *p)
{
    const struct model *m = f->model;
    enum status s = STATUS_OK;

    for (int i = 0; i < m->config.layers && !s; i++) {
        s = ops_group_use(m->ops, m->layer[i].group);
        if (!s)
            s = sweep_layer(f, b, p, i);
        if (!s)
            s = ops_group_done(m->ops, m->layer[i].group);
    }
    return s;
}

/* --- The ends --------------------------------------------------------------------------------------------------- */

enum status forward_norm(struct pass *p, const struct tensor *weight, struct tensor *normed)
{
    const struct model *m = p->model;
    struct tensor x = tensor_rows(&p->hidden, 0, normed->dims[0]), delta = tensor_rows(&p->delta, 0, normed->dims[0]);
    struct ops_rmsnorm_args norm = {&x, &delta, weight, m->config.norm_eps, normed};

    return ops_rmsnorm(m->ops, &norm);
}

/* After a sweep: the batch's rows [first, first + count), which lie apart and have their sums. */
static enum status norm_swept(struct forward *f, int first, int count, struct tensor *normed)
{
    const struct model *m = f->model;
    int64_t D = m->config.hidden;
    enum status s = STATUS_OK;

    for (int i = 0, run; i < count && !s; i += run) {
        struct tensor x, y;
        struct ops_rmsnorm_args norm = {&x, NULL, &m->final_norm, m->config.norm_eps, &y};

        for (run = 1; i + run < count && f->place[first + i + run] == f->place[first + i] + run; run++)
            ;
        x = tensor_2d(DTYPE_F32, f->hidden + f->place[first + i] * D, run, D);
        y = tensor_rows(normed, i, run);
        s = ops_rmsnorm(m->ops, &norm);
    }
    return s;
}

/* Logits of the normed rows [first, first + count), left on the device. */
static enum status run_head(struct forward *f, const struct ops_weight *head, const struct tensor *normed, int first,
                            int count)
{
    struct tensor y = tensor_rows(normed, first, count);
    struct tensor out = tensor_2d(DTYPE_F32, f->logits, count, f->model->config.vocab);
    struct ops_linear_args linear = {.x = &y, .w = head, .y = &out};

    return ops_linear(f->model->ops, &linear);
}

enum status forward_head(struct forward *f, const struct ops_weight *head, const struct tensor *normed, int logit_rows)
{
    return logit_rows ? run_head(f, head, normed, 0, logit_rows) : STATUS_OK;
}

/* The head, and the best of its rows beside it. */
static enum status run_logits(struct forward *f, const struct tensor *normed, int rows)
{
    struct tensor logits = tensor_2d(DTYPE_F32, f->logits, rows, f->model->config.vocab);
    struct tensor best = tensor_1d(DTYPE_I32, f->best, rows), log_probability;
    struct ops_best_args choose = {&logits, &best, &log_probability};
    enum status s = forward_head(f, f->model->head, normed, rows);

    if (s || !f->best || !rows)
        return s;
    log_probability = tensor_1d(DTYPE_F32, f->best + rows, rows);
    return ops_best(f->model->ops, &choose);
}

/* The most probable tokens of `rows` rows of logits; `temperature` and their length are on their way to f->list. */
static enum status run_list(struct forward *f, int64_t rows)
{
    int64_t k = f->list_length;
    struct tensor logits = tensor_2d(DTYPE_F32, f->logits, rows, f->model->config.vocab);
    struct tensor temperature = tensor_1d(DTYPE_F32, f->list, rows),
                  length = tensor_1d(DTYPE_I32, f->list + rows, rows);
    struct tensor total = tensor_1d(DTYPE_F32, f->list + 2 * rows, rows);
    struct tensor selected = tensor_2d(DTYPE_I32, f->list + 3 * rows, rows, k);
    struct tensor values = tensor_2d(DTYPE_F32, f->list + (3 + k) * rows, rows, k);
    struct ops_shortlist_args args = {&logits, &selected, &temperature, &values, &total};
    enum status s = ops_topk(f->model->ops, &logits, &length, &selected);

    return s ? s : ops_shortlist(f->model->ops, &args);
}

static enum status take_lists(struct forward *f, const struct forward_batch *b)
{
    size_t R = (size_t)b->logit_rows, k = (size_t)f->list_length;
    const int32_t *back = f->host_list + 2 * R;
    struct ops *ops = f->model->ops;
    enum status s;

    for (size_t i = 0; i < R; i++) {
        float temperature = b->temperature[i] > 0 ? b->temperature[i] : 1;

        memcpy(f->host_list + i, &temperature, sizeof temperature);
        f->host_list[R + i] = f->model->config.vocab;
    }
    s = ops_upload_queued(ops, f->list, f->host_list, 2 * R * sizeof *f->list);
    if (!s)
        s = run_list(f, b->logit_rows);
    if (!s)
        s = ops_download(ops, f->host_list + 2 * R, f->list + 2 * R, (1 + 2 * k) * R * sizeof *f->list);
    for (size_t i = 0; i < R && !s; i++) {
        struct shortlist *list = &b->list[i];

        *list = (struct shortlist){.id = back + R + i * k,
                                   .logit = (const float *)(back + (1 + k) * R + i * k),
                                   .count = f->list_length,
                                   .best = b->best[i],
                                   .best_log_probability = b->best_log_probability[i]};
        memcpy(&list->total, back + i, sizeof list->total);
    }
    return s;
}

/* To the host: what was chosen, and the rows that somebody has to look at himself. */
static enum status take_results(struct forward *f, const struct forward_batch *b, float *logits)
{
    struct ops *ops = f->model->ops;
    size_t V = (size_t)f->model->config.vocab, rows = (size_t)b->logit_rows;
    enum status s = STATUS_OK;

    if (b->best && rows) {
        s = ops_download(ops, f->host_best, f->best, 2 * rows * sizeof *f->host_best);
        memcpy(b->best, f->host_best, rows * sizeof *b->best);
        memcpy(b->best_log_probability, f->host_best + rows, rows * sizeof *b->best_log_probability);
    }
    if (!s && b->temperature && rows)
        s = take_lists(f, b);
    for (size_t i = 0, run; i < rows && !s; i += run) {
        run = 1;
        if (b->row_wanted && !b->row_wanted[i])
            continue;
        while (i + run < rows && (!b->row_wanted || b->row_wanted[i + run]))
            run++;
        s = ops_download(ops, logits + i * V, f->logits + i * V, run * V * sizeof *logits);
    }
    return s;
}

enum status forward_take_logits(struct forward *f, int logit_rows, float *logits)
{
    size_t count = (size_t)logit_rows * (size_t)f->model->config.vocab;

    return ops_download(f->model->ops, logits, f->logits, count * sizeof *logits);
}

enum status forward_take_row(struct forward *f, int row, float *logits, struct error *err)
{
    size_t V = (size_t)f->model->config.vocab;
    enum status s = ops_download(f->model->ops, logits, f->logits + (size_t)row * V, V * sizeof *logits);

    if (!s)
        s = ops_sync(f->model->ops);
    return s ? error_set(err, s, "a row of logits cannot be read: %s", ops_last_error(f->model->ops)) : STATUS_OK;
}

/* The whole head runs for a mark, so that a mark is the difference of two logits to the bit; with one mark in some 25
 * tokens that is a hundredth of a prefill. Only the two numbers leave the device. */
static enum status run_marks(struct forward *f, const struct tensor *normed, const struct forward_batch *b)
{
    struct ops *ops = f->model->ops;
    int64_t vocab = f->model->config.vocab;
    bool swept = b->rows > f->max_rows;
    enum status s = STATUS_OK;

    for (int done = 0, count; done < b->mark_rows && !s; done += count) {
        float pair[MAX_MARK_ROWS][2];
        int first = b->logit_rows + done;

        count = b->mark_rows - done < f->max_logit_rows ? b->mark_rows - done : f->max_logit_rows;
        count = count < MAX_MARK_ROWS ? count : MAX_MARK_ROWS;
        if (swept) {
            struct tensor few = tensor_2d(DTYPE_F32, f->normed, count, f->model->config.hidden);

            s = norm_swept(f, first, count, &few);
            if (!s)
                s = run_head(f, f->model->head, &few, 0, count);
        } else {
            s = run_head(f, f->model->head, normed, first, count);
        }
        for (int i = 0; i < 2 * count && !s; i++)
            s = ops_download(ops, &pair[i / 2][i % 2],
                             f->logits + i / 2 * vocab + b->mark_pair[done + i / 2][i % 2], sizeof(float));
        if (!s)
            s = ops_sync(ops);
        for (int i = 0; i < count && !s; i++)
            b->mark[done + i] = pair[i][0] - pair[i][1];
    }
    return s;
}

/* --- The pass -------------------------------------------------------------------------------------------------- */

/* A decode step on a device: every row wants its logits and nothing else. Its launches are recorded, once for each
 * number of rows and each width of the page table; so that there are few widths, tables are widened in steps, and what
 * the host tells kernels of the rows' lengths is the table's whole width, recorded or not. */
static bool is_decode_step(const struct forward *f, const struct forward_batch *b)
{
    return f->recordings && !b->trace && !b->mark_rows && b->logit_rows == b->rows && b->rows <= f->max_rows;
}

/* At most an eighth wider, and at least by 4 pages. */
static int widened(int pages)
{
    int step = 4;

    while (step < pages / 8)
        step *= 2;
    return (pages + step - 1) / step * step;
}

/* The rows that a norm follows, and where it goes: drafting needs the last hidden state of every row (mtp.c), else only
 * the rows that become logits do. */
static struct tensor last_rows(const struct forward *f, const struct forward_batch *b)
{
    const struct model_config *c = &f->model->config;

    return tensor_2d(DTYPE_F32, c->mtp ? f->last_hidden : f->normed, c->mtp ? b->rows : b->logit_rows + b->mark_rows,
                     c->hidden);
}

/* Everything between the rows' arrival and the logits on the device. */
static enum status run_whole(void *context)
{
    struct whole_pass *w = context;
    struct tensor last = last_rows(w->forward, w->batch);
    enum status s = run_layers(w->pass);

    if (!s && last.dims[0])
        s = forward_norm(w->pass, &w->forward->model->final_norm, &last);
    return s ? s : run_logits(w->forward, &last, w->batch->logit_rows);
}

static enum status run_sweep(struct forward *f, const struct forward_batch *b, struct pass *p)
{
    struct tensor last = tensor_2d(DTYPE_F32, f->normed, b->logit_rows, f->model->config.hidden);
    enum status s = sweep(f, b, p);

    if (!s)
        s = norm_swept(f, 0, b->logit_rows, &last);
    return s ? s : run_logits(f, &last, b->logit_rows);
}

enum status forward_begin(struct forward *f, const struct forward_batch *b, struct pass *p)
{
    enum status s;

    assert(b->rows > 0 && b->rows <= f->max_rows && b->logit_rows + b->mark_rows <= b->rows &&
           b->logit_rows <= f->max_logit_rows);
    *p = (struct pass){.model = f->model, .cache = f->cache, .trace = b->trace};
    s = send_rows(f, b, b->pages);
    if (s)
        return s;
    name_rows(f, b, b->pages, p);
    make_views(f, p, 0, b->rows, seen_by(f, b, 0, b->rows));
    return STATUS_OK;
}

static enum status run_decode(struct forward *f, const struct forward_batch *b, struct pass *p)
{
    int stride = widened(b->pages);
    struct recording_key key = {.rows = b->rows, .sequences = b->sequences, .pages = stride};
    enum status s = send_rows(f, b, stride);

    if (s)
        return s;
    name_rows(f, b, stride, p);
    make_views(f, p, 0, b->rows, seen_by(f, b, 0, b->rows));
    p->rows.visible_max = stride * CACHE_PAGE_TOKENS; /* p->sparse stays what the rows ask for */
    key.sparse = p->sparse;
    return recordings_run(f->recordings, &key, f->model->streamed_layers == 0, run_whole,
                          &(struct whole_pass){f, p, b});
}

static enum status run_swept(struct forward *f, const struct forward_batch *b, struct pass *p)
{
    enum status s;

    assert(b->rows <= f->max_sweep_rows && !b->trace && !f->model->config.mtp);
    order_sweep(f, b);
    s = send_rows(f, b, b->pages);
    if (s)
        return s;
    name_rows(f, b, b->pages, p);
    return run_sweep(f, b, p);
}

enum status forward_run(struct forward *f, const struct forward_batch *b, float *logits, struct error *err)
{
    const struct model *m = f->model;
    struct pass p = {.model = m, .cache = f->cache, .trace = b->trace};
    struct tensor last = last_rows(f, b);
    enum status s;

    if (b->rows > f->max_rows) {
        s = run_swept(f, b, &p);
    } else if (is_decode_step(f, b)) {
        s = run_decode(f, b, &p);
    } else {
        s = forward_begin(f, b, &p);
        if (!s)
            s = run_whole(&(struct whole_pass){f, &p, b});
    }
    if (!s)
        s = take_results(f, b, logits);
    if (!s)
        s = run_marks(f, &last, b);
    if (!s)
        s = ops_sync(m->ops);
    if (s)
        return error_set(err, s, "forward pass of %d rows failed: %s", b->rows, ops_last_error(m->ops));
    return STATUS_OK;
}

/* --- Rehearsal --------------------------------------------------------------------------------------------------- */

static enum status rehearse_rows(struct forward *f, int rows, int pages, bool sparse)
{
    struct forward_batch b = {.rows = rows, .sequences = 1, .pages = pages};
    struct pass p = {.model = f->model, .cache = f->cache};
    enum status s;

    b.logit_rows = rows < f->max_logit_rows ? rows : f->max_logit_rows;
    name_rows(f, &b, pages, &p);
    make_views(f, &p, 0, rows, pages * CACHE_PAGE_TOKENS);
    p.sparse = sparse && f->model->config.index_topk;
    s = run_whole(&(struct whole_pass){f, &p, &b});
    if (!s && f->list)
        s = run_list(f, b.logit_rows);
    if (!s && f->model->config.mtp)
        s = forward_layer(&p, f->model->config.layers, NULL);
    return s;
}

enum status forward_rehearse(struct forward *f, struct error *err)
{
    struct ops *ops = f->model->ops;
    int pages = widened((int)((f->model->config.window + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS));
    enum status s = STATUS_OK;

    if (ops_is_host(ops))
        return STATUS_OK;
    ops_rehearsal_begin(ops);
    for (int rows = 1; !s; rows *= 2) { /* plans of few rows may take more than those of many */
        int T = rows < f->max_rows ? rows : f->max_rows;

        s = rehearse_rows(f, T, pages, false);
        if (!s)
            s = rehearse_rows(f, T, pages, true);
        if (T == f->max_rows)
            break;
    }
    ops_rehearsal_end(ops);
    return s ? error_set(err, s, "passes of %d rows over %lld positions are not possible: %s", f->max_rows,
                         (long long)f->model->config.window, ops_last_error(ops))
             : STATUS_OK;
}

void forward_get_stats(const struct forward *f, struct forward_stats *stats)
{
    *stats = (struct forward_stats){0};
    if (f->recordings)
        recordings_get_stats(f->recordings, stats);
}

void forward_set_recording(struct forward *f, bool on)
{
    if (f->recordings)
        recordings_enable(f->recordings, on);
}
