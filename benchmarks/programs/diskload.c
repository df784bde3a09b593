/* Load on a disk: diskload DEVICE read|write|randread|randwrite BLOCK DEPTH SECONDS
 *
 * DEPTH requests of BLOCK bytes in flight, around the page cache, by Linux's own asynchronous I/O (io_submit(2)): one
 * thread, no library. Prints "@@start", then "@@rate <requests a second> seconds <s> check <errors in hexadecimal>".
 */
#include "measure.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_DEPTH 128

static uint64_t state = 0x9E3779B97F4A7C15u;

static uint64_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "diskload DEVICE read|write|randread|randwrite BLOCK DEPTH SECONDS\n");
        return 2;
    }
    int is_random = strncmp(argv[2], "rand", 4) == 0;
    int is_write = strstr(argv[2], "write") != NULL;
    size_t block = strtoul(argv[3], NULL, 0);
    int depth = atoi(argv[4]);
    double seconds = atof(argv[5]);
    int fd = open(argv[1], (is_write ? O_RDWR : O_RDONLY) | O_DIRECT);
    uint64_t size = 0;
    aio_context_t context = 0;
    if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size) || depth < 1 || depth > MAX_DEPTH || block < 512 || size < block
        || syscall(SYS_io_setup, MAX_DEPTH, &context)) {
        perror(argv[1]);
        return 1;
    }
    uint64_t blocks = size / block, position = 0, done = 0, errors = 0;
    static struct iocb requests[MAX_DEPTH];
    struct iocb *list[MAX_DEPTH];
    struct io_event events[MAX_DEPTH];
    for (int i = 0; i < depth; i++) {
        void *buffer;
        if (posix_memalign(&buffer, 4096, block))
            return 1;
        memset(buffer, 0x5A + i, block);
        requests[i].aio_lio_opcode = is_write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
        requests[i].aio_fildes = fd;
        requests[i].aio_buf = (uintptr_t)buffer;
        requests[i].aio_nbytes = block;
        list[i] = &requests[i];
    }
    int ready = depth;
    printf("@@start\n");
    fflush(stdout);
    double started = now(), elapsed = 0;
    do {
        for (int i = 0; i < ready; i++) {
            uint64_t at = is_random ? next_random() % blocks : position++ % blocks;
            list[i]->aio_offset = at * block;
        }
        if (syscall(SYS_io_submit, context, ready, list) != ready) {
            perror("io_submit");
            return 1;
        }
        ready = syscall(SYS_io_getevents, context, 1, depth, events, NULL);
        if (ready < 1) {
            perror("io_getevents");
            return 1;
        }
        for (int i = 0; i < ready; i++) {
            list[i] = (struct iocb *)(uintptr_t)events[i].obj;
            errors += events[i].res != (int64_t)block;
        }
        done += ready;
        elapsed = now() - started;
    } while (elapsed < seconds);
    printf("@@rate %.1f seconds %.6f check %016llx\n", done / elapsed, elapsed, (unsigned long long)errors);
    fflush(stdout);
    return errors != 0;
}
