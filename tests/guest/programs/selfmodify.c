/* Code that changes: in a loop, just ahead, across pages, through another address, under another thread. */
#include "common.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
typedef u64 (*Function)(u64);

static u8 *code;

static u8 *put(u8 *at, const void *bytes, size_t size)
{
    memcpy(at, bytes, size);
    return at + size;
}
#define PUT(at, ...) put(at, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

static u8 *put_immediate(u8 *at, u32 value) { return put(at, &value, 4); }

/* mov $constant, %eax; ret, with another constant each time. */
static void rewritten_in_a_loop(void)
{
    u64 sum = 0, wrong = 0;
    u8 *at = PUT(code, 0xB8);
    PUT(put_immediate(at, 0), 0xC3);
    for (u32 i = 0; i < 3000; i++) {
        put_immediate(at, i * 3);
        u64 result = ((Function)(void *)code)(0);
        wrong += result != i * 3;
        sum += result;
    }
    printf("rewritten in a loop: sum %lu wrong %lu\n", sum, wrong);
}

/* A new function at the same place, of changing length. */
static void generated_functions(void)
{
    Digest digest = digest_start();
    for (int round = 0; round < 200; round++) {
        u8 *at = PUT(code, 0x48, 0x89, 0xF8); /* mov %rdi, %rax */
        u64 expected = 1000 + (u64)round;
        int count = 1 + round % 37;
        for (int i = 0; i < count; i++) {
            u32 operand = (u32)(next_random() >> 34);
            switch (next_random() % 4) {
            case 0: at = put_immediate(PUT(at, 0x48, 0x05), operand), expected += operand; break;
            case 1: at = put_immediate(PUT(at, 0x48, 0x35), operand), expected ^= operand; break;
            case 2: at = put_immediate(PUT(at, 0x48, 0x69, 0xC0), operand), expected *= operand; break;
            default: at = PUT(at, 0x48, 0xC1, 0xC0, 13), expected = expected << 13 | expected >> 51; break;
            }
        }
        PUT(at, 0xC3);
        u64 result = ((Function)(void *)code)(1000 + (u64)round);
        if (result != expected)
            printf("generated function %d gave %lx, not %lx\n", round, result, expected);
        digest_u64(&digest, result);
    }
    digest_print("generated functions", digest);
}

/* Each instruction overwrites the operand of the next one, which the processor may have fetched. */
static void next_instruction(void)
{
    u64 wrong = 0, sum = 0;
    for (u32 i = 0; i < 500; i++) {
        /* mov %edi, 1+next(%rip); next: mov $0, %eax; ret */
        u8 *at = PUT(code, 0x89, 0x3D, 1, 0, 0, 0, 0xB8, 0, 0, 0, 0, 0xC3);
        (void)at;
        u64 result = ((Function)(void *)code)(i + 7);
        wrong += result != i + 7;
        sum += result;
    }
    printf("next instruction: sum %lu wrong %lu\n", sum, wrong);
}

/* A loop that changes its own step while it runs. */
static void changing_loop(void)
{
    /* xor %eax,%eax; mov $100,%ecx; loop: add $1,%eax; incb step(%rip); dec %ecx; jnz loop; ret */
    static const u8 loop[] = {0x31, 0xC0, 0xB9, 100, 0, 0, 0, 0x83, 0xC0, 1, 0xFE, 0x05, 0xF9, 0xFF, 0xFF, 0xFF,
                              0xFF, 0xC9, 0x75, 0xF3, 0xC3};
    put(code, loop, sizeof loop);
    i32 expected = 0;
    i8 step = 1;
    for (int i = 0; i < 100; i++)
        expected += step++;
    printf("changing loop: %d expected %d\n", (i32)((Function)(void *)code)(0), expected);
}

