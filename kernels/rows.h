/* kernels/rows.h: addresses inside tensors and caches, for the host backends. */
#ifndef KERNELS_ROWS_H
#define KERNELS_ROWS_H

#include "kernels/ops.h"

static inline float *row_f32(const struct tensor *tensor, int64_t i)
{
    return (float *)tensor->data + i * tensor->strides[0];
}

static inline float *row2_f32(const struct tensor *tensor, int64_t i, int64_t j)
{
    return (float *)tensor->data + i * tensor->strides[0] + j * tensor->strides[1];
}

static inline int32_t *row_i32(const struct tensor *tensor, int64_t i)
{
    return (int32_t *)tensor->data + i * tensor->strides[0];
}

/* The number of positions row t may see, and the place (page * 64 + offset) of one of them. */
static inline int32_t rows_visible(const struct ops_rows *rows, int64_t t)
{
    return *row_i32(rows->visible, t);
}

static inline const int32_t *rows_pages(const struct ops_rows *rows, int64_t t)
{
    return row_i32(rows->page_table, *row_i32(rows->sequence, t));
}

static inline uint8_t *pool_page(const struct tensor *pool, int32_t page)
{
    return (uint8_t *)pool->data + page * pool->strides[0];
}

/* The latent record of one token; pool U8 [pages, 64, record_bytes]. */
static inline uint8_t *pool_record(const struct tensor *pool, int32_t page, int32_t offset)
{
    return pool_page(pool, page) + offset * pool->strides[1];
}

/* The record of position s of a sequence whose pages are `pages`. */
static inline uint8_t *sequence_record(const struct tensor *pool, const int32_t *pages, int32_t s)
{
    return pool_record(pool, pages[s / CACHE_PAGE_TOKENS], s % CACHE_PAGE_TOKENS);
}

#endif
