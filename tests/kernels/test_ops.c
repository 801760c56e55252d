/* test_ops.c: the front: what it refuses, and that a refused call touches nothing. */
#include "kernels/ops.h"

#include <math.h>
#include <string.h>

#include "tests/harness/check.h"

static struct ops *open_ref(void)
{
    struct ops *ops = NULL;
    struct error error = {0}, *err = &error;

    CHECK_OK(ops_open(&(struct ops_options){.backend = "ref"}, &ops, err), err);
    CHECK_EQ_STR(ops_backend_name(ops), "ref");
    CHECK_EQ_STR(ops_last_error(ops), "");
    return ops;
}

TEST(unknown_backends_are_refused_by_name)
{
    struct ops *ops = NULL;
    struct error err = {0};

    CHECK_STATUS(ops_open(&(struct ops_options){.backend = "../evil"}, &ops, &err), STATUS_UNSUPPORTED);
    CHECK_STATUS(ops_open(&(struct ops_options){.backend = "nothing", .plugin_dir = "/nonexistent"}, &ops, &err),
                 STATUS_UNSUPPORTED);
    CHECK(strstr(err.message, "backend 'nothing'") != NULL);
    CHECK(ops == NULL);
}

TEST(a_call_of_wrong_shape_is_named_and_touches_nothing)
{
    struct ops *ops = open_ref();
    float x[6] = {1, 2, 3, 4, 5, 6}, w[3] = {1, 1, 1}, y[6] = {7, 7, 7, 7, 7, 7};
    struct tensor tx = tensor_2d(DTYPE_F32, x, 2, 3), tw = tensor_1d(DTYPE_F32, w, 2);
    struct tensor ty = tensor_2d(DTYPE_F32, y, 2, 3);
    struct ops_rmsnorm_args args = {.x = &tx, .weight = &tw, .eps = 1e-6f, .y = &ty};

    CHECK_STATUS(ops_rmsnorm(ops, &args), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), "rmsnorm: weight is f32 [2], wanted f32 [3]");
    CHECK_NEAR(y[0], 7, 0);
    tw = tensor_1d(DTYPE_BF16, w, 3);
    CHECK_STATUS(ops_rmsnorm(ops, &args), STATUS_BUG);
    tw = tensor_1d(DTYPE_F32, w, 3);
    tx.strides[1] = 2;
    CHECK_STATUS(ops_rmsnorm(ops, &args), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), "rmsnorm: x: the last stride is 2, wanted 1");
    args.x = NULL;
    CHECK_STATUS(ops_rmsnorm(ops, &args), STATUS_BUG);
    CHECK_NEAR(y[5], 7, 0);
    ops_close(ops);
}

/* Per head and in attention BF16 is for backends that ask for it, in 2-D products and sums for none. */
TEST(bf16_between_products_and_attention_is_refused_by_backends_that_work_in_f32)
{
    struct ops *ops = open_ref();
    struct cache_shape v32 = {.Dv = 512, .Dr = 64, .numerics = NUMERICS_FP8};
    struct cache_shape small = {.Dv = 4, .numerics = NUMERICS_FP8};
    uint16_t w[4] = {0}, halves[4] = {0};
    uint8_t pool[64 * 8] = {0};
    float floats[4] = {7, 7, 7, 7};
    struct tensor tx = tensor_3d(DTYPE_BF16, halves, 1, 1, 4), ty = tensor_3d(DTYPE_F32, floats, 1, 1, 1);
    struct tensor q_pe = tensor_3d(DTYPE_F32, floats, 1, 1, 0);
    struct tensor tpool = tensor_3d(DTYPE_U8, pool, 1, 64, (int64_t)cache_record_bytes(&small));
    struct ops_weight_args weight_args = {.w = tensor_3d(DTYPE_BF16, w, 1, 1, 4), .numerics = NUMERICS_FP8};
    struct ops_linear_args linear = {.x = &tx, .y = &ty};
    struct ops_attention_args attention = {.q_latent = &tx, .q_pe = &q_pe, .shape = small, .pool = &tpool, .out = &tx};
    struct ops_weight *weight = NULL;

    CHECK(ops_latent_dtype(ops, &v32) == DTYPE_F32);
    CHECK_OK(ops_weight_create(ops, &weight_args, &weight), (struct error *)NULL);
    linear.w = weight;
    CHECK_STATUS(ops_linear(ops, &linear), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), "linear: x is bf16 [1, 1, 4], wanted f32 [any, 1, 4]");
    tx = tensor_3d(DTYPE_F32, floats, 1, 1, 4);
    ty = tensor_3d(DTYPE_BF16, halves, 1, 1, 1);
    CHECK_STATUS(ops_linear(ops, &linear), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), "linear: y is bf16 [1, 1, 1], wanted f32 [1, 1, 1]");
    tx = tensor_3d(DTYPE_BF16, halves, 1, 1, 4);
    CHECK_STATUS(ops_attention(ops, &attention), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), "attention: q_latent is bf16 [1, 1, 4], wanted f32 [any, any, 4]");
    CHECK_NEAR(floats[0], 7, 0);
    ops_weight_destroy(ops, weight);
    ops_close(ops);
}

