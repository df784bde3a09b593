/* Control flow: setjmp, contexts, deep recursion, function pointers, big switches, varargs, exceptions by hand. */
#include "common.h"
#include <setjmp.h>
#include <stdarg.h>
#include <ucontext.h>

static jmp_buf place;

__attribute__((noinline)) static void fall(int depth)
{
    if (depth == 0)
        longjmp(place, 17);
    volatile double keeps[4] = {depth, depth, depth, depth};
    fall(depth - 1);
    printf("unreachable %g\n", keeps[0]);
}

static ucontext_t main_context, contexts[3];
static char stacks[3][64 * 1024];
static u64 produced;

static void coroutine(int id)
{
    double own = id;
    for (int i = 0; i < 50; i++) {
        own = own * 1.5 - i;
        produced = produced * 31 + (u64)(id * 100 + i) + (u64)(own > 0);
        swapcontext(&contexts[id], &contexts[(id + 1) % 3]);
    }
}

static u64 ackermann(u64 m, u64 n)
{
    return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}

static u64 op_add(u64 a, u64 b) { return a + b; }
static u64 op_xor(u64 a, u64 b) { return a ^ b; }
static u64 op_mul(u64 a, u64 b) { return a * (b | 1); }
static u64 op_rotate(u64 a, u64 b) { return a << (b & 63) | a >> (-b & 63); }

static double sum_of(const char *kinds, ...)
{
    va_list list;
    double sum = 0;
    va_start(list, kinds);
    for (; *kinds; kinds++)
        switch (*kinds) {
        case 'i': sum += va_arg(list, int); break;
        case 'l': sum += (double)va_arg(list, i64); break;
        case 'd': sum += va_arg(list, double); break;
        case 'L': sum += (double)va_arg(list, long double); break;
        default: break;
        }
    va_end(list);
    return sum;
}

__attribute__((noinline)) static u64 choose(u64 selector, u64 value)
{
    switch (selector) {
    case 0: return value + 1;
    case 1: return value * 3;
    case 2: return ~value;
    case 3: return value >> 3;
    case 4: return value ^ 0x5555;
    case 5: return value - 99;
    case 6: return value << 2;
    case 7: return value / 7;
    case 8: return value % 1000003;
    case 9: return value | 0x10001;
    case 10: return value & 0xFFFFFFFFFFF;
    default: return value + selector;
    }
}

/* Moves 3 discs of Hanoi by computed jumps of a small interpreter. */
static u64 interpreter(u64 rounds)
{
    static const u8 program[] = {0, 3, 1, 2, 4, 0, 1, 3, 2, 5};
    static const void *const labels[] = {&&l0, &&l1, &&l2, &&l3, &&l4, &&l5};
    u64 a = 1, b = 2;
    const u8 *next = program;
#define NEXT goto *labels[*next++]
    NEXT;
l0: a += b; NEXT;
l1: b ^= a << 1; NEXT;
l2: a = a * 5 + 1; NEXT;
l3: b -= a; NEXT;
l4: a ^= b >> 7; NEXT;
l5:
    if (--rounds == 0)
        return a ^ b;
    next = program;
    NEXT;
}

int main(void)
{
    int value = setjmp(place);
    if (value == 0)
        fall(200);
    printf("longjmp %d\n", value);
    for (int i = 0; i < 3; i++) {
        getcontext(&contexts[i]);
        contexts[i].uc_stack.ss_sp = stacks[i];
        contexts[i].uc_stack.ss_size = sizeof stacks[i];
        contexts[i].uc_link = &main_context;
        makecontext(&contexts[i], (void (*)(void))coroutine, 1, i);
    }
    swapcontext(&main_context, &contexts[0]);
    printf("coroutines %lx\n", produced);
    printf("ackermann %lu\n", ackermann(2, 40));
    u64 (*operations[])(u64, u64) = {op_add, op_xor, op_mul, op_rotate};
    u64 result = 1;
    for (int i = 0; i < 20000; i++)
        result = operations[next_random() & 3](result, (u64)i);
    printf("function pointers %lx\n", result);
    for (int i = 0; i < 20000; i++)
        result = choose(next_random() % 13, result);
    printf("switch %lx\n", result);
    printf("interpreter %lx\n", interpreter(3000));
    printf("varargs %.10g\n", sum_of("idlLidddddddddii", 1, 2.5, (i64)1 << 40, 3.25L, 4, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6,
                                     0.7, 0.8, 0.9, 7, 8));
    return 0;
}
