/* Integer arithmetic of every width with its flags, through the instructions and through what gcc makes of C. */
#include "common.h"

#define CF 0x001
#define PF 0x004
#define AF 0x010
#define ZF 0x040
#define SF 0x080
#define OF 0x800
#define STATUS (CF | PF | AF | ZF | SF | OF)
#define ROUNDS 400

/* One two-operand instruction with a defined carry before it; result and the defined flags are digested. */
#define BINARY(name, suffix, type, defined)                                                             \
    static void name##_##suffix(void)                                                                   \
    {                                                                                                   \
        Digest digest = digest_start();                                                                 \
        for (int round = 0; round < ROUNDS; round++) {                                                  \
            type left = (type)next_operand(), right = (type)next_operand();                             \
            u64 flags = round & 1;                                                                      \
            __asm__ volatile("push %1\n\tpopf\n\t" #name #suffix " %2, %0\n\tpushf\n\tpop %1"           \
                             : "+r"(left), "+r"(flags) : "r"(right) : "cc", "memory");                  \
            digest_u64(&digest, left);                                                                  \
            digest_u64(&digest, flags & (defined));                                                     \
        }                                                                                               \
        digest_print(#name #suffix, digest);                                                            \
    }
#define BINARY_ALL(name, defined)                                                                       \
    BINARY(name, b, u8, defined) BINARY(name, w, u16, defined) BINARY(name, l, u32, defined)            \
    BINARY(name, q, u64, defined)
BINARY_ALL(add, STATUS)
BINARY_ALL(adc, STATUS)
BINARY_ALL(sub, STATUS)
BINARY_ALL(sbb, STATUS)
BINARY_ALL(cmp, STATUS)
BINARY_ALL(and, STATUS & ~AF)
BINARY_ALL(or, STATUS & ~AF)
BINARY_ALL(xor, STATUS & ~AF)
BINARY_ALL(test, STATUS & ~AF)
BINARY_ALL(xadd, STATUS)
#define BINARY_WIDE(name, defined) \
    BINARY(name, w, u16, defined) BINARY(name, l, u32, defined) BINARY(name, q, u64, defined)
BINARY_WIDE(imul, CF | OF)
BINARY_WIDE(bt, CF)
BINARY_WIDE(bts, CF)
BINARY_WIDE(btr, CF)
BINARY_WIDE(btc, CF)
BINARY_WIDE(popcnt, STATUS)
BINARY_WIDE(cmovc, 0)
BINARY_WIDE(cmovnc, 0)

#define UNARY(name, suffix, type, defined)                                                              \
    static void name##_##suffix(void)                                                                   \
    {                                                                                                   \
        Digest digest = digest_start();                                                                 \
        for (int round = 0; round < ROUNDS; round++) {                                                  \
            type value = (type)next_operand();                                                          \
            u64 flags = round & 1;                                                                      \
            __asm__ volatile("push %1\n\tpopf\n\t" #name #suffix " %0\n\tpushf\n\tpop %1"               \
                             : "+r"(value), "+r"(flags) : : "cc", "memory");                            \
            digest_u64(&digest, value);                                                                 \
            digest_u64(&digest, flags & (defined));                                                     \
        }                                                                                               \
        digest_print(#name #suffix, digest);                                                            \
    }
#define UNARY_ALL(name, defined)                                                                        \
    UNARY(name, b, u8, defined) UNARY(name, w, u16, defined) UNARY(name, l, u32, defined)               \
    UNARY(name, q, u64, defined)
UNARY_ALL(inc, STATUS)
UNARY_ALL(dec, STATUS)
UNARY_ALL(neg, STATUS)
UNARY_ALL(not, STATUS)

/* Shifts by CL: flags are compared for counts where the manual defines them. */
#define SHIFT(name, suffix, type, bits, rotate)                                                         \
    static void name##_##suffix(void)                                                                   \
    {                                                                                                   \
        Digest digest = digest_start();                                                                 \
        for (int round = 0; round < ROUNDS; round++) {                                                  \
            type value = (type)next_operand();                                                          \
            u8 count = (u8)next_random();                                                               \
            u64 flags = round & 1;                                                                      \
            __asm__ volatile("push %1\n\tpopf\n\t" #name #suffix " %%cl, %0\n\tpushf\n\tpop %1"         \
                             : "+r"(value), "+r"(flags) : "c"(count) : "cc", "memory");                 \
            unsigned masked = count & (bits == 64 ? 63 : 31);                                           \
            u64 defined = rotate ? CF : CF | PF | ZF | SF;                                              \
            if (masked == 1)                                                                            \
                defined |= OF;                                                                          \
            if (masked >= bits)                                                                         \
                defined &= ~(u64)CF;                                                                    \
            if (masked == 0)                                                                            \
                defined = CF;                                                                           \
            digest_u64(&digest, value);                                                                 \
            digest_u64(&digest, flags & defined);                                                       \
        }                                                                                               \
        digest_print(#name #suffix, digest);                                                            \
    }
#define SHIFT_ALL(name, rotate)                                                                         \
    SHIFT(name, b, u8, 8, rotate) SHIFT(name, w, u16, 16, rotate) SHIFT(name, l, u32, 32, rotate)       \
    SHIFT(name, q, u64, 64, rotate)
SHIFT_ALL(shl, 0)
SHIFT_ALL(shr, 0)
SHIFT_ALL(sar, 0)
SHIFT_ALL(rol, 1)
SHIFT_ALL(ror, 1)
SHIFT_ALL(rcl, 1)
SHIFT_ALL(rcr, 1)

static void double_shifts(void)
{
    Digest digest = digest_start();
    for (int round = 0; round < ROUNDS; round++) {
        u64 a = next_operand(), b = next_operand(), c = a, d = b;
        u8 count = (u8)next_random();
        __asm__("shldq %%cl, %1, %0" : "+r"(a) : "r"(b), "c"(count) : "cc");
        __asm__("shrdl %%cl, %k1, %k0" : "+r"(c) : "r"(d), "c"(count) : "cc");
        __asm__("shrdq $13, %1, %0" : "+r"(d) : "r"(b) : "cc");
        digest_u64(&digest, a);
        digest_u64(&digest, c);
        digest_u64(&digest, d);
    }
    digest_print("shld, shrd", digest);
}

static void multiply_and_divide(void)
{
    Digest digest = digest_start();
    for (int round = 0; round < 4 * ROUNDS; round++) {
        u64 a = next_operand(), b = next_operand(), high = next_operand();
        unsigned __int128 product = (unsigned __int128)a * b;
        __int128 product_signed = (__int128)(i64)a * (i64)b;
        digest_u64(&digest, (u64)(product >> 64));
        digest_u64(&digest, (u64)(product_signed >> 64));
        digest_u64(&digest, (u64)product);
        u16 product8 = (u16)((u8)a * (u8)b);
        __asm__("imulb %1" : "+a"(product8) : "q"((u8)b) : "cc");
        digest_u64(&digest, product8);
        if (b == 0)
            continue;
        digest_u64(&digest, a / b);
        digest_u64(&digest, a % b);
        if (!(a == 1ull << 63 && b == ~0ull)) {
            digest_u64(&digest, (u64)((i64)a / (i64)b));
            digest_u64(&digest, (u64)((i64)a % (i64)b));
        }
        u64 quotient = a, remainder = high % b;
        __asm__("divq %2" : "+a"(quotient), "+d"(remainder) : "r"(b) : "cc");
        digest_u64(&digest, quotient);
        digest_u64(&digest, remainder);
        if ((u32)b) {
            digest_u64(&digest, (u32)a / (u32)b);
            digest_u64(&digest, (u32)a % (u32)b);
            if (!((u32)a == 0x80000000u && (u32)b == 0xFFFFFFFFu))
                digest_u64(&digest, (u64)(i64)((i32)a / (i32)b));
        }
        if ((u8)b) {
            u16 quotient8 = (u8)a;
            __asm__("divb %1" : "+a"(quotient8) : "q"((u8)b) : "cc");
            digest_u64(&digest, quotient8);
        }
        if ((u16)b) {
            u16 low = (u16)a, rest = 0;
            __asm__("divw %2" : "+a"(low), "+d"(rest) : "r"((u16)b) : "cc");
            digest_u64(&digest, (u64)low << 16 | rest);
        }
    }
    digest_print("mul, div", digest);
}

static void bit_tricks(void)
{
    Digest digest = digest_start();
    for (int round = 0; round < 4 * ROUNDS; round++) {
        u64 a = next_operand() | 1ull << (round & 63), b = next_operand();
        digest_u64(&digest, (u64)__builtin_clzll(a) << 32 | (u64)__builtin_ctzll(a));
        digest_u64(&digest, __builtin_bswap64(a) ^ __builtin_bswap32((u32)b));
        digest_u64(&digest, (u64)__builtin_popcountll(a) + (u64)__builtin_parityll(b));
        digest_u64(&digest, (u64)(i64)(i8)a + (u64)(i64)(i16)b + (u64)(i64)(i32)(a ^ b));
        digest_u64(&digest, a > b ? a - b : (i64)a < (i64)b ? a + b : a ^ b);
        u64 sum;
        digest_u64(&digest, (u64)__builtin_add_overflow(a, b, &sum) + 2 * (u64)__builtin_mul_overflow(a, b, &sum));
        u16 swapped = (u16)a;
        __asm__("xchg %b0, %h0" : "+Q"(swapped));
        digest_u64(&digest, swapped);
        u64 accumulator = a & 1 ? b : a, memory = b;
        __asm__("cmpxchgq %2, %1" : "+a"(accumulator), "+m"(memory) : "r"(a) : "cc");
        digest_u64(&digest, accumulator ^ memory);
    }
    digest_print("bit tricks", digest);
}

/* BT with a register index reaches beyond the operand in memory, in both directions. */
static void bit_strings(void)
{
    static u64 field[64];
    Digest digest = digest_start();
    for (int round = 0; round < ROUNDS; round++) {
        i64 index = (i64)(next_random() % 4096) - 2048;
        u8 was;
        __asm__ volatile("btcq %2, %1\n\tsetc %0" : "=q"(was), "+m"(field[32]) : "r"(index) : "cc", "memory");
        digest_u64(&digest, was);
    }
    digest_bytes(&digest, field, sizeof field);
    digest_print("bit strings", digest);
}

static void string_instructions(void)
{
    static u8 from[4096], to[4096];
    Digest digest = digest_start();
    for (unsigned i = 0; i < sizeof from; i++)
        from[i] = (u8)next_random();
    for (int round = 0; round < 60; round++) {
        void *source = from + next_random() % 1024, *target = to + next_random() % 1024;
        u64 count = next_random() % 300;
        __asm__ volatile("rep movsb" : "+S"(source), "+D"(target), "+c"(count) : : "memory");
        count = next_random() % 100;
        __asm__ volatile("rep stosl" : "+D"(target), "+c"(count) : "a"(round * 0x01020304) : "memory");
        source = from + 4000, target = to + 3000, count = next_random() % 60;
        __asm__ volatile("std\n\trep movsq\n\tcld" : "+S"(source), "+D"(target), "+c"(count) : : "memory");
        u8 wanted = (u8)next_random();
        target = from, count = sizeof from;
        __asm__ volatile("repne scasb" : "+D"(target), "+c"(count) : "a"(wanted) : "cc", "memory");
        digest_u64(&digest, count);
        source = from, target = to, count = sizeof from;
        __asm__ volatile("repe cmpsb" : "+S"(source), "+D"(target), "+c"(count) : : "cc", "memory");
        digest_u64(&digest, count);
    }
    digest_bytes(&digest, to, sizeof to);
    digest_print("string instructions", digest);
}

#define CALL_ALL(name) name##_b(), name##_w(), name##_l(), name##_q()
#define CALL_WIDE(name) name##_w(), name##_l(), name##_q()

int main(void)
{
    CALL_ALL(add), CALL_ALL(adc), CALL_ALL(sub), CALL_ALL(sbb), CALL_ALL(cmp), CALL_ALL(and), CALL_ALL(or);
    CALL_ALL(xor), CALL_ALL(test), CALL_ALL(xadd), CALL_WIDE(imul), CALL_WIDE(bt), CALL_WIDE(bts);
    CALL_WIDE(btr), CALL_WIDE(btc), CALL_WIDE(popcnt), CALL_WIDE(cmovc), CALL_WIDE(cmovnc);
    CALL_ALL(inc), CALL_ALL(dec), CALL_ALL(neg), CALL_ALL(not), CALL_ALL(shl), CALL_ALL(shr), CALL_ALL(sar);
    CALL_ALL(rol), CALL_ALL(ror), CALL_ALL(rcl), CALL_ALL(rcr);
    double_shifts(), multiply_and_divide(), bit_tricks(), bit_strings(), string_instructions();
    return 0;
}
