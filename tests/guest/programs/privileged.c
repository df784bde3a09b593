/* What a program may not do: each attempt ends in the fault the manual names, and changes nothing. */
#include "common.h"
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

static sigjmp_buf back;
static volatile int caught, code;
static volatile long long trap, error;

static void jump_back(int number, siginfo_t *info, void *context)
{
    ucontext_t *state = context;
    caught = number, code = info->si_code;
    trap = state->uc_mcontext.gregs[REG_TRAPNO], error = state->uc_mcontext.gregs[REG_ERR];
    siglongjmp(back, 1);
}

#define TRY(...)                                                                                        \
    do {                                                                                                \
        caught = 0, code = 0, trap = 0, error = 0;                                                      \
        if (!sigsetjmp(back, 1))                                                                        \
            __asm__ volatile(__VA_ARGS__);                                                              \
        const char *text = #__VA_ARGS__;                                                                \
        printf("%-44.44s signal %2d code %3d trap %2lld error %llx\n", text, caught, code, trap, error); \
    } while (0)

int main(void)
{
    static u8 table[16] = {0xFF, 0xFF};
    struct sigaction action = {.sa_sigaction = jump_back, .sa_flags = SA_SIGINFO};
    for (int number = 1; number < 32; number++)
        if (number == SIGSEGV || number == SIGILL || number == SIGBUS || number == SIGTRAP || number == SIGFPE)
            sigaction(number, &action, NULL);
    TRY("cli");
    TRY("sti");
    TRY("hlt");
    TRY("in $0x60, %%al" : : : "rax");
    TRY("inl %%dx, %%eax" : : "d"(0xCF8) : "rax");
    TRY("out %%al, $0x80" : : );
    TRY("outl %%eax, %%dx" : : "d"(0xCFC));
    TRY("rep insb" : : "d"(0x3F8), "D"(table), "c"(1) : "memory");
    TRY("outsl" : : "d"(0x3F8), "S"(table));
    TRY("mov %%cr0, %%rax" : : : "rax");
    TRY("mov %%rax, %%cr0" : : "a"(0));
    TRY("mov %%cr2, %%rax" : : : "rax");
    TRY("mov %%cr3, %%rax" : : : "rax");
    TRY("mov %%rax, %%cr3" : : "a"(0));
    TRY("mov %%rax, %%cr4" : : "a"(0));
    TRY("mov %%cr8, %%rax" : : : "rax");
    TRY("mov %%rax, %%cr8" : : "a"(0));
    TRY("mov %%db0, %%rax" : : : "rax");
    TRY("mov %%rax, %%db7" : : "a"(0));
    TRY("rdmsr" : : "c"(0xC0000080) : "rax", "rdx");
    TRY("wrmsr" : : "c"(0xC0000080), "a"(0), "d"(0));
    TRY("lgdt %0" : : "m"(table));
    TRY("lidt %0" : : "m"(table));
    TRY("lldt %%ax" : : "a"(0));
    TRY("ltr %%ax" : : "a"(0x40));
    TRY("clts");
    TRY("invd");
    TRY("wbinvd");
    TRY("invlpg %0" : : "m"(table));
    TRY("swapgs");
    TRY("sysretq");
    TRY("lmsw %%ax" : : "a"(0));
    TRY("int $0x20");
    TRY("int $0x0D");
    TRY("int $0xFF");
    TRY("mov %%ax, %%ds" : : "a"(0x10));
    TRY("mov %%ax, %%ss" : : "a"(0));
    TRY("mov %%ax, %%fs" : : "a"(0xFFF8));
    TRY("pushq $0x10\n\tlea 1f(%%rip), %%rax\n\tpush %%rax\n\tlretq\n\t1:" : : : "rax");
    TRY("mov %%ss, %%rdx\n\tpush $0\n\tpush %%rsp\n\tpushf\n\tpush $0x10\n\tlea 1f(%%rip), %%rax\n\tpush %%rax\n\tiretq\n\t1:" : : : "rax", "rdx");
    TRY("mov (%0), %%rax" : : "r"(0xFFFFFFFF81000000) : "rax");
    TRY("mov (%0), %%rax" : : "r"(0xFFFF888000000000) : "rax");
    TRY("movq $0, (%0)" : : "r"(0xFFFFFFFF82000000) : "memory");
    TRY("movq $0, (%0)" : : "r"(0xFFFFFE0000000000) : "memory");
    TRY("jmp *%0" : : "r"(0xFFFFFFFF81000000));
    TRY("mov (%0), %%rax" : : "r"(0xFFFFFFFFFFFFFFF8) : "rax");
    TRY("fxsave %0" : : "m"(table[1]) : "memory");
    TRY("lock\n\tnop");
    TRY("xsetbv" : : "c"(0), "a"(1), "d"(0));
    TRY("monitor" : : "a"(table), "c"(0), "d"(0));

    /* POPF by a program keeps the interrupt flag and the I/O privilege level, silently. */
    u64 before, after;
    __asm__ volatile("pushf\n\tpop %0\n\tpush %0\n\txorl $0x3200, (%%rsp)\n\tpopf\n\tpushf\n\tpop %1"
                     : "=&r"(before), "=&r"(after) : : "cc", "memory");
    printf("popf changed %lx\n", (before ^ after) & 0x3200);
    /* What is allowed. */
    u16 cs, ss, selector = 0x33;
    u8 readable, writable;
    u32 limit = 0, rights = 0;
    __asm__ volatile("mov %%cs, %0\n\tmov %%ss, %1" : "=r"(cs), "=r"(ss));
    __asm__ volatile("verr %2\n\tsetz %0\n\tverw %2\n\tsetz %1" : "=q"(readable), "=q"(writable) : "r"(selector) : "cc");
    __asm__ volatile("lsl %1, %0" : "+r"(limit) : "r"((u32)selector) : "cc");
    __asm__ volatile("lar %1, %0" : "+r"(rights) : "r"((u32)selector) : "cc");
    printf("cs %x ss %x verr %d verw %d lsl %x lar %x\n", cs, ss, readable, writable, limit, rights & 0xF0FF00);
    selector = 0x10;
    __asm__ volatile("verr %1\n\tsetz %0" : "=q"(readable) : "r"(selector) : "cc");
    printf("kernel segment verr %d\n", readable);
    return 0;
}
