/* quantize_matrix.c: one matrix to e4m3 codes with a scale for each 128 x 128 block.
 *
 * Threads take bands of 128 rows; each band's sums are kept apart and added in order, so that the figures reported do
 * not depend on how many threads there are. */
#include "tools/quantize.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "kernels/fp8.h"

enum { BLOCK = 128, MAX_THREADS = 256 };

struct band_sums {
    double squared_error, squared_sum, largest_error;
    bool not_finite;
};

struct work {
    struct quantize_matrix *matrix;
    struct band_sums *sums;
    int64_t bands;
    atomic_llong next;
};

static float value_at(const struct tensor *source, int64_t i)
{
    return source->dtype == DTYPE_F32 ? ((const float *)source->data)[i]
                                      : f32_from_bf16(((const uint16_t *)source->data)[i]);
}

/* A block's scale: its largest magnitude comes to at most 448. An all-zero block has scale 1. */
static float block_scale(float amax, bool float_scales)
{
    int exponent;
    float scale;

    if (amax == 0)
        return 1;
    scale = amax / E4M3_MAX;
    if (scale < 0x1p-126f) /* a subnormal scale would not be exact to divide by */
        return 0x1p-126f;
    if (float_scales)
        return scale;
    return frexpf(scale, &exponent) == 0.5f ? scale : ldexpf(1, exponent);
}

static void quantize_block(struct quantize_matrix *m, int64_t row, int64_t column, struct band_sums *sums)
{
    int64_t rows = m->source->dims[0], columns = m->source->dims[1];
    int64_t row_end = row + BLOCK < rows ? row + BLOCK : rows;
    int64_t column_end = column + BLOCK < columns ? column + BLOCK : columns;
    float amax = 0, scale;

    for (int64_t r = row; r < row_end; r++) {
        for (int64_t c = column; c < column_end; c++) {
            float magnitude = fabsf(value_at(m->source, r * columns + c));

            if (!(magnitude <= 3.402823466e38f))
                sums->not_finite = true;
            amax = magnitude > amax ? magnitude : amax;
        }
    }
    scale = block_scale(amax, m->float_scales);
    m->scales[row / BLOCK * ((columns + BLOCK - 1) / BLOCK) + column / BLOCK] = scale;
    for (int64_t r = row; r < row_end; r++) {
        for (int64_t c = column; c < column_end; c++) {
            float value = value_at(m->source, r * columns + c);
            uint8_t code = e4m3_from_f32(value / scale);
            double error = (double)value - (double)f32_from_e4m3(code) * (double)scale;

            m->codes[r * columns + c] = code;
            sums->squared_error += error * error;
            sums->squared_sum += (double)value * (double)value;
            sums->largest_error = fabs(error) > sums->largest_error ? fabs(error) : sums->largest_error;
        }
    }
}

static void *quantize_bands(void *context)
{
    struct work *work = context;
    long long band;

    while ((band = atomic_fetch_add(&work->next, 1)) < work->bands) {
        for (int64_t column = 0; column < work->matrix->source->dims[1]; column += BLOCK)
            quantize_block(work->matrix, band * BLOCK, column, &work->sums[band]);
    }
    return NULL;
}

enum status quantize_matrix(struct quantize_matrix *matrix, int threads)
{
    struct work work = {.matrix = matrix, .bands = (matrix->source->dims[0] + BLOCK - 1) / BLOCK};
    pthread_t others[MAX_THREADS];
    enum status status = STATUS_OK;
    int started = 0;

    work.sums = calloc((size_t)work.bands + 1, sizeof *work.sums);
    if (!work.sums)
        return STATUS_NO_MEMORY;
    while (started < threads - 1 && started < MAX_THREADS && started + 1 < work.bands) {
        if (pthread_create(&others[started], NULL, quantize_bands, &work))
            break; /* fewer threads do the same work */
        started++;
    }
    (void)quantize_bands(&work);
    for (int i = 0; i < started; i++)
        (void)pthread_join(others[i], NULL);
    matrix->squared_error = matrix->squared_sum = matrix->largest_error = 0;
    for (int64_t band = 0; band < work.bands; band++) {
        if (work.sums[band].not_finite)
            status = STATUS_BAD_INPUT;
        matrix->squared_error += work.sums[band].squared_error;
        matrix->squared_sum += work.sums[band].squared_sum;
        if (work.sums[band].largest_error > matrix->largest_error)
            matrix->largest_error = work.sums[band].largest_error;
    }
    free(work.sums);
    return status;
}