static struct ops_weight *weight_of(struct ops *ops, struct tensor w)
{
    struct ops_weight_args args = {.w = w, .numerics = NUMERICS_FP8};
    struct ops_weight *weight = NULL;

    CHECK_OK(ops_weight_create(ops, &args, &weight), (struct error *)NULL);
    return weight;
}

TEST(a_pair_of_products_hands_on_heads_side_by_side)
{
    struct ops *ops = open_ref();
    float x[2] = {3, 5}, w[4] = {1, 2, 10, 20}, between[6] = {0}, sum[4] = {1, 1, 1, 1}, y[1] = {7};
    struct tensor tx = tensor_3d(DTYPE_F32, x, 1, 2, 1), heads = tensor_3d(DTYPE_F32, between, 1, 2, 2);
    struct tensor flat = tensor_2d(DTYPE_F32, between, 1, 4), ty = tensor_2d(DTYPE_F32, y, 1, 1);
    struct ops_weight *per_head = weight_of(ops, tensor_3d(DTYPE_F32, w, 2, 2, 1));
    struct ops_weight *all = weight_of(ops, tensor_2d(DTYPE_F32, sum, 1, 4));
    struct ops_linear_args first = {&tx, per_head, &heads, false}, second = {&flat, all, &ty, false};
    const char *apart = "linear_pair: the second's x is not the first's y, heads side by side";

    CHECK_STATUS(ops_linear_pair(ops, &second, &second), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), "linear_pair: the first product is not per head, or the second is");
    CHECK_STATUS(ops_linear_pair(ops, &first, &first), STATUS_BUG);
    first.accumulate = true;
    CHECK_STATUS(ops_linear_pair(ops, &first, &second), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), "linear_pair: the first product is added to what is there");
    first.accumulate = false;
    flat.data = between + 1; /* elsewhere */
    CHECK_STATUS(ops_linear_pair(ops, &first, &second), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), apart);
    flat.data = between;
    heads.strides[1] = 3; /* a gap between heads */
    CHECK_STATUS(ops_linear_pair(ops, &first, &second), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), apart);
    heads.strides[1] = 2;
    flat = tensor_2d(DTYPE_F32, between, 1, 3); /* a head is cut */
    CHECK_STATUS(ops_linear_pair(ops, &first, &second), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), "linear: x is f32 [1, 3], wanted f32 [any, 4]");
    flat = tensor_2d(DTYPE_F32, between, 1, 4);
    CHECK_NEAR(y[0], 7, 0);
    CHECK_OK(ops_linear_pair(ops, &first, &second), (struct error *)NULL);
    CHECK_NEAR(y[0], 3 + 6 + 50 + 100, 0);
    ops_weight_destroy(ops, per_head);
    ops_weight_destroy(ops, all);
    ops_close(ops);
}

TEST(a_norm_with_products_is_checked_as_both)
{
    struct ops *ops = open_ref();
    float x[4] = {2, 2, 2, 2}, one[4] = {1, 1, 1, 1}, normed[4] = {7, 7, 7, 7}, y[1] = {7};
    struct tensor tx = tensor_2d(DTYPE_F32, x, 1, 4), weight = tensor_1d(DTYPE_F32, one, 4);
    struct tensor tn = tensor_2d(DTYPE_F32, normed, 1, 4), same = tn, ty = tensor_2d(DTYPE_F32, y, 1, 1);
    struct ops_weight *w = weight_of(ops, tensor_2d(DTYPE_F32, one, 1, 4));
    struct ops_rmsnorm_args norm = {.x = &tx, .weight = &weight, .eps = 0, .y = &tn};
    struct ops_linear_args product = {&same, w, &ty, false};

    CHECK_STATUS(ops_norm_linears(ops, &norm, &product, 1), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), "norm_linears: the products' x is not the norm's y");
    product.x = &tn;
    CHECK_STATUS(ops_norm_linears(ops, &norm, &product, 0), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), "linears: 0 products");
    weight = tensor_1d(DTYPE_F32, one, 3);
    CHECK_STATUS(ops_norm_linears(ops, &norm, &product, 1), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), "rmsnorm: weight is f32 [3], wanted f32 [4]");
    weight = tensor_1d(DTYPE_F32, one, 4);
    CHECK_NEAR(normed[0], 7, 0);
    CHECK_OK(ops_norm_linears(ops, &norm, &product, 1), (struct error *)NULL);
    CHECK_NEAR(normed[0], 1, 1e-6);
    CHECK_NEAR(y[0], 4, 1e-6);
    ops_weight_destroy(ops, w);
    ops_close(ops);
}

