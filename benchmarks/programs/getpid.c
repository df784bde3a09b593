/* What entering and leaving the kernel costs: the system call that does least. */
#include "measure.h"
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t work(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += (uint64_t)syscall(SYS_getpid) != 0;
    return sum;
}

int main(int argc, char **argv) { return measure(argc, argv, work); }
