/* Vector instructions from MMX to SSE4.2 through intrinsics; each group's results are digested. */
#include "common.h"
#include <mmintrin.h>
#include <nmmintrin.h>

#define V2 __attribute__((target("sse4.2"), noinline)) static

static __m128i next_vector(void)
{
    u64 parts[2] = {next_random(), next_random()};
    u64 choice = next_random();
    if (choice & 1)
        parts[0] = next_operand();
    if (choice & 2)
        parts[1] &= 0x80FF7F0080FF7F00;
    return _mm_loadu_si128((void *)parts);
}

#define PUT(value) do { __m128i put = (value); digest_bytes(&digest, &put, 16); } while (0)
#define PUT_PS(value) PUT(_mm_castps_si128(value))
#define PUT_PD(value) PUT(_mm_castpd_si128(value))

V2 void integers(__m128i a, __m128i b, Digest *out)
{
    Digest digest = *out;
    PUT(_mm_add_epi8(a, b)); PUT(_mm_add_epi16(a, b)); PUT(_mm_add_epi32(a, b)); PUT(_mm_add_epi64(a, b));
    PUT(_mm_sub_epi8(a, b)); PUT(_mm_sub_epi16(a, b)); PUT(_mm_sub_epi32(a, b)); PUT(_mm_sub_epi64(a, b));
    PUT(_mm_adds_epi8(a, b)); PUT(_mm_adds_epi16(a, b)); PUT(_mm_adds_epu8(a, b)); PUT(_mm_adds_epu16(a, b));
    PUT(_mm_subs_epi8(a, b)); PUT(_mm_subs_epi16(a, b)); PUT(_mm_subs_epu8(a, b)); PUT(_mm_subs_epu16(a, b));
    PUT(_mm_mullo_epi16(a, b)); PUT(_mm_mulhi_epi16(a, b)); PUT(_mm_mulhi_epu16(a, b)); PUT(_mm_mul_epu32(a, b));
    PUT(_mm_madd_epi16(a, b)); PUT(_mm_sad_epu8(a, b)); PUT(_mm_avg_epu8(a, b)); PUT(_mm_avg_epu16(a, b));
    PUT(_mm_min_epu8(a, b)); PUT(_mm_max_epu8(a, b)); PUT(_mm_min_epi16(a, b)); PUT(_mm_max_epi16(a, b));
    PUT(_mm_and_si128(a, b)); PUT(_mm_or_si128(a, b)); PUT(_mm_xor_si128(a, b)); PUT(_mm_andnot_si128(a, b));
    PUT(_mm_cmpeq_epi8(a, b)); PUT(_mm_cmpeq_epi16(a, b)); PUT(_mm_cmpeq_epi32(a, b)); PUT(_mm_cmpgt_epi8(a, b));
    PUT(_mm_cmpgt_epi16(a, b)); PUT(_mm_cmpgt_epi32(a, b));
    PUT(_mm_packs_epi16(a, b)); PUT(_mm_packs_epi32(a, b)); PUT(_mm_packus_epi16(a, b));
    PUT(_mm_unpacklo_epi8(a, b)); PUT(_mm_unpackhi_epi8(a, b)); PUT(_mm_unpacklo_epi16(a, b));
    PUT(_mm_unpackhi_epi16(a, b)); PUT(_mm_unpacklo_epi32(a, b)); PUT(_mm_unpackhi_epi32(a, b));
    PUT(_mm_unpacklo_epi64(a, b)); PUT(_mm_unpackhi_epi64(a, b));
    PUT(_mm_shuffle_epi32(a, 0x1B)); PUT(_mm_shufflelo_epi16(a, 0x93)); PUT(_mm_shufflehi_epi16(a, 0x39));
    digest_u64(&digest, (u64)_mm_movemask_epi8(a));
    *out = digest;
}

V2 void shifts(__m128i a, __m128i b, Digest *out)
{
    Digest digest = *out;
    __m128i count = _mm_and_si128(b, _mm_set_epi64x(-1, 0x47));
    PUT(_mm_sll_epi16(a, count)); PUT(_mm_sll_epi32(a, count)); PUT(_mm_sll_epi64(a, count));
    PUT(_mm_srl_epi16(a, count)); PUT(_mm_srl_epi32(a, count)); PUT(_mm_srl_epi64(a, count));
    PUT(_mm_sra_epi16(a, count)); PUT(_mm_sra_epi32(a, count));
    PUT(_mm_slli_epi16(a, 3)); PUT(_mm_slli_epi32(a, 31)); PUT(_mm_slli_epi64(a, 64)); PUT(_mm_srli_epi16(a, 15));
    PUT(_mm_srli_epi32(a, 7)); PUT(_mm_srli_epi64(a, 33)); PUT(_mm_srai_epi16(a, 16)); PUT(_mm_srai_epi32(a, 9));
    PUT(_mm_slli_si128(a, 5)); PUT(_mm_srli_si128(a, 11));
    *out = digest;
}

