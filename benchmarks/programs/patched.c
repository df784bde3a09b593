/* What changing code costs: the constant in a function is replaced before each call of it. */
#include "measure.h"
#include <sys/mman.h>

static unsigned char *code;

static uint64_t work(uint64_t count)
{
    if (!code) {
        static const unsigned char body[] = {0xB8, 0, 0, 0, 0, 0xC3}; /* mov $constant, %eax; ret */
        code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (code == MAP_FAILED)
            exit(1);
        memcpy(code, body, sizeof body);
    }
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t constant = (uint32_t)i;
        memcpy(code + 1, &constant, 4);
        sum += ((uint32_t(*)(void))(void *)code)();
    }
    return sum;
}

int main(int argc, char **argv) { return measure(argc, argv, work); }
