/* What a process costs: fork, exec of a small program (this one), exit, wait. */
#include "measure.h"
#include <sys/wait.h>
#include <unistd.h>

static char *self;

static uint64_t work(uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            char *arguments[] = {self, "-", NULL}, *environment[] = {NULL};
            execve(self, arguments, environment);
            _exit(127);
        }
        int status;
        waitpid(child, &status, 0);
        sum += (uint64_t)WEXITSTATUS(status);
    }
    return sum;
}

int main(int argc, char **argv)
{
    if (argc > 1 && argv[1][0] == '-')
        return 1;
    self = argv[0];
    return measure(argc, argv, work);
}
