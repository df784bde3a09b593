/* diskcheck DEVICE SECONDS SEED: random reads and writes, many at the same time, each read compared with what was written.
 *
 * Sizes from a sector to 256 KiB at any sector, up to 24 in flight, none of them overlapping; now and then a flush, a
 * discard or a write of zeros of a range (BLKDISCARD leaves what is in it open, BLKZEROOUT does not). A sector's contents
 * tell its number and how often it was written. Prints "@@checked <operations> <bytes>", or what is wrong and exits with 1.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DEPTH 24
#define MOST 512 /* sectors of one request */
#define UNKNOWN 0xFFFFFFFFu

static uint64_t state;
static uint32_t *version; /* of each sector: 0 reads as zeros */

static uint64_t below(uint64_t limit)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % limit;
}

static void fill(uint64_t *words, uint64_t sector, uint32_t number)
{
    for (int i = 0; i < 64; i++)
        words[i] = number ? (sector << 32 | number) * 0x9E3779B97F4A7C15u + i : 0;
}

static void check(const uint64_t *words, uint64_t sector, uint32_t number)
{
    uint64_t expected[64];
    if (number == UNKNOWN)
        return;
    fill(expected, sector, number);
    for (int i = 0; i < 64; i++) {
        if (words[i] != expected[i]) {
            printf("@@wrong sector %llu word %d: %016llx instead of %016llx (version %u)\n", (unsigned long long)sector,
                   i, (unsigned long long)words[i], (unsigned long long)expected[i], number);
            exit(1);
        }
    }
}

struct slot {
    struct iocb request;
    uint64_t *buffer;
    uint64_t sector, count;
    int is_busy, is_write;
};

static struct slot slots[DEPTH];

static int overlaps(uint64_t sector, uint64_t count)
{
    for (int i = 0; i < DEPTH; i++)
        if (slots[i].is_busy && slots[i].sector < sector + count && sector < slots[i].sector + slots[i].count)
            return 1;
    return 0;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

int main(int argc, char **argv)
{
    uint64_t size, operations = 0, bytes = 0;
    aio_context_t context = 0;
    struct io_event events[DEPTH];
    struct timespec start, now;
    uint32_t next = 1;
    int fd = argc == 4 ? open(argv[1], O_RDWR | O_DIRECT) : -1, in_flight = 0;
    if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size) || syscall(SYS_io_setup, DEPTH, &context))
        fail("diskcheck DEVICE SECONDS SEED");
    state = strtoull(argv[3], NULL, 0) * 2 + 1;
    uint64_t sectors = size / 512;
    version = malloc(sectors * sizeof *version);
    memset(version, 0xFF, sectors * sizeof *version);
    for (int i = 0; i < DEPTH; i++)
        if (posix_memalign((void **)&slots[i].buffer, 512, MOST * 512 + 512))
            fail("memory");
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        for (int i = 0; i < DEPTH; i++) {
            struct slot *slot = &slots[i];
            if (slot->is_busy || below(4) == 0)
                continue;
            uint64_t count = 1 + below(below(3) ? 16 : MOST), sector = below(sectors - count);
            if (overlaps(sector, count))
                continue;
            slot->sector = sector;
            slot->count = count;
            slot->is_busy = 1;
            slot->is_write = below(2);
            if (slot->is_write) {
                for (uint64_t j = 0; j < count; j++)
                    fill(slot->buffer + 64 * j, sector + j, next);
            } else {
                memset(slot->buffer, 0xEE, count * 512);
            }
            memset(&slot->request, 0, sizeof slot->request);
            slot->request.aio_data = next++;
            slot->request.aio_lio_opcode = slot->is_write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
            slot->request.aio_fildes = fd;
            slot->request.aio_buf = (uintptr_t)slot->buffer;
            slot->request.aio_nbytes = count * 512;
            slot->request.aio_offset = sector * 512;
            struct iocb *list[1] = {&slot->request};
            if (syscall(SYS_io_submit, context, 1, list) != 1)
                fail("io_submit");
            in_flight++;
        }
        uint64_t range[2] = {below(sectors / 8) * 4096, (1 + below(64)) * 4096};
        uint64_t first = range[0] / 512, count = range[1] / 512;
        if (below(8) == 0 && first + count <= sectors && !overlaps(first, count)) {
            int is_discard = below(2);
            if (ioctl(fd, is_discard ? BLKDISCARD : BLKZEROOUT, range))
                fail("discard or zeros");
            for (uint64_t j = 0; j < count; j++)
                version[first + j] = is_discard ? UNKNOWN : 0;
        }
        if (below(64) == 0 && fdatasync(fd))
            fail("fdatasync");
        int done = syscall(SYS_io_getevents, context, in_flight ? 1 : 0, DEPTH, events, NULL);
        for (int i = 0; i < done; i++) {
            struct slot *slot = (struct slot *)(uintptr_t)events[i].obj;
            if (events[i].res != (int64_t)(slot->count * 512)) {
                printf("@@wrong result %lld for %llu sectors at %llu\n", (long long)events[i].res,
                       (unsigned long long)slot->count, (unsigned long long)slot->sector);
                return 1;
            }
            for (uint64_t j = 0; j < slot->count; j++) {
                if (slot->is_write)
                    version[slot->sector + j] = (uint32_t)events[i].data;
                else
                    check(slot->buffer + 64 * j, slot->sector + j, version[slot->sector + j]);
            }
            slot->is_busy = 0;
            in_flight--;
            operations++;
            bytes += slot->count * 512;
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - start.tv_sec + 1e-9 * (now.tv_nsec - start.tv_nsec) < atof(argv[2]));
    while (in_flight > 0)
        in_flight -= syscall(SYS_io_getevents, context, 1, DEPTH, events, NULL);
    printf("@@checked %llu %llu\n", (unsigned long long)operations, (unsigned long long)bytes);
    return 0;
}