TEST(indices_outside_their_range_are_refused_on_the_host)
{
    struct ops *ops = open_ref();
    float table[8] = {0}, y[4] = {0};
    int32_t tokens[2] = {1, 2}, slots[1] = {64};
    uint8_t pool[64 * (4 + 4 + 4)] = {0};
    struct tensor ttable = tensor_2d(DTYPE_F32, table, 2, 2), ttokens = tensor_1d(DTYPE_I32, tokens, 2);
    struct tensor ty = tensor_2d(DTYPE_F32, y, 2, 2);
    struct cache_shape shape = {.Dv = 4, .Dr = 2, .numerics = NUMERICS_FP8};
    struct tensor tpool = tensor_3d(DTYPE_U8, pool, 1, 64, (int64_t)cache_record_bytes(&shape));
    struct tensor tslots = tensor_1d(DTYPE_I32, slots, 1), c = tensor_2d(DTYPE_F32, table, 1, 4);
    struct tensor k_pe = tensor_2d(DTYPE_F32, table, 1, 2);
    struct ops_rows rows = {.slot = &tslots};

    CHECK_EQ_INT(cache_record_bytes(&shape), 12);
    CHECK_STATUS(ops_embed(ops, &(struct ops_embed_args){&ttable, &ttokens, &ty}), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), "embed: tokens[1] is 2, outside 0..1");
    CHECK_STATUS(ops_latent_write(ops,
                                  &(struct ops_latent_write_args){
                                      .c = &c, .k_pe = &k_pe, .rows = &rows, .shape = shape, .pool = &tpool}),
                 STATUS_BUG);
    slots[0] = 63;
    CHECK_OK(ops_latent_write(ops,
                              &(struct ops_latent_write_args){
                                  .c = &c, .k_pe = &k_pe, .rows = &rows, .shape = shape, .pool = &tpool}),
             (struct error *)NULL);
    ops_close(ops);
}

TEST(rotations_on_the_way_into_a_cache_are_checked)
{
    struct ops *ops = open_ref();
    float values[64] = {0};
    int32_t slots[1] = {3}, positions[1] = {2};
    uint8_t pool[64 * 16] = {0};
    struct tensor table = tensor_2d(DTYPE_F32, values, 2, 4), position = tensor_1d(DTYPE_I32, positions, 1);
    struct tensor slot = tensor_1d(DTYPE_I32, slots, 1), k = tensor_2d(DTYPE_F32, values, 1, 6);
    struct tensor norm = tensor_1d(DTYPE_F32, values, 6);
    struct ops_rows rows = {.slot = &slot};
    struct ops_index_write_args args = {.k = &k, .rows = &rows, .shape = {.Di = 6, .numerics = NUMERICS_FP8}};
    struct tensor tpool = tensor_2d(DTYPE_U8, pool, 1, (int64_t)cache_index_page_bytes(&args.shape));

    args.pool = &tpool;
    args.rope = (struct ops_rotation){&table, &position, ROPE_HALF_SPLIT};
    CHECK_STATUS(ops_index_write(ops, &args), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), "index_write: rope.position[0] is 2, outside 0..1");
    positions[0] = 1;
    args.hadamard = true;
    CHECK_STATUS(ops_index_write(ops, &args), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), "index_write: Di is 6, not a power of two up to 4096");
    args.hadamard = false;
    args.norm = &norm; /* without its bias */
    CHECK_STATUS(ops_index_write(ops, &args), STATUS_BUG);
    args.norm = NULL;
    table = tensor_2d(DTYPE_F32, values, 2, 8);
    CHECK_STATUS(ops_index_write(ops, &args), STATUS_BUG);
    CHECK_EQ_STR(ops_last_error(ops), "index_write: 8 of 6 values cannot be rotated");
    table = tensor_2d(DTYPE_F32, values, 2, 4);
    CHECK_STATUS(ops_index_write(ops, &args), STATUS_OK);
    ops_close(ops);
}

TEST(cache_sizes_are_those_of_the_published_layouts)
{
    struct cache_shape v32 = {.Dv = 512, .Dr = 64, .Di = 128, .numerics = NUMERICS_FP8};

    CHECK_EQ_INT(cache_record_bytes(&v32), 656);
    CHECK_EQ_INT(cache_index_page_bytes(&v32), 64 * 132);
    v32.numerics = NUMERICS_PLAIN;
    CHECK_EQ_INT(cache_record_bytes(&v32), 4 * 576);
    CHECK_EQ_INT(cache_index_page_bytes(&v32), 64 * 4 * 128);
}

TEST(views_share_memory_and_keep_strides)
{
    float data[24];
    struct tensor all = tensor_3d(DTYPE_F32, data, 2, 3, 4), rows = tensor_rows(&all, 1, 1);
    struct tensor columns = tensor_columns(&all, 1, 2);

    CHECK(tensor_is_contiguous(&all));
    CHECK(tensor_is_contiguous(&rows));
    CHECK(!tensor_is_contiguous(&columns));
    CHECK(rows.data == data + 12);
    CHECK(columns.data == data + 1);
    CHECK_EQ_INT(tensor_count(&columns), 12);
    CHECK_EQ_INT(columns.strides[1], 4);
}
