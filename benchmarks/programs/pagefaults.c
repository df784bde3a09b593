/* What a page fault costs: fresh memory is touched, one byte in each page. One unit is one page. */
#include "measure.h"
#include <sys/mman.h>

enum { PAGES = 1024 };

static uint64_t work(uint64_t count)
{
    uint64_t sum = 0;
    while (count) {
        uint64_t pages = count < PAGES ? count : PAGES;
        volatile char *area = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (area == MAP_FAILED)
            exit(1);
        madvise((void *)area, PAGES * 4096, MADV_NOHUGEPAGE);
        for (uint64_t i = 0; i < pages; i++)
            area[i * 4096] = 1;
        sum += (uint64_t)area[0];
        munmap((void *)area, PAGES * 4096);
        count -= pages;
    }
    return sum;
}

int main(int argc, char **argv) { return measure(argc, argv, work); }
