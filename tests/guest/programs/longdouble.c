/* x87: 80-bit arithmetic in every precision and rounding, its control and status words, stack, BCD, and libm. */
#include "common.h"
#include <math.h>

typedef long double f80;

static void digest_f80(Digest *digest, f80 value)
{
    /* Ten bytes are value, the rest is padding. */
    digest_bytes(digest, &value, 10);
}

static f80 make(u16 sign_exponent, u64 significand)
{
    f80 value = 0;
    memcpy(&value, &significand, 8);
    memcpy((u8 *)&value + 8, &sign_exponent, 2);
    return value;
}

static f80 next_f80(void)
{
    u64 choice = next_random();
    u16 sign = choice & 1 ? 0x8000 : 0;
    switch (choice >> 1 & 15) {
    case 0: return make(sign, 0);
    case 1: return make(sign, 1);
    case 2: return make(sign, 0x7FFFFFFFFFFFFFFF);
    case 3: return make(sign | 1, 0x8000000000000000);
    case 4: return make(sign | 0x7FFE, 0xFFFFFFFFFFFFFFFF);
    case 5: return make(sign | 0x7FFF, 0x8000000000000000);
    case 6: return make(sign | 0x7FFF, 0xC000000000000123);
    case 7: return make(sign | 0x7FFF, 0x8000000000000123); /* signalling */
    case 8: return make(sign | 0x3FFF, 0x8000000000000000);
    case 9: return make(sign | 0x7FF0, next_random() | 1ull << 63);
    case 10: return make(sign | 0x0010, next_random() | 1ull << 63);
    default: return make(sign | (u16)(0x3FE0 + (choice >> 8 & 0x3F)), next_random() | 1ull << 63);
    }
}

static u16 status_word(void)
{
    u16 status;
    __asm__ volatile("fnstsw %0" : "=a"(status));
    return status;
}

static void set_control(u16 control) { __asm__ volatile("fldcw %0" : : "m"(control)); }

#define TWO(instruction)                                                                                \
    do {                                                                                                \
        f80 result;                                                                                     \
        __asm__ volatile("fnclex\n\t" instruction : "=t"(result) : "0"(a), "u"(b) : "st(1)");           \
        digest_f80(&digest, result);                                                                    \
        digest_u64(&digest, status_word() & 0x3F);                                                      \
    } while (0)
#define ONE(instruction)                                                                                \
    do {                                                                                                \
        f80 result;                                                                                     \
        __asm__ volatile("fnclex\n\t" instruction : "=t"(result) : "0"(a));                             \
        digest_f80(&digest, result);                                                                    \
        digest_u64(&digest, status_word() & 0x3F);                                                      \
    } while (0)

static void arithmetic(u16 control)
{
    Digest digest = digest_start();
    set_control(control);
    for (int round = 0; round < 600; round++) {
        f80 a = next_f80(), b = next_f80();
        TWO("faddp");
        TWO("fsubp");
        TWO("fsubrp");
        TWO("fmulp");
        TWO("fdivp");
        TWO("fdivrp");
        ONE("fsqrt");
        ONE("frndint");
        ONE("fabs");
        ONE("fchs");
        u16 status;
        __asm__ volatile("fnclex\n\tfucom %%st(1)\n\tfnstsw %0" : "=a"(status) : "t"(a), "u"(b));
        digest_u64(&digest, status & 0x4700);
        __asm__ volatile("fxam\n\tfnstsw %0" : "=a"(status) : "t"(a));
        digest_u64(&digest, status & 0x4700);
        u8 flags[3];
        __asm__ volatile("fucomi %4, %3\n\tsetc %0\n\tsetz %1\n\tsetp %2"
                         : "=q"(flags[0]), "=q"(flags[1]), "=q"(flags[2]) : "t"(a), "u"(b) : "cc");
        digest_bytes(&digest, flags, 3);
        float narrow;
        double middle;
        i16 word;
        i32 dword;
        i64 qword;
        __asm__ volatile("fsts %0" : "=m"(narrow) : "t"(a));
        __asm__ volatile("fstl %0" : "=m"(middle) : "t"(a));
        __asm__ volatile("fists %0" : "=m"(word) : "t"(a));
        __asm__ volatile("fistl %0" : "=m"(dword) : "t"(a));
        __asm__ volatile("fistpll %0" : "=m"(qword) : "t"(a) : "st");
        digest_bytes(&digest, &narrow, 4);
        digest_bytes(&digest, &middle, 8);
        digest_u64(&digest, (u64)(u16)word << 32 | (u32)dword);
        digest_u64(&digest, (u64)qword);
        u8 decimal[10];
        f80 bounded = make((u16)(0x3FFF + (next_random() % 58)), next_random() | 1ull << 63);
        __asm__ volatile("fbstp %0" : "=m"(decimal) : "t"(bounded) : "st");
        digest_bytes(&digest, decimal, 10);
        f80 again;
        __asm__ volatile("fbld %1" : "=t"(again) : "m"(decimal));
        digest_f80(&digest, again);
    }
    set_control(0x037F);
    char name[32];
    snprintf(name, sizeof name, "control %04x", control);
    digest_print(name, digest);
}

