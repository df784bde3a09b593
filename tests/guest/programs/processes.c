/* Processes: fork, exec, wait, pipes, copy on write, shared memory, sessions, and what a parent learns. */
#include "common.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void expect_status(const char *what, pid_t child)
{
    int status;
    if (waitpid(child, &status, 0) != child)
        DIE("waitpid");
    if (WIFEXITED(status))
        printf("%s: exit %d\n", what, WEXITSTATUS(status));
    else
        printf("%s: signal %d\n", what, WTERMSIG(status));
    fflush(stdout);
}

static u64 sum_of(const u8 *data, size_t size)
{
    u64 sum = 0;
    while (size--)
        sum += *data++;
    return sum;
}

static void copy_on_write(void)
{
    enum { SIZE = 64 * 4096 };
    u8 *private = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    u64 *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset(private, 3, SIZE);
    for (int generation = 0; generation < 8; generation++) {
        pid_t child = fork();
        if (child == 0) {
            for (int i = generation; i < SIZE; i += 4096)
                private[i] = (u8)generation;
            shared[generation] = sum_of(private, SIZE);
            _exit(generation);
        }
        private[generation * 4096] = 100;
        expect_status("child", child);
    }
    for (int i = 0; i < 8; i++)
        printf("%lu ", shared[i]);
    printf("parent %lu\n", sum_of(private, SIZE));
}

static void pipes(void)
{
    int to_child[2], from_child[2];
    if (pipe(to_child) || pipe(from_child))
        DIE("pipe");
    pid_t child = fork();
    if (child == 0) {
        u64 value;
        close(to_child[1]);
        while (read(to_child[0], &value, sizeof value) == sizeof value) {
            value = value * value + 1;
            if (write(from_child[1], &value, sizeof value) != sizeof value)
                _exit(1);
        }
        _exit(7);
    }
    close(to_child[0]), close(from_child[1]);
    Digest digest = digest_start();
    for (u64 i = 0; i < 200; i++) {
        u64 answer;
        if (write(to_child[1], &i, sizeof i) != sizeof i || read(from_child[0], &answer, sizeof answer) != sizeof answer)
            DIE("pipe");
        digest_u64(&digest, answer);
    }
    close(to_child[1]);
    expect_status("squarer", child);
    digest_print("pipe", digest);

    /* More than a pipe holds, so that both sides wait for each other. */
    int ends[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    child = fork();
    if (child == 0) {
        static u8 block[50000];
        for (int i = 0; i < 10; i++) {
            memset(block, i, sizeof block);
            for (size_t done = 0; done < sizeof block;)
                done += (size_t)write(ends[1], block + done, sizeof block - done);
        }
        _exit(0);
    }
    close(ends[1]);
    u64 sum = 0, size = 0;
    static u8 buffer[7777];
    for (long got; (got = read(ends[0], buffer, sizeof buffer)) > 0; size += (u64)got)
        sum += sum_of(buffer, (size_t)got);
    expect_status("writer", child);
    printf("socket: %lu bytes, sum %lu\n", size, sum);
}

static void endings(void)
{
    struct { const char *name; int number; } signals[] = {{"abort", SIGABRT}, {"kill", SIGKILL}, {"term", SIGTERM}};
    for (int i = 0; i < 3; i++) {
        pid_t child = fork();
        if (child == 0) {
            raise(signals[i].number);
            _exit(99);
        }
        expect_status(signals[i].name, child);
    }
    pid_t child = fork();
    if (child == 0)
        for (;;)
            pause();
    kill(child, SIGSTOP);
    int status;
    waitpid(child, &status, WUNTRACED);
    printf("stopped %d by %d\n", WIFSTOPPED(status), WSTOPSIG(status));
    kill(child, SIGCONT);
    kill(child, SIGTERM);
    expect_status("continued", child);
    child = fork();
    if (child == 0) {
        *(volatile int *)0 = 1;
        _exit(0);
    }
    expect_status("null pointer", child);
    printf("no more children: %d\n", waitpid(-1, NULL, 0) == -1 && errno == ECHILD);
}

static void executions(char *self)
{
    for (volatile int i = 0; i < 10; i++) {
        pid_t child = i & 1 ? vfork() : fork();
        if (child == 0) {
            char number[8] = {(char)('0' + i), 0};
            char *arguments[] = {self, "child", number, NULL}, *environment[] = {"KEY=value of the parent", NULL};
            execve(self, arguments, environment);
            _exit(127);
        }
        expect_status("executed", child);
    }
    pid_t child = vfork();
    if (child == 0) {
        execl("/nonexistent", "nonexistent", (char *)NULL);
        _exit(errno == ENOENT ? 42 : 43);
    }
    expect_status("no such file", child);
}

/* A tree of processes counts in shared memory. */
static void tree(void)
{
    _Atomic u64 *counter = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t top = getpid();
    for (int depth = 0; depth < 5; depth++)
        fork();
    for (int i = 0; i < 100; i++)
        atomic_fetch_add(counter, 1);
    while (wait(NULL) > 0)
        ;
    if (getpid() != top)
        _exit(0);
    printf("tree: %lu\n", (u64)*counter);
}

int main(int count, char **arguments)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count == 3) {
        printf("child %s, KEY=%s\n", arguments[2], getenv("KEY"));
        return 10 + atoi(arguments[2]);
    }
    copy_on_write();
    pipes();
    endings();
    executions(arguments[0]);
    tree();
    return 0;
}
