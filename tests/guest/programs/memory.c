/* Memory: mapping, protection, remapping, aliases of one page, large areas, and what stays after each change. */
#include "common.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096

static sigjmp_buf back;
static void jump_back(int number) { siglongjmp(back, number); }

static const char *can_read(volatile u8 *address)
{
    int number = sigsetjmp(back, 1);
    if (number)
        return number == SIGSEGV ? "SEGV" : "BUS";
    (void)*address;
    return "yes";
}

static const char *can_write(volatile u8 *address)
{
    int number = sigsetjmp(back, 1);
    if (number)
        return number == SIGSEGV ? "SEGV" : "BUS";
    *address = *address;
    return "yes";
}

static const char *can_execute(u8 *address)
{
    int number = sigsetjmp(back, 1);
    if (number)
        return number == SIGSEGV ? "SEGV" : "BUS";
    return ((int (*)(void))(void *)address)() == 5 ? "yes" : "wrong";
}

static void protections(void)
{
    static const struct { const char *name; int value; } kinds[] = {
        {"none", PROT_NONE}, {"r", PROT_READ}, {"rw", PROT_READ | PROT_WRITE}, {"rx", PROT_READ | PROT_EXEC},
        {"rwx", PROT_READ | PROT_WRITE | PROT_EXEC}, {"none", PROT_NONE}, {"rwx", PROT_READ | PROT_WRITE | PROT_EXEC},
        {"r", PROT_READ},
    };
    static const u8 return_five[] = {0xB8, 5, 0, 0, 0, 0xC3};
    u8 *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page, return_five, sizeof return_five);
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        mprotect(page, PAGE, kinds[i].value);
        printf("%-4s read %s write %s execute %s\n", kinds[i].name, can_read(page), can_write(page),
               can_execute(page));
    }
    munmap(page, PAGE);
    printf("gone read %s\n", can_read(page));
}

/* One page of a file seen at several addresses. */
static void aliases(void)
{
    int file = memfd_create("aliases", 0);
    if (file < 0 || ftruncate(file, 4 * PAGE))
        DIE("memfd_create");
    u8 *a = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    u8 *b = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, PAGE);
    u8 *copy = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, PAGE);
    Digest digest = digest_start();
    for (int i = 0; i < 1000; i++) {
        unsigned where = (unsigned)(next_random() % PAGE);
        a[PAGE + where] = (u8)i;
        digest_u64(&digest, b[where]);
        b[where] ^= 0x55;
        digest_u64(&digest, a[PAGE + where]);
        digest_u64(&digest, copy[where]);
        if (i == 500)
            copy[0] = 0xEE; /* from here on it is a copy */
    }
    digest_print("aliases", digest);
    if (pwrite(file, "written by a system call", 24, PAGE + 100) != 24)
        DIE("pwrite");
    printf("%.24s, the private copy differs %d\n", (char *)b + 100, memcmp(copy, b, PAGE) != 0);
    if (ftruncate(file, PAGE))
        DIE("ftruncate");
    printf("after truncation: %s %s\n", can_read(a), can_read(b));
    close(file);
}

static void remapping(void)
{
    u8 *area = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 16; i++)
        area[i * PAGE] = (u8)(i + 1);
    /* Exchange pages 2 and 9 by way of page 15. */
    u8 *pages[3] = {area + 2 * PAGE, area + 9 * PAGE, area + 15 * PAGE};
    mremap(pages[0], PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, pages[2]);
    mremap(pages[1], PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, pages[0]);
    mremap(pages[2], PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, pages[1]);
    printf("exchanged: %d %d, hole %s\n", area[2 * PAGE], area[9 * PAGE], can_read(area + 15 * PAGE));
    u8 *larger = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(larger, 5, 8 * PAGE);
    larger = mremap(larger, 8 * PAGE, 64 * PAGE, MREMAP_MAYMOVE);
    if (larger == MAP_FAILED)
        DIE("mremap");
    larger[63 * PAGE] = 9;
    printf("larger: %d %d %d\n", larger[0], larger[7 * PAGE], larger[8 * PAGE]);
    madvise(larger, 4 * PAGE, MADV_DONTNEED);
    printf("given back: %d %d\n", larger[0], larger[4 * PAGE]);
    for (int i = 0; i < 64; i += 2)
        munmap(larger + i * PAGE, PAGE);
    int readable = 0;
    for (int i = 0; i < 64; i++)
        readable += can_read(larger + i * PAGE)[0] == 'y';
    printf("every other page: %d\n", readable);
}

/* The same address holds other pages again and again: stale translations would show. */
static void churn(void)
{
    u8 *const place = mmap(NULL, 8 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    Digest digest = digest_start();
    for (int round = 0; round < 150; round++) {
        mmap(place, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        for (int i = 0; i < 8; i++) {
            digest_u64(&digest, place[i * PAGE + round]);
            place[i * PAGE + round] = (u8)(round + i);
            place[i * PAGE + round + 1] = 0xFF;
        }
    }
    digest_print("churn", digest);
}

static void large(void)
{
    enum { SIZE = 12 << 20 };
    u8 *area = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(area, SIZE, MADV_HUGEPAGE);
    for (u64 i = 0; i < SIZE; i += 1111)
        area[i] = (u8)(i >> 8);
    mprotect(area + (4 << 20) + PAGE, PAGE, PROT_READ);
    printf("large: %s %s ", can_write(area + (4 << 20) + PAGE), can_write(area + (4 << 20)));
    u64 sum = 0;
    for (u64 i = 0; i < SIZE; i++)
        sum += area[i];
    printf("%lu\n", sum);
    char *heap[200];
    for (int i = 0; i < 200; i++) {
        heap[i] = malloc((size_t)(i * i * 7 + 1));
        memset(heap[i], i, (size_t)(i * i * 7 + 1));
    }
    sum = 0;
    for (int i = 0; i < 200; i++) {
        sum += (u8)heap[i][i * i * 7];
        free(heap[(i * 77) % 200]);
        heap[(i * 77) % 200] = calloc(1, 200 * 200 * 7 + 1);
    }
    printf("heap: %lu\n", sum);
}

int main(void)
{
    signal(SIGSEGV, jump_back);
    signal(SIGBUS, jump_back);
    protections();
    aliases();
    remapping();
    churn();
    large();
    return 0;
}