V2 void ssse3_and_sse4(__m128i a, __m128i b, Digest *out)
{
    Digest digest = *out;
    PUT(_mm_shuffle_epi8(a, b)); PUT(_mm_abs_epi8(a)); PUT(_mm_abs_epi16(a)); PUT(_mm_abs_epi32(a));
    PUT(_mm_hadd_epi16(a, b)); PUT(_mm_hadd_epi32(a, b)); PUT(_mm_hadds_epi16(a, b));
    PUT(_mm_hsub_epi16(a, b)); PUT(_mm_hsub_epi32(a, b)); PUT(_mm_hsubs_epi16(a, b));
    PUT(_mm_maddubs_epi16(a, b)); PUT(_mm_mulhrs_epi16(a, b)); PUT(_mm_sign_epi8(a, b)); PUT(_mm_sign_epi16(a, b));
    PUT(_mm_sign_epi32(a, b)); PUT(_mm_alignr_epi8(a, b, 5)); PUT(_mm_alignr_epi8(a, b, 21));
    PUT(_mm_blendv_epi8(a, b, _mm_xor_si128(a, b))); PUT(_mm_blend_epi16(a, b, 0xA6));
    PUT(_mm_mullo_epi32(a, b)); PUT(_mm_mul_epi32(a, b)); PUT(_mm_cmpeq_epi64(a, b)); PUT(_mm_cmpgt_epi64(a, b));
    PUT(_mm_min_epi8(a, b)); PUT(_mm_max_epi8(a, b)); PUT(_mm_min_epu16(a, b)); PUT(_mm_max_epu16(a, b));
    PUT(_mm_min_epi32(a, b)); PUT(_mm_max_epi32(a, b)); PUT(_mm_min_epu32(a, b)); PUT(_mm_max_epu32(a, b));
    PUT(_mm_packus_epi32(a, b)); PUT(_mm_minpos_epu16(a)); PUT(_mm_mpsadbw_epu8(a, b, 5));
    PUT(_mm_cvtepi8_epi16(a)); PUT(_mm_cvtepi8_epi32(a)); PUT(_mm_cvtepi8_epi64(a)); PUT(_mm_cvtepi16_epi32(a));
    PUT(_mm_cvtepi16_epi64(a)); PUT(_mm_cvtepi32_epi64(a)); PUT(_mm_cvtepu8_epi16(a)); PUT(_mm_cvtepu8_epi32(a));
    PUT(_mm_cvtepu8_epi64(a)); PUT(_mm_cvtepu16_epi32(a)); PUT(_mm_cvtepu16_epi64(a)); PUT(_mm_cvtepu32_epi64(a));
    digest_u64(&digest, (u64)_mm_extract_epi64(a, 1) ^ (u64)_mm_extract_epi32(a, 2) ^ (u64)_mm_extract_epi8(a, 13));
    PUT(_mm_insert_epi8(a, 0x5A, 9)); PUT(_mm_insert_epi16(a, 0x1234, 3)); PUT(_mm_insert_epi32(a, 77, 1));
    PUT(_mm_insert_epi64(a, 1234567, 0));
    digest_u64(&digest, (u64)(_mm_testz_si128(a, b) | _mm_testc_si128(a, b) << 1 | _mm_testnzc_si128(a, b) << 2));
    *out = digest;
}

