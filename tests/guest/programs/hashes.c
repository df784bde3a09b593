/* CRC-32 by table and by instruction, SHA-256, and a sieve: ordinary integer code with known answers. */
#include "common.h"
#include <nmmintrin.h>

static u32 crc32_table_driven(const u8 *data, size_t size)
{
    static u32 table[256];
    if (!table[1])
        for (u32 i = 0; i < 256; i++) {
            u32 value = i;
            for (int bit = 0; bit < 8; bit++)
                value = value >> 1 ^ (value & 1 ? 0xEDB88320u : 0);
            table[i] = value;
        }
    u32 crc = ~0u;
    while (size--)
        crc = crc >> 8 ^ table[(u8)(crc ^ *data++)];
    return ~crc;
}

__attribute__((target("sse4.2"))) static u32 crc32c_instruction(const u8 *data, size_t size)
{
    u64 crc = ~0u;
    for (; size >= 8; data += 8, size -= 8) {
        u64 word;
        memcpy(&word, data, 8);
        crc = _mm_crc32_u64(crc, word);
    }
    while (size--)
        crc = _mm_crc32_u8((u32)crc, *data++);
    return ~(u32)crc;
}

/* FIPS 180-4. The constants are fractional parts of cube and square roots of primes, computed here in integers. */
static u32 root_fraction(u32 prime, int power)
{
    unsigned __int128 low = 0, high = (unsigned __int128)1 << 36;
    while (high - low > 1) {
        unsigned __int128 middle = (low + high) / 2;
        unsigned __int128 square = middle * middle;
        int is_above;
        if (power == 2)
            is_above = square > (unsigned __int128)prime << 64;
        else
            is_above = square * middle > (unsigned __int128)prime << 96;
        if (is_above)
            high = middle;
        else
            low = middle;
    }
    return (u32)low;
}

static u32 rotate(u32 value, int count) { return value >> count | value << (32 - count); }

static void sha256(const u8 *data, size_t size, u32 state[8])
{
    static u32 constants[64];
    u32 primes[64];
    for (u32 candidate = 2, found = 0; found < 64; candidate++) {
        u32 i = 0;
        while (i < found && candidate % primes[i])
            i++;
        if (i == found)
            primes[found++] = candidate;
    }
    for (int i = 0; i < 64; i++)
        constants[i] = root_fraction(primes[i], 3);
    for (int i = 0; i < 8; i++)
        state[i] = root_fraction(primes[i], 2);
    size_t padded = (size + 9 + 63) / 64 * 64;
    u8 *message = calloc(padded, 1);
    memcpy(message, data, size);
    message[size] = 0x80;
    for (int i = 0; i < 8; i++)
        message[padded - 1 - (size_t)i] = (u8)((u64)size * 8 >> 8 * i);
    for (size_t block = 0; block < padded; block += 64) {
        u32 w[64], v[8];
        for (int i = 0; i < 16; i++) {
            memcpy(&w[i], message + block + 4 * i, 4);
            w[i] = __builtin_bswap32(w[i]);
        }
        for (int i = 16; i < 64; i++) {
            u32 s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
            u32 s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
            w[i] = w[i - 16] + s0 + w[i - 7] + s1;
        }
        memcpy(v, state, sizeof v);
        for (int i = 0; i < 64; i++) {
            u32 t1 = v[7] + (rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6]))
                   + constants[i] + w[i];
            u32 t2 = (rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22))
                   + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
            memmove(v + 1, v, 7 * sizeof *v);
            v[4] += t1;
            v[0] = t1 + t2;
        }
        for (int i = 0; i < 8; i++)
            state[i] += v[i];
    }
    free(message);
}

static void print_sha256(const char *name, const void *data, size_t size)
{
    u32 state[8];
    sha256(data, size, state);
    printf("sha256 %s ", name);
    for (int i = 0; i < 8; i++)
        printf("%08x", state[i]);
    printf("\n");
}

int main(void)
{
    static u8 data[20000];
    printf("crc32  123456789 %08x, expected cbf43926\n", crc32_table_driven((const u8 *)"123456789", 9));
    printf("crc32c 123456789 %08x, expected e3069283\n", crc32c_instruction((const u8 *)"123456789", 9));
    print_sha256("abc", "abc", 3);
    print_sha256("empty", "", 0);
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (u8)next_random();
    printf("crc32 %08x crc32c %08x\n", crc32_table_driven(data, sizeof data), crc32c_instruction(data, sizeof data));
    print_sha256("random", data, sizeof data);
    static u8 composite[100000];
    u32 count = 0, last = 0;
    for (u32 i = 2; i < sizeof composite; i++)
        if (!composite[i]) {
            count++, last = i;
            for (u32 j = 2 * i; j < sizeof composite; j += i)
                composite[j] = 1;
        }
    printf("primes %u, the last %u\n", count, last);
    return 0;
}
