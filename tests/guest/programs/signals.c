/* Signals: what a handler sees of a fault, its own stack, timers, nesting, and that all registers survive. */
#include "common.h"
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile int caught;
static volatile siginfo_t last_info;
static volatile greg_t last_registers[NGREG];
static u8 *page;

static void jump_back(int number, siginfo_t *info, void *context)
{
    ucontext_t *state = context;
    caught = number;
    memcpy((void *)&last_info, info, sizeof *info);
    memcpy((void *)last_registers, state->uc_mcontext.gregs, sizeof last_registers);
    siglongjmp(back, 1);
}

static void install(int number, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    sigemptyset(&action.sa_mask);
    if (sigaction(number, &action, NULL))
        DIE("sigaction");
}

static void report(const char *what, int has_address)
{
    printf("%-24s signal %d code %d trap %lld error %llx", what, caught, last_info.si_code,
           last_registers[REG_TRAPNO], last_registers[REG_ERR]);
    if (has_address)
        printf(" address page%+ld", (long)((u8 *)last_info.si_addr - page));
    printf("\n");
}

#define CATCH(what, has_address, ...)           \
    do {                                        \
        caught = 0;                             \
        if (!sigsetjmp(back, 1)) {              \
            __VA_ARGS__;                        \
        }                                       \
        report(what, has_address);              \
    } while (0)

static void faults(void)
{
    page = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(page + 4096, 4096, PROT_READ);
    mprotect(page + 8192, 4096, PROT_NONE);
    munmap(page + 3 * 4096, 4096);
    install(SIGSEGV, jump_back, SA_NODEFER);
    install(SIGFPE, jump_back, SA_NODEFER);
    install(SIGILL, jump_back, SA_NODEFER);
    install(SIGTRAP, jump_back, SA_NODEFER);
    install(SIGBUS, jump_back, SA_NODEFER);
    volatile int zero = 0;
    volatile int sink;
    CATCH("read of a null pointer", 0, sink = *(volatile int *)(u64)zero);
    CATCH("write to read-only", 1, page[4096 + 5] = 1);
    CATCH("read of no access", 1, sink = page[8192 + 7]);
    CATCH("write to unmapped", 1, page[3 * 4096 + 9] = 1);
    CATCH("word across pages", 1, *(volatile u64 *)(page + 4096 - 3) = 1);
    CATCH("execute data", 1, ((void (*)(void))(void *)page)());
    CATCH("jump to unmapped", 1, ((void (*)(void))(void *)(page + 3 * 4096 + 1))());
    CATCH("non-canonical read", 0, sink = *(volatile int *)0x8000000000000000);
    CATCH("non-canonical jump", 0, __asm__ volatile("jmp *%0" : : "r"(0x1234000000000000)));
    CATCH("divide by zero", 0, __asm__ volatile("cltd\n\tidivl %0" : : "r"(zero), "a"(1) : "rdx", "cc"));
    CATCH("quotient too large", 0, __asm__ volatile("cltd\n\tidivl %0" : : "r"(-1), "a"(1u << 31) : "rdx", "cc"));
    CATCH("undefined instruction", 0, __asm__ volatile("ud2"));
    CATCH("breakpoint", 0, __asm__ volatile("int3"));
    CATCH("one-byte debug trap", 0, __asm__ volatile(".byte 0xf1"));
    CATCH("misaligned vector", 0, __asm__ volatile("movaps %0, %%xmm0" : : "m"(page[1])));
    CATCH("string across pages", 1, {
        void *target = page + 4096 - 10;
        u64 count = 64;
        __asm__ volatile("rep stosb" : "+D"(target), "+c"(count) : "a"(0x77) : "memory");
    });
    printf("  left of the string: rcx %lld rdi page%+ld\n", last_registers[REG_RCX],
           (long)((u8 *)last_registers[REG_RDI] - page));
    CATCH("x87 invalid, unmasked", 0, {
        u16 control = 0x037E;
        __asm__ volatile("fninit\n\tfldcw %0\n\tfldz\n\tfldz\n\tfdivp\n\tfwait" : : "m"(control));
    });
    __asm__ volatile("fninit");
    CATCH("SSE division, unmasked", 0, {
        u32 control = 0x1F80 & ~0x200u;
        double one = 1, none = 0;
        __asm__ volatile("ldmxcsr %0\n\tdivsd %2, %1" : : "m"(control), "x"(one), "x"(none));
    });
    u32 standard = 0x1F80;
    __asm__ volatile("ldmxcsr %0" : : "m"(standard));
    (void)sink;
}

/* The handler repairs what was wrong, and the instruction is repeated. */
static void repair(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    caught++;
    mprotect((void *)((u64)info->si_addr & ~4095ull), 4096, PROT_READ | PROT_WRITE);
}

