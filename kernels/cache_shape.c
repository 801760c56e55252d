/* cache_shape.c: the sizes of both caches' layouts (ops.h draws them). Linked into plug-ins as well. */
#include "kernels/fp8.h"
#include "kernels/ops.h"

size_t cache_record_bytes(const struct cache_shape *shape)
{
    size_t Dv = (size_t)shape->Dv, Dr = (size_t)shape->Dr;

    if (shape->numerics == NUMERICS_PLAIN)
        return 4 * (Dv + Dr);
    return Dv + 4 * ((Dv + FP8_SCALE_BLOCK - 1) / FP8_SCALE_BLOCK) + 2 * Dr;
}

size_t cache_index_page_bytes(const struct cache_shape *shape)
{
    size_t Di = (size_t)shape->Di;

    return shape->numerics == NUMERICS_PLAIN ? CACHE_PAGE_TOKENS * 4 * Di : CACHE_PAGE_TOKENS * (Di + 4);
}