static void remainders_and_scales(void)
{
    Digest digest = digest_start();
    for (int round = 0; round < 400; round++) {
        f80 a = make((u16)(0x3FF0 + next_random() % 80), next_random() | 1ull << 63);
        f80 b = make((u16)(0x3FF0 + next_random() % 20), next_random() | 1ull << 63);
        f80 result;
        u16 status;
        do
            __asm__ volatile("fprem\n\tfnstsw %1" : "=t"(result), "=a"(status) : "0"(a), "u"(b));
        while (a = result, status & 0x400);
        digest_f80(&digest, result);
        digest_u64(&digest, status & 0x4300);
        a = make((u16)(0x3FF0 + next_random() % 80), next_random() | 1ull << 63);
        do
            __asm__ volatile("fprem1\n\tfnstsw %1" : "=t"(result), "=a"(status) : "0"(a), "u"(b));
        while (a = result, status & 0x400);
        digest_f80(&digest, result);
        f80 scale = (f80)((i64)(next_random() % 200) - 100), significand, exponent;
        __asm__ volatile("fscale" : "=t"(result) : "0"(b), "u"(scale));
        digest_f80(&digest, result);
        __asm__ volatile("fxtract" : "=t"(significand), "=u"(exponent) : "0"(b));
        digest_f80(&digest, significand);
        digest_f80(&digest, exponent);
    }
    digest_print("fprem, fscale, fxtract", digest);
    f80 constants[7];
    __asm__("fld1" : "=t"(constants[0]));
    __asm__("fldl2t" : "=t"(constants[1]));
    __asm__("fldl2e" : "=t"(constants[2]));
    __asm__("fldpi" : "=t"(constants[3]));
    __asm__("fldlg2" : "=t"(constants[4]));
    __asm__("fldln2" : "=t"(constants[5]));
    __asm__("fldz" : "=t"(constants[6]));
    for (int i = 0; i < 7; i++)
        printf("constant %d %La\n", i, constants[i]);
}

/* The register stack's tags and top, saved and restored by FNSTENV, FNSAVE and FXSAVE. */
static void environment(void)
{
    struct { u16 control, r0, status, r1, tag, r2; u32 rest[4]; u8 registers[80]; } saved;
    static u8 image[512] __attribute__((aligned(16)));
    __asm__ volatile("fninit\n\tfld1\n\tfldpi\n\tfldz\n\tffree %%st(1)\n\tfxsave %1\n\tfnsave %0"
                     : "=m"(saved), "=m"(image));
    printf("fnsave control %04x status %04x tag %04x\n", saved.control, saved.status, saved.tag);
    printf("fxsave control %02x%02x status %02x%02x tag %02x\n", image[1], image[0], image[3], image[2], image[4]);
    Digest digest = digest_start();
    digest_bytes(&digest, saved.registers, 30);
    for (int i = 0; i < 3; i++)
        digest_bytes(&digest, image + 32 + 16 * i, 10);
    digest_print("registers", digest);
    __asm__ volatile("frstor %1\n\tfnstenv %0\n\tfninit" : "=m"(saved) : "m"(saved));
    printf("frstor control %04x status %04x tag %04x\n", saved.control, saved.status, saved.tag);
    /* Overflow and underflow of the stack, masked. */
    u16 overflow, underflow;
    __asm__ volatile("fninit\n\t"
                     "fld1\n\tfld1\n\tfld1\n\tfld1\n\tfld1\n\tfld1\n\tfld1\n\tfld1\n\tfld1\n\t"
                     "fnstsw %0\n\tfninit\n\tfaddp\n\tfnstsw %1\n\tfninit" : "=m"(overflow), "=m"(underflow));
    printf("stack overflow %04x underflow %04x\n", overflow & 0x7F, underflow & 0x7F);
}

static void library(void)
{
    Digest digest = digest_start();
    for (int i = -100; i < 100; i++) {
        volatile f80 x = i * 0.371L;
        digest_f80(&digest, sinl(x));
        digest_f80(&digest, cosl(x));
        digest_f80(&digest, tanl(x));
        digest_f80(&digest, atanl(x));
        digest_f80(&digest, expl(x / 5));
        digest_f80(&digest, logl(fabsl(x) + 0.1L));
        digest_f80(&digest, powl(fabsl(x) + 0.1L, 1.3L));
        digest_f80(&digest, sqrtl(fabsl(x)));
        digest_f80(&digest, floorl(x));
        digest_f80(&digest, fmodl(x, 1.25L));
        digest_f80(&digest, (f80)(i64)(x * 1000));
    }
    digest_print("libm", digest);
    printf("%.25Lf %.25Lf\n", sinl(1.0L), expl(1.0L));
    printf("%La %La %La\n", logl(2.0L), powl(2.0L, 0.5L), 1.0L / 3);
    printf("%.3Lf %Lg %Le\n", 1e25L + 0.5L, 1e4900L * 1e30L, 3.6e-4951L);
    printf("%.20Lg %.20Lg\n", strtold("1.18973149535723176502e4932", NULL), strtold("0.1", NULL));
    f80 sum = 0;
    for (int i = 1; i < 20000; i++)
        sum += 1.0L / ((f80)i * i);
    printf("sum %La\n", sum);
}

int main(void)
{
    for (u16 rounding = 0; rounding < 4; rounding++) {
        arithmetic((u16)(0x037F | rounding << 10));
        arithmetic((u16)(0x027F | rounding << 10));
        arithmetic((u16)(0x007F | rounding << 10));
    }
    remainders_and_scales();
    environment();
    library();
    return 0;
}
