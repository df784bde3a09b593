/* What the test programs share: a random sequence, a digest, and one line per result. */
#pragma once
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t i8;
typedef int16_t i16;
typedef int32_t i32;
typedef int64_t i64;

/* xorshift64* by Marsaglia/Vigna; the same sequence everywhere. */
static u64 random_state = 0x9E3779B97F4A7C15u;

static inline u64 next_random(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545F4914F6CDD1Du;
}

/* Operands that find mistakes: small, large, single bits, and any. */
static inline u64 next_operand(void)
{
    static const u64 edges[] = {0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000,
                                0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF};
    u64 choice = next_random();
    if ((choice & 3) == 0)
        return edges[(choice >> 8) % (sizeof edges / sizeof *edges)];
    if ((choice & 3) == 1)
        return 1ull << (choice >> 58);
    return next_random() >> ((choice & 4) ? choice >> 58 : 0);
}

/* FNV-1a, 64 bits. */
typedef struct { u64 value; } Digest;

static inline Digest digest_start(void) { return (Digest){0xCBF29CE484222325u}; }

static inline void digest_bytes(Digest *digest, const void *data, size_t size)
{
    const u8 *bytes = data;
    while (size--)
        digest->value = (digest->value ^ *bytes++) * 0x100000001B3u;
}

static inline void digest_u64(Digest *digest, u64 value) { digest_bytes(digest, &value, sizeof value); }

static inline void digest_print(const char *name, Digest digest)
{
    printf("%-24s %016llx\n", name, (unsigned long long)digest.value);
}

#define DIE(what) do { perror(what); exit(100); } while (0)