/* One instruction lies in two pages; each half is changed in turn. */
static void across_pages(void)
{
    u64 wrong = 0;
    for (int offset = 1; offset < 10; offset++) {
        u8 *start = code + PAGE - offset;
        /* movabs $constant, %rax; ret */
        u64 constant = 0x1122334455667788;
        u8 *end = put(PUT(start, 0x48, 0xB8), &constant, 8);
        PUT(end, 0xC3);
        for (int i = 0; i < 40; i++) {
            u8 *byte = start + 2 + i % 8;
            *byte = (u8)next_random();
            memcpy(&constant, start + 2, 8);
            wrong += ((Function)(void *)start)(0) != constant;
        }
    }
    printf("across pages: wrong %lu\n", wrong);
}

/* Code is written at one address and executed at another. */
static void through_an_alias(void)
{
    int file = memfd_create("code", 0);
    if (file < 0 || ftruncate(file, 2 * PAGE))
        DIE("memfd_create");
    u8 *writable = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    u8 *executable = mmap(NULL, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
    u64 wrong = 0;
    u8 *at = PUT(writable + 64, 0xB8);
    PUT(put_immediate(at, 0), 0xC3);
    for (u32 i = 0; i < 500; i++) {
        if (i & 1)
            put_immediate(at, i);
        else if (pwrite(file, &i, 4, 65) != 4) /* the kernel writes it */
            DIE("pwrite");
        wrong += ((Function)(void *)(executable + 64))(0) != i;
    }
    printf("through an alias: wrong %lu\n", wrong);
    close(file);
}

/* As a careful JIT does: writable or executable, never both. */
static void protected_between(void)
{
    u64 wrong = 0;
    for (u32 i = 0; i < 150; i++) {
        mprotect(code, PAGE, PROT_READ | PROT_WRITE);
        u8 *at = PUT(code, 0xB8);
        PUT(put_immediate(at, i), 0xC3);
        mprotect(code, PAGE, PROT_READ | PROT_EXEC);
        wrong += ((Function)(void *)code)(0) != i;
    }
    mprotect(code, 4 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    printf("protected between: wrong %lu\n", wrong);
}

/* Data beside code in one page: writing it must not disturb. */
static void data_beside_code(void)
{
    u8 *at = PUT(code, 0x48, 0x8B, 0x05);                     /* mov data(%rip), %rax */
    at = put_immediate(at, (u32)(2048 - 7));
    PUT(at, 0x48, 0xFF, 0x05, 0xF2, 0x07, 0, 0, 0xC3);         /* incq data(%rip); ret */
    *(u64 *)(code + 2048) = 0;
    u64 sum = 0;
    for (int i = 0; i < 2000; i++)
        sum += ((Function)(void *)code)(0);
    printf("data beside code: %lu\n", sum);
}

/* Another thread runs the code while this one changes it, one aligned word at a time. */
static _Atomic int go_on = 1;
static _Atomic u64 highest;

static void *run_changing(void *argument)
{
    u64 backwards = 0, last = 0;
    while (go_on) {
        u64 value = ((Function)(void *)(code + 2 * PAGE))(0);
        backwards += value < last;
        last = value;
        atomic_store(&highest, value);
    }
    (void)argument;
    return (void *)backwards;
}

static void under_another_thread(void)
{
    u8 *function = code + 2 * PAGE;
    /* nopw; nop; mov $constant, %eax with the constant aligned; ret */
    PUT(function, 0x66, 0x90, 0x90, 0xB8, 0, 0, 0, 0, 0xC3);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, run_changing, NULL);
    u64 late = 0;
    for (u32 i = 1; i <= 200; i++) {
        __atomic_store_n((u32 *)(void *)(function + 4), i, __ATOMIC_SEQ_CST);
        /* The others must see it in the end. */
        u64 tries = 0;
        while (atomic_load(&highest) < i && tries++ < 100000000)
            sched_yield();
        late += atomic_load(&highest) < i;
    }
    go_on = 0;
    u64 backwards = 0;
    for (int i = 0; i < 2; i++) {
        void *result;
        pthread_join(threads[i], &result);
        backwards += (u64)result;
    }
    printf("under another thread: backwards %lu, never seen %lu\n", backwards, late);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    code = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED)
        DIE("mmap");
    rewritten_in_a_loop();
    generated_functions();
    next_instruction();
    changing_loop();
    across_pages();
    through_an_alias();
    protected_between();
    data_beside_code();
    under_another_thread();
    return 0;
}