static void repaired(void)
{
    enum { PAGES = 64 };
    volatile u64 *memory = mmap(NULL, PAGES * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    install(SIGSEGV, repair, 0);
    caught = 0;
    u64 sum = 0;
    for (int i = 0; i < PAGES; i++) {
        memory[i * 512 + i] += (u64)i;
        sum += memory[i * 512 + i];
    }
    printf("repaired %d faults, sum %lu\n", caught, sum);
}

/* The handler changes registers and the place to go on. */
static void skip_instruction(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    ucontext_t *state = context;
    state->uc_mcontext.gregs[REG_RIP] += 2;
    state->uc_mcontext.gregs[REG_RBX] = 0x1122334455667788;
    state->uc_mcontext.gregs[REG_EFL] |= 1;
}

static void changed_registers(void)
{
    install(SIGILL, skip_instruction, 0);
    u64 value = 5, carry = 0;
    __asm__ volatile("clc\n\tud2\n\tadc $0, %1" : "+b"(value), "+r"(carry) : : "cc");
    printf("changed registers: %lx carry %lu\n", value, carry);
}

static char other_stack[64 * 1024] __attribute__((aligned(16)));
static volatile int on_other_stack, depth, deepest;

static void where(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info, (void)context;
    char here;
    on_other_stack = &here >= other_stack && &here < other_stack + sizeof other_stack;
    siglongjmp(back, 1);
}

__attribute__((noinline)) static int overflow_stack(volatile int *depth_of_stack)
{
    volatile char space[4000];
    space[0] = (char)++*depth_of_stack;
    if (*depth_of_stack > 1000000)
        return 0;
    return overflow_stack(depth_of_stack) + space[0];
}

static void *overflow_in_thread(void *argument)
{
    stack_t stack = {.ss_sp = other_stack, .ss_size = sizeof other_stack};
    sigaltstack(&stack, NULL);
    install(SIGSEGV, where, SA_ONSTACK);
    volatile int count = 0;
    if (!sigsetjmp(back, 1))
        overflow_stack(&count);
    printf("stack overflow: handled on the other stack %d, deep enough %d\n", on_other_stack, count > 20);
    return argument;
}

static void nested(int number)
{
    depth++;
    if (depth > deepest)
        deepest = depth;
    if (number == SIGUSR1)
        raise(SIGUSR2);
    else if (number == SIGUSR2)
        raise(SIGWINCH);
    depth--;
}

static volatile int ticks;
static void tick(int number) { (void)number, ticks++; }

/* A timer interrupts a loop that keeps values in every register; they must all survive. */
static void timers(void)
{
    signal(SIGALRM, tick);
    struct itimerval interval = {{0, 2000}, {0, 2000}};
    setitimer(ITIMER_REAL, &interval, NULL);
    u64 wrong = 0;
    time_t limit = time(NULL) + 20;
    while (ticks < 12 && time(NULL) < limit) {
        u64 result;
        double sum = 0.5;
        __asm__ volatile(
            "mov $20000, %%rcx\n\tmov $1, %%rax\n\tmov $2, %%rbx\n\tmov $3, %%rdx\n\tmov $4, %%rsi\n\tmov $5, %%rdi\n\t"
            "mov $6, %%r8\n\tmov $7, %%r9\n\tmov $8, %%r10\n\tmov $9, %%r11\n\tmov $10, %%r12\n\tmov $11, %%r13\n\t"
            "mov $12, %%r14\n\tmov $13, %%r15\n\tmovapd %1, %%xmm15\n\tfld1\n\t"
            "1: addsd %1, %%xmm15\n\tdec %%rcx\n\tjnz 1b\n\t"
            "add %%rbx, %%rax\n\tadd %%rdx, %%rax\n\tadd %%rsi, %%rax\n\tadd %%rdi, %%rax\n\tadd %%r8, %%rax\n\t"
            "add %%r9, %%rax\n\tadd %%r10, %%rax\n\tadd %%r11, %%rax\n\tadd %%r12, %%rax\n\tadd %%r13, %%rax\n\t"
            "add %%r14, %%rax\n\tadd %%r15, %%rax\n\tfld1\n\tfaddp\n\tmovapd %%xmm15, %1\n\t"
            "sub $8, %%rsp\n\tfistpll (%%rsp)\n\tpop %%rbx\n\tadd %%rbx, %%rax"
            : "=&a"(result), "+x"(sum) : : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
              "r14", "r15", "xmm15", "cc", "memory");
        wrong += result != 93 || sum != 10000.5;
    }
    interval = (struct itimerval){{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &interval, NULL);
    printf("timer: enough ticks %d, registers wrong %lu\n", ticks >= 12, wrong);
}

static volatile int received;
static void on_queue(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    received = received * 10 + info->si_value.sival_int;
}

static void queued(void)
{
    sigset_t set, old;
    install(SIGRTMIN, on_queue, 0);
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, &old);
    for (int i = 1; i <= 5; i++)
        sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i});
    printf("queued: before %d", received);
    sigprocmask(SIG_SETMASK, &old, NULL);
    printf(" after %d\n", received);
    int pipe_ends[2];
    char byte;
    pipe(pipe_ends);
    struct sigaction action = {.sa_handler = tick};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval once = {{0, 20000}, {0, 20000}};
    setitimer(ITIMER_REAL, &once, NULL);
    long got = read(pipe_ends[0], &byte, 1);
    int error = errno;
    once = (struct itimerval){{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &once, NULL);
    printf("interrupted read: %ld, EINTR %d\n", got, error == EINTR);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    faults();
    repaired();
    changed_registers();
    pthread_t thread;
    pthread_create(&thread, NULL, overflow_in_thread, NULL);
    pthread_join(thread, NULL);
    signal(SIGUSR1, nested);
    signal(SIGUSR2, nested);
    signal(SIGWINCH, nested);
    raise(SIGUSR1);
    printf("nested: deepest %d, now %d\n", deepest, depth);
    timers();
    queued();
    return 0;
}
