/* The debug features that a debugger uses: single steps, breakpoints in the debug registers, a child's registers. */
#include "common.h"
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static volatile int steps;
static volatile u64 step_digest;

static void on_step(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    ucontext_t *state = context;
    steps++;
    step_digest = step_digest * 31 + (u64)state->uc_mcontext.gregs[REG_RAX];
}

/* A program sets the trap flag itself. */
static void own_steps(void)
{
    struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, NULL);
    u64 value;
    __asm__ volatile("pushf\n\torl $0x100, (%%rsp)\n\tpopf\n\t"
                     "mov $1, %%eax\n\tadd $2, %%eax\n\tmov $3, %%ecx\n\t1: lea (%%rax,%%rax,2), %%eax\n\t"
                     "dec %%ecx\n\tjnz 1b\n\tcpuid\n\tmov $5, %%eax\n\tnop\n\t"
                     "pushf\n\tandl $~0x100, (%%rsp)\n\tpopf\n\tmov %%rax, %0"
                     : "=r"(value) : : "rax", "rbx", "rcx", "rdx", "cc", "memory");
    /* The value of CPUID is the machine's own business. */
    printf("own steps %d, result %lu\n", steps, value);
}

static volatile u64 watched, other;

__attribute__((noinline)) static u64 traced(u64 argument)
{
    watched = argument;
    other = argument + watched;
    watched = other;
    return other * 3;
}

#define DEBUG_REGISTER(n) (void *)offsetof(struct user, u_debugreg[n])

static void wait_stop(pid_t child, const char *what)
{
    int status;
    if (waitpid(child, &status, 0) != child)
        DIE("waitpid");
    if (!WIFSTOPPED(status)) {
        printf("%s: ended %x\n", what, status);
        exit(1);
    }
}

static void debug_registers(void)
{
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        _exit((int)traced(14));
    }
    wait_stop(child, "start");
    ptrace(PTRACE_POKEUSER, child, DEBUG_REGISTER(0), (void *)&watched);
    ptrace(PTRACE_POKEUSER, child, DEBUG_REGISTER(1), (void *)traced);
    /* 0: write of 8 bytes; 1: execution. */
    if (ptrace(PTRACE_POKEUSER, child, DEBUG_REGISTER(7), (void *)(u64)(1 | 4 | 9u << 16))) {
        printf("debug registers are not to be had\n");
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        return;
    }
    for (int i = 0; i < 3; i++) {
        ptrace(PTRACE_CONT, child, NULL, NULL);
        wait_stop(child, "stop");
        struct user_regs_struct registers;
        ptrace(PTRACE_GETREGS, child, NULL, &registers);
        u64 why = (u64)ptrace(PTRACE_PEEKUSER, child, DEBUG_REGISTER(6), NULL);
        u64 value = (u64)ptrace(PTRACE_PEEKDATA, child, (void *)&watched, NULL);
        printf("stop %d: dr6 %lx at the function %d, argument %llu, watched %lu\n", i, why & 0xF,
               registers.rip == (u64)traced, i == 0 ? registers.rdi : 0, value);
        ptrace(PTRACE_POKEUSER, child, DEBUG_REGISTER(6), NULL);
    }
    ptrace(PTRACE_CONT, child, NULL, NULL);
    int status;
    waitpid(child, &status, 0);
    printf("ended with %d\n", WEXITSTATUS(status));
}

static void steps_of_a_child(void)
{
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        __asm__ volatile("mov $0x5ead, %%eax\n\tmov $10, %%ecx\n\t1: dec %%ecx\n\tjnz 1b\n\tint3\n\t" : : : "rax", "rcx", "cc");
        _exit(3);
    }
    wait_stop(child, "start");
    int count = 0, inside = 0;
    struct user_regs_struct registers;
    for (int i = 0; i < 3000; i++) {
        ptrace(PTRACE_SINGLESTEP, child, NULL, NULL);
        wait_stop(child, "step");
        ptrace(PTRACE_GETREGS, child, NULL, &registers);
        if (registers.rax == 0x5ead)
            inside = 1;
        count += inside;
        if (inside && registers.rcx == 0)
            break;
    }
    struct user_fpregs_struct floating;
    ptrace(PTRACE_GETFPREGS, child, NULL, &floating);
    printf("steps in the loop %d, mxcsr %x\n", count, floating.mxcsr);
    ptrace(PTRACE_CONT, child, NULL, NULL);
    wait_stop(child, "breakpoint");
    registers.rip = 0;
    ptrace(PTRACE_CONT, child, NULL, NULL);
    int status;
    waitpid(child, &status, 0);
    printf("ended with %d\n", WEXITSTATUS(status));
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    own_steps();
    debug_registers();
    steps_of_a_child();
    return 0;
}
