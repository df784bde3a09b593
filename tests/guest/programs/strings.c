/* Strings: libc's (whose variants depend on the CPU) and the SSE4.2 string instructions, also across pages. */
#include "common.h"
#include <nmmintrin.h>
#include <sys/mman.h>

/* The end of a buffer touches a page that must not be read. */
static char *page_end;

static void at_page_end(void)
{
    Digest digest = digest_start();
    for (size_t length = 0; length < 200; length++) {
        char *text = page_end - length - 1;
        memset(text, 'x', length);
        text[length] = 0;
        if (length > 10)
            text[length - 7] = 'y', text[length - 9] = 'y';
        digest_u64(&digest, strlen(text));
        char *first = strchr(text, 'y'), *last = strrchr(text, 'y');
        digest_u64(&digest, first ? (u64)(first - text) : ~0ull);
        digest_u64(&digest, last ? (u64)(last - text) : ~0ull);
        digest_u64(&digest, strspn(text, "xz") + 1000 * strcspn(text, "yz"));
        char *found = memchr(text, 0, length + 1);
        digest_u64(&digest, (u64)(found - text));
        digest_u64(&digest, strnlen(text, length / 2));
        char copy[256];
        digest_u64(&digest, (u64)(stpcpy(copy, text) - copy));
        digest_u64(&digest, (u64)(strcmp(copy, text) == 0) + 2 * (u64)(memcmp(copy, text, length + 1) == 0));
        copy[length / 2] ^= 1;
        int order = memcmp(copy, text, length + 1);
        digest_u64(&digest, (u64)((order > 0) - (order < 0)));
        char *part = strstr(text, "yxyx");
        digest_u64(&digest, part ? (u64)(part - text) : ~0ull);
    }
    digest_print("libc at a page end", digest);
}

static void copies(void)
{
    static u8 from[70000], to[70000];
    Digest digest = digest_start();
    for (size_t i = 0; i < sizeof from; i++)
        from[i] = (u8)next_random();
    for (int round = 0; round < 200; round++) {
        size_t size = next_random() % (round < 150 ? 300 : 40000), a = next_random() % 500, b = next_random() % 500;
        memcpy(to + a, from + b, size);
        memmove(to + b, to + a, size);
        memset(to + a, round, size / 7);
    }
    digest_bytes(&digest, to, sizeof to);
    digest_print("copies", digest);
}

#define ALL_MODES(X) \
    X(0x00) X(0x01) X(0x02) X(0x03) X(0x04) X(0x05) X(0x06) X(0x07) X(0x08) X(0x09) X(0x0A) X(0x0B) X(0x0C) X(0x0D) \
    X(0x0E) X(0x0F) X(0x14) X(0x18) X(0x1A) X(0x34) X(0x38) X(0x3A) X(0x40) X(0x44) X(0x48) X(0x4C) X(0x58) X(0x78)

__attribute__((target("sse4.2"))) static void sse42(void)
{
    Digest digest = digest_start();
    for (int round = 0; round < 60; round++) {
        u8 left[16], right[16];
        for (int i = 0; i < 16; i++) {
            left[i] = (u8)("abcz\0AZ09"[next_random() % 9]);
            right[i] = (u8)("abcd\0AM5"[next_random() % 8]);
        }
        if (round % 3)
            for (int i = 0; i < 16; i++)
                left[i] = left[i] ? left[i] : 'q', right[i] = right[i] ? right[i] : 'a';
        __m128i a = _mm_loadu_si128((void *)left), b = _mm_loadu_si128((void *)right);
        int la = (int)(next_random() % 20), lb = (int)(next_random() % 20);
#define MODE(mode)                                                                                      \
        {                                                                                               \
            digest_u64(&digest, (u64)_mm_cmpistri(a, b, mode));                                         \
            digest_u64(&digest, (u64)_mm_cmpestri(a, la, b, lb, mode));                                 \
            __m128i mask = _mm_cmpistrm(a, b, mode), mask_explicit = _mm_cmpestrm(a, la, b, lb, mode);  \
            digest_bytes(&digest, &mask, 16);                                                           \
            digest_bytes(&digest, &mask_explicit, 16);                                                  \
            digest_u64(&digest, (u64)(_mm_cmpistrc(a, b, mode) | _mm_cmpistrs(a, b, mode) << 1          \
                                      | _mm_cmpistrz(a, b, mode) << 2 | _mm_cmpistro(a, b, mode) << 3   \
                                      | _mm_cmpistra(a, b, mode) << 4));                                \
        }
        ALL_MODES(MODE)
    }
    digest_print("pcmpistr, pcmpestr", digest);
}

static int order(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void formatted(void)
{
    char *words[] = {"guest", "host", "memory", "page", "fault", "block", "cache", "trap", "ring", "vector"};
    qsort(words, 10, sizeof *words, order);
    for (int i = 0; i < 10; i++)
        printf("%-8s|%5d|%#x|%08.3f%c", words[i], i * -37, i * 4097, i / 7.0, i % 5 == 4 ? '\n' : ' ');
    char line[200];
    int a;
    double b;
    char c[20];
    snprintf(line, sizeof line, "%d %lf %s", -12345, 2.5e-3, "word");
    int count = sscanf(line, "%d %lf %19s", &a, &b, c);
    printf("%d: %d %g %s\n", count, a, b, c);
}

int main(void)
{
    char *pages = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + 2 * 4096, 4096, PROT_NONE))
        DIE("mmap");
    page_end = pages + 2 * 4096;
    at_page_end();
    copies();
    sse42();
    formatted();
    return 0;
}