V2 void floats(__m128i left, __m128i right, Digest *out)
{
    Digest digest = *out;
    __m128 a = _mm_cvtepi32_ps(left), b = _mm_cvtepi32_ps(right);
    __m128 any = _mm_castsi128_ps(left), other = _mm_castsi128_ps(right);
    PUT_PS(_mm_add_ps(a, b)); PUT_PS(_mm_sub_ps(a, b)); PUT_PS(_mm_mul_ps(a, b)); PUT_PS(_mm_div_ps(a, b));
    PUT_PS(_mm_sqrt_ps(a)); PUT_PS(_mm_add_ps(any, other)); PUT_PS(_mm_mul_ps(any, other));
    PUT_PS(_mm_min_ps(any, other)); PUT_PS(_mm_max_ps(any, other)); PUT_PS(_mm_addsub_ps(a, b));
    PUT_PS(_mm_hadd_ps(a, b)); PUT_PS(_mm_hsub_ps(a, b)); PUT_PS(_mm_movehdup_ps(a)); PUT_PS(_mm_moveldup_ps(a));
    PUT_PS(_mm_cmpeq_ps(any, other)); PUT_PS(_mm_cmplt_ps(any, other)); PUT_PS(_mm_cmple_ps(any, other));
    PUT_PS(_mm_cmpunord_ps(any, other)); PUT_PS(_mm_cmpneq_ps(any, other)); PUT_PS(_mm_cmpnlt_ps(any, other));
    PUT_PS(_mm_cmpnle_ps(any, other)); PUT_PS(_mm_cmpord_ps(any, other));
    PUT_PS(_mm_shuffle_ps(a, b, 0x8D)); PUT_PS(_mm_unpackhi_ps(a, b)); PUT_PS(_mm_unpacklo_ps(a, b));
    PUT_PS(_mm_movehl_ps(a, b)); PUT_PS(_mm_movelh_ps(a, b)); PUT_PS(_mm_blendv_ps(a, b, other));
    PUT_PS(_mm_blend_ps(a, b, 6)); PUT_PS(_mm_insert_ps(a, b, 0x9A)); PUT_PS(_mm_dp_ps(a, b, 0x7B));
    PUT_PS(_mm_round_ps(_mm_mul_ps(a, _mm_set1_ps(0x1p-20f)), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
    PUT_PS(_mm_round_ps(_mm_mul_ps(a, _mm_set1_ps(0x1p-20f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    PUT(_mm_cvtps_epi32(any)); PUT(_mm_cvttps_epi32(any)); PUT_PD(_mm_cvtps_pd(any));
    __m128d c = _mm_cvtepi32_pd(left), d = _mm_cvtepi32_pd(right);
    __m128d any_double = _mm_castsi128_pd(left), other_double = _mm_castsi128_pd(right);
    PUT_PD(_mm_add_pd(c, d)); PUT_PD(_mm_sub_pd(c, d)); PUT_PD(_mm_mul_pd(c, d)); PUT_PD(_mm_div_pd(c, d));
    PUT_PD(_mm_sqrt_pd(c)); PUT_PD(_mm_add_pd(any_double, other_double)); PUT_PD(_mm_mul_pd(any_double, other_double));
    PUT_PD(_mm_min_pd(any_double, other_double)); PUT_PD(_mm_max_pd(any_double, other_double));
    PUT_PD(_mm_addsub_pd(c, d)); PUT_PD(_mm_hadd_pd(c, d)); PUT_PD(_mm_hsub_pd(c, d)); PUT_PD(_mm_movedup_pd(c));
    PUT_PD(_mm_cmpeq_pd(any_double, other_double)); PUT_PD(_mm_cmplt_pd(any_double, other_double));
    PUT_PD(_mm_cmpnle_pd(any_double, other_double)); PUT_PD(_mm_cmpord_pd(any_double, other_double));
    PUT_PD(_mm_shuffle_pd(c, d, 1)); PUT_PD(_mm_unpackhi_pd(c, d)); PUT_PD(_mm_blend_pd(c, d, 2));
    PUT_PD(_mm_dp_pd(c, d, 0x31)); PUT_PD(_mm_round_pd(_mm_mul_pd(c, _mm_set1_pd(0.001)), 10));
    PUT(_mm_cvtpd_epi32(any_double)); PUT(_mm_cvttpd_epi32(any_double)); PUT_PS(_mm_cvtpd_ps(any_double));
    digest_u64(&digest, (u64)_mm_movemask_ps(a) | (u64)_mm_movemask_pd(d) << 8);
    digest_u64(&digest, (u64)_mm_ucomieq_ss(any, other) | (u64)_mm_comilt_sd(any_double, other_double) << 1
                            | (u64)_mm_ucomigt_sd(c, d) << 2);
    *out = digest;
}

static void mmx(__m128i left, __m128i right, Digest *out)
{
    Digest digest = *out;
    __m64 a = _mm_cvtsi64_m64(_mm_cvtsi128_si64(left)), b = _mm_cvtsi64_m64(_mm_cvtsi128_si64(right));
    __m64 results[] = {
        _mm_add_pi8(a, b), _mm_add_pi16(a, b), _mm_sub_pi32(a, b), _mm_adds_pi16(a, b), _mm_subs_pu8(a, b),
        _mm_mullo_pi16(a, b), _mm_mulhi_pi16(a, b), _mm_madd_pi16(a, b), _mm_packs_pi16(a, b), _mm_packs_pu16(a, b),
        _mm_unpackhi_pi8(a, b), _mm_unpacklo_pi16(a, b), _mm_cmpgt_pi8(a, b), _mm_cmpeq_pi16(a, b),
        _mm_and_si64(a, b), _mm_andnot_si64(a, b), _mm_slli_pi16(a, 5), _mm_srai_pi32(a, 3), _mm_srli_si64(a, 17),
        _mm_avg_pu8(a, b), _mm_shuffle_pi16(a, 0x6C), _mm_min_pu8(a, b), _mm_sad_pu8(a, b),
    };
    digest_bytes(&digest, results, sizeof results);
    _mm_empty();
    *out = digest;
}

int main(void)
{
    Digest groups[5];
    for (int i = 0; i < 5; i++)
        groups[i] = digest_start();
    for (int round = 0; round < 200; round++) {
        __m128i a = next_vector(), b = next_vector();
        integers(a, b, &groups[0]);
        shifts(a, b, &groups[1]);
        ssse3_and_sse4(a, b, &groups[2]);
        floats(a, b, &groups[3]);
        mmx(a, b, &groups[4]);
    }
    digest_print("integers", groups[0]);
    digest_print("shifts", groups[1]);
    digest_print("ssse3, sse4", groups[2]);
    digest_print("floats", groups[3]);
    digest_print("mmx", groups[4]);
    return 0;
}
