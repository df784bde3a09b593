/* What a signal costs: raised, handled, returned from. */
#include "measure.h"
#include <signal.h>

static volatile uint64_t handled;
static void handle(int number) { handled += (uint64_t)number; }

static uint64_t work(uint64_t count)
{
    signal(SIGUSR1, handle);
    for (uint64_t i = 0; i < count; i++)
        raise(SIGUSR1);
    return handled;
}

int main(int argc, char **argv) { return measure(argc, argv, work); }
