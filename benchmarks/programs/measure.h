/* Runs a piece of work again and again for about the given time and prints the rate by the machine's own clock. */
#pragma once
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline double now(void)
{
    struct timespec value;
    clock_gettime(CLOCK_MONOTONIC, &value);
    return (double)value.tv_sec + 1e-9 * (double)value.tv_nsec;
}

/* work(count) does `count` units and returns a number that depends on all of them. The size of a batch doubles until
   one takes a hundredth of the time, so that looking at the clock costs nothing. */
static inline int measure(int argc, char **argv, uint64_t (*work)(uint64_t count))
{
    double seconds = argc > 1 ? atof(argv[1]) : 1.0, elapsed;
    uint64_t batch = 1, done = 0, check = work(1);
    printf("@@start\n");
    fflush(stdout);
    double start = now(), last = start;
    for (;;) {
        check += work(batch);
        done += batch;
        double time = now();
        elapsed = time - start;
        if (elapsed >= seconds)
            break;
        if (time - last < seconds / 100)
            batch *= 2;
        last = time;
    }
    printf("@@rate %.6g seconds %.6f check %llx\n", (double)done / elapsed, elapsed, (unsigned long long)check);
    fflush(stdout);
    return 0;
}
