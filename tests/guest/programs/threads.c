/* Threads: mutexes, conditions, atomics, barriers, thread-local storage, a lock-free stack with CMPXCHG16B. */
#include "common.h"
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>

enum { THREADS = 4, ROUNDS = 2000 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static u64 under_mutex;
static _Atomic u64 added, mixed, maximum;
static _Atomic u8 narrow;
static _Atomic u32 spin;
static u64 under_spin;
static _Thread_local u64 own = 1000;
static int turn;
static sem_t semaphore;

static void *count(void *argument)
{
    u64 id = (u64)argument;
    for (u64 i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&mutex);
        under_mutex++;
        pthread_mutex_unlock(&mutex);
        atomic_fetch_add(&added, i);
        atomic_fetch_xor(&mixed, (id + 1) * i);
        atomic_fetch_add(&narrow, 1);
        u64 seen = atomic_load(&maximum);
        while (seen < i * id && !atomic_compare_exchange_weak(&maximum, &seen, i * id))
            ;
        while (atomic_exchange(&spin, 1))
            sched_yield();
        under_spin += 3;
        atomic_store(&spin, 0);
        own += id;
    }
    pthread_barrier_wait(&barrier);
    /* Strictly in turn. */
    for (int i = 0; i < 20; i++) {
        pthread_mutex_lock(&mutex);
        while (turn % THREADS != (int)id)
            pthread_cond_wait(&condition, &mutex);
        turn++;
        pthread_cond_broadcast(&condition);
        pthread_mutex_unlock(&mutex);
    }
    sem_post(&semaphore);
    return (void *)own;
}

/* A stack without locks: pointer and a counter against reuse are exchanged together. */
typedef struct Node { struct Node *next; u64 value; } Node;
typedef struct { Node *top; u64 changes; } __attribute__((aligned(16))) Head;
static Head head;

static int exchange_head(Head *expected, Head wanted)
{
    u8 done;
    __asm__ volatile("lock cmpxchg16b %1\n\tsetz %0"
                     : "=q"(done), "+m"(head), "+a"(expected->top), "+d"(expected->changes)
                     : "b"(wanted.top), "c"(wanted.changes) : "cc", "memory");
    return done;
}

static void push(Node *node)
{
    Head seen = head;
    do
        node->next = seen.top;
    while (!exchange_head(&seen, (Head){node, seen.changes + 1}));
}

static Node *pop(void)
{
    Head seen = {0};
    exchange_head(&seen, (Head){0});
    while (seen.top && !exchange_head(&seen, (Head){seen.top->next, seen.changes + 1}))
        ;
    return seen.top;
}

static void *shuffle(void *argument)
{
    (void)argument;
    for (int i = 0; i < ROUNDS; i++) {
        Node *first = pop(), *second = pop();
        if (first)
            push(first);
        if (second)
            push(second);
    }
    return NULL;
}

/* Dekker's pattern: with full fences both threads never read zero. */
static _Atomic int flag[2];
static int seen_flag[2];

static void *fenced(void *argument)
{
    int id = (int)(u64)argument;
    u64 violations = 0;
    for (int i = 0; i < ROUNDS; i++) {
        pthread_barrier_wait(&barrier);
        atomic_store_explicit(&flag[id], 1, memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst);
        seen_flag[id] = atomic_load_explicit(&flag[1 - id], memory_order_relaxed);
        pthread_barrier_wait(&barrier);
        if (id == 0)
            violations += !seen_flag[0] && !seen_flag[1];
        atomic_store(&flag[id], 0);
        if (i > 300)
            break;
    }
    return (void *)violations;
}

/* Message passing: x86 keeps stores in order, and loads. */
static volatile u64 payload, published;

static void *producer(void *argument)
{
    for (u64 i = 1; i <= ROUNDS; i++) {
        payload = i * 7;
        __asm__ volatile("" ::: "memory");
        published = i;
    }
    return argument;
}

static void *consumer(void *argument)
{
    u64 wrong = 0, seen;
    do {
        seen = published;
        __asm__ volatile("" ::: "memory");
        wrong += payload < seen * 7;
        if (seen == 0)
            sched_yield();
    } while (seen < ROUNDS);
    (void)argument;
    return (void *)wrong;
}

int main(void)
{
    pthread_t threads[THREADS];
    pthread_barrier_init(&barrier, NULL, THREADS);
    sem_init(&semaphore, 0, 0);
    for (u64 i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, count, (void *)i))
            DIE("pthread_create");
    u64 results[THREADS];
    for (int i = 0; i < THREADS; i++) {
        sem_wait(&semaphore);
        void *result;
        pthread_join(threads[i], &result);
        results[i] = (u64)result;
    }
    printf("mutex %lu spin %lu atomic %lu xor %lu max %lu narrow %u turns %d\n", under_mutex, under_spin,
           (u64)added, (u64)mixed, (u64)maximum, (unsigned)narrow, turn);
    for (int i = 0; i < THREADS; i++)
        printf("thread %d: its own variable %lu\n", i, results[i]);
    printf("own variable of the first thread %lu\n", own);

    static Node nodes[32];
    for (u64 i = 0; i < 32; i++) {
        nodes[i].value = i + 1;
        push(&nodes[i]);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, shuffle, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    u64 sum = 0, left = 0;
    for (Node *node; (node = pop()) != NULL; left++)
        sum += node->value;
    printf("stack: %lu nodes, sum %lu\n", left, sum);

    pthread_barrier_destroy(&barrier);
    pthread_barrier_init(&barrier, NULL, 2);
    void *violations, *wrong;
    pthread_create(&threads[0], NULL, fenced, (void *)0);
    pthread_create(&threads[1], NULL, fenced, (void *)1);
    pthread_join(threads[0], &violations);
    pthread_join(threads[1], NULL);
    pthread_create(&threads[0], NULL, producer, NULL);
    pthread_create(&threads[1], NULL, consumer, NULL);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], &wrong);
    printf("fences violated %lu, order violated %lu\n", (u64)violations, (u64)wrong);

    /* Many short-lived threads: stacks are mapped and unmapped while others run. */
    u64 total = 0;
    for (int round = 0; round < 30; round++) {
        for (u64 i = 0; i < THREADS; i++)
            pthread_create(&threads[i], NULL, producer, (void *)i);
        for (int i = 0; i < THREADS; i++) {
            void *result;
            pthread_join(threads[i], &result);
            total += (u64)result;
        }
    }
    printf("short-lived threads: %lu\n", total);
    return 0;
}
