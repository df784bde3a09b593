/* Clocks: they only go forward, agree with each other and between CPUs, and sleeping takes as long as asked. */
#include "common.h"
#include <pthread.h>
#include <sched.h>
#include <sys/time.h>
#include <time.h>
#include <x86intrin.h>

static u64 now(clockid_t clock)
{
    struct timespec value;
    clock_gettime(clock, &value);
    return (u64)value.tv_sec * 1000000000u + (u64)value.tv_nsec;
}

static const struct { const char *name; clockid_t clock; } clocks[] = {
    {"monotonic", CLOCK_MONOTONIC}, {"monotonic raw", CLOCK_MONOTONIC_RAW}, {"boot", CLOCK_BOOTTIME},
    {"real", CLOCK_REALTIME}, {"process", CLOCK_PROCESS_CPUTIME_ID}, {"coarse", CLOCK_MONOTONIC_COARSE},
};

/* Threads hand the time to each other; no one may see a smaller one. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static u64 latest, latest_tsc, backwards;

static void *compare(void *argument)
{
    for (int i = 0; i < 1000; i++) {
        pthread_mutex_lock(&mutex);
        u64 time = now(CLOCK_MONOTONIC);
        _mm_lfence();
        u64 tsc = __rdtsc();
        backwards += time < latest || tsc < latest_tsc;
        latest = time, latest_tsc = tsc;
        pthread_mutex_unlock(&mutex);
        if (i % 16 == 0)
            sched_yield();
    }
    return argument;
}

int main(void)
{
    for (unsigned i = 0; i < sizeof clocks / sizeof *clocks; i++) {
        u64 wrong = 0, last = now(clocks[i].clock);
        for (int round = 0; round < 2000; round++) {
            u64 value = now(clocks[i].clock);
            wrong += value < last;
            last = value;
        }
        printf("%-14s backwards %lu\n", clocks[i].name, wrong);
    }
    u64 tsc = __rdtsc(), wrong = 0;
    for (int round = 0; round < 5000; round++) {
        u64 value = __rdtsc();
        wrong += value <= tsc;
        tsc = value;
    }
    printf("tsc not forward %lu\n", wrong);

    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, compare, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    printf("between threads backwards %lu\n", backwards);

    /* Never early; how late depends on the load. */
    static const long sleeps[] = {100000, 1000000, 10000000, 50000000};
    u64 early = 0;
    for (int i = 0; i < 4; i++) {
        struct timespec wanted = {0, sleeps[i]};
        u64 before = now(CLOCK_MONOTONIC), tsc_before = __rdtsc();
        nanosleep(&wanted, NULL);
        u64 after = now(CLOCK_MONOTONIC);
        early += after - before < (u64)sleeps[i] || __rdtsc() == tsc_before;
    }
    printf("too early %lu\n", early);

    /* A CPU's time in a busy loop is not more than the time that passed. */
    u64 start = now(CLOCK_MONOTONIC), used = now(CLOCK_THREAD_CPUTIME_ID);
    while (now(CLOCK_MONOTONIC) - start < 20000000)
        ;
    used = now(CLOCK_THREAD_CPUTIME_ID) - used;
    printf("busy %d\n", used > 0 && used <= now(CLOCK_MONOTONIC) - start + 1000000);
    time_t year = time(NULL);
    struct tm parts;
    gmtime_r(&year, &parts);
    printf("year plausible %d\n", parts.tm_year + 1900 >= 2024);
    return 0;
}
