/* test_fp8.c: the small number formats, against a search for the nearest value. */
#include "kernels/fp8.h"

#include <math.h>

#include "tests/harness/check.h"

/* The value of a code from its fields, by the definition. */
static double e4m3_value(int code)
{
    int exponent = code >> 3 & 15, mantissa = code & 7;
    double magnitude = exponent ? ldexp(1 + mantissa / 8.0, exponent - 7) : ldexp(mantissa / 8.0, -6);

    return code & 0x80 ? -magnitude : magnitude;
}

TEST(e4m3_decodes_every_code)
{
    for (int code = 0; code < 256; code++)
        if ((code & 0x7f) == 0x7f)
            CHECK(isnan(f32_from_e4m3((uint8_t)code)));
        else
            CHECK_NEAR(f32_from_e4m3((uint8_t)code), e4m3_value(code), 0);
    CHECK(signbit(f32_from_e4m3(0x80)));
}

TEST(e4m3_encodes_every_value_midpoint_and_neighbour)
{
    for (int code = 0; code < 0x7e; code++) {
        double low = e4m3_value(code), high = e4m3_value(code + 1);
        float middle = (float)((low + high) / 2);
        int even = code & 1 ? code + 1 : code;

        CHECK_EQ_INT(e4m3_from_f32((float)low), code);
        CHECK_EQ_INT(e4m3_from_f32(middle), even);
        CHECK_EQ_INT(e4m3_from_f32(nextafterf(middle, 0)), code);
        CHECK_EQ_INT(e4m3_from_f32(nextafterf(middle, INFINITY)), code + 1);
        CHECK_EQ_INT(e4m3_from_f32(-middle), even | 0x80);
    }
}

TEST(e4m3_saturates_and_keeps_nan)
{
    CHECK_EQ_INT(e4m3_from_f32(448), 0x7e);
    CHECK_EQ_INT(e4m3_from_f32(1e30f), 0x7e);
    CHECK_EQ_INT(e4m3_from_f32(-INFINITY), 0xfe);
    CHECK_EQ_INT(e4m3_from_f32(NAN) & 0x7f, 0x7f);
    CHECK_EQ_INT(e4m3_from_f32(-0.0f), 0x80);
    CHECK_EQ_INT(e4m3_from_f32(1e-40f), 0);
}

TEST(bf16_rounds_to_nearest_even_and_has_no_subnormals)
{
    for (int i = 0; i < 100000; i++) {
        uint32_t bits = (uint32_t)check_random();
        float value = f32_from_bits(bits), below, above;
        uint16_t code = bf16_from_f32(value);

        if (isnan(value)) {
            CHECK(isnan(f32_from_bf16(code)));
            continue;
        }
        if (fabsf(value) < 0x1p-126f || !isfinite(f32_from_bf16(code)))
            continue;
        below = f32_from_bits(bits & 0xffff0000u);
        above = f32_from_bits((bits & 0xffff0000u) + 0x10000u);
        CHECK(f32_from_bf16(code) == below || f32_from_bf16(code) == above);
        CHECK(fabs((double)f32_from_bf16(code) - value) <=
              fmin(fabs((double)below - value), fabs((double)above - value)));
        if (fabs((double)below - value) == fabs((double)above - value))
            CHECK_EQ_INT(code & 1, 0);
    }
    CHECK_EQ_INT(bf16_from_f32(-1e-39f), 0x8000);
    CHECK_EQ_INT(bf16_from_f32(INFINITY), 0x7f80);
    CHECK_EQ_INT(bf16_from_f32(3.4e38f), 0x7f80);
}

TEST(scale_is_the_smallest_power_of_two_that_fits)
{
    for (int e = -10; e < 100; e++) {
        float exact = ldexpf(448, e);

        CHECK_NEAR(scale_ue8m0(exact), ldexp(1, e), 0);
        CHECK_NEAR(scale_ue8m0(nextafterf(exact, INFINITY)), ldexp(1, e + 1), 0);
        CHECK_NEAR(scale_ue8m0(nextafterf(exact, 0)), ldexp(1, e), 0);
    }
    CHECK_NEAR(scale_ue8m0(0), 0x1p-22, 0);
    CHECK_NEAR(scale_ue8m0(1e-5f), 0x1p-22, 0);
}

TEST(quantise_takes_one_scale_and_never_saturates)
{
    float values[FP8_GROUP];
    uint8_t codes[FP8_GROUP];

    for (int round = 0; round < 200; round++) {
        float scale;

        for (int i = 0; i < FP8_GROUP; i++)
            values[i] = (float)(check_random_normal() * ldexp(1, round % 40 - 20));
        scale = quantise_e4m3(values, FP8_GROUP, codes);
        for (int i = 0; i < FP8_GROUP; i++) {
            double back = (double)f32_from_e4m3(codes[i]) * scale;

            CHECK_NEAR(back, values[i], fmax(fabs((double)values[i]) / 16, scale * 0x1p-10));
        }
    }
}
