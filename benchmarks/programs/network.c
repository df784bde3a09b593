/* One measurement of the network, as a client: network send|receive|connect|udp|ping ADDRESS PORT SECONDS.
   send, receive: bytes a second over one TCP connection. connect: TCP connections a second, one after the other, each
   opened, used for a byte each way, and closed. udp, ping: round trips a second, of a datagram and of an ICMP echo. */
#include "measure.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <sys/socket.h>
#include <unistd.h>

static struct sockaddr_in target;
static char buffer[1 << 18];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int connected(int type, int protocol)
{
    int fd = socket(AF_INET, type, protocol);
    if (fd < 0)
        fail("socket");
    struct timeval limit = {5, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&target, sizeof target) < 0)
        fail("connect");
    return fd;
}

static uint64_t send_some(int fd)
{
    ssize_t size = write(fd, buffer, sizeof buffer);
    if (size <= 0)
        fail("write");
    return (uint64_t)size;
}

static uint64_t receive_some(int fd)
{
    ssize_t size = read(fd, buffer, sizeof buffer);
    if (size <= 0)
        fail("read");
    return (uint64_t)size;
}

static uint64_t connect_once(int fd)
{
    (void)fd;
    int each = connected(SOCK_STREAM, 0);
    char byte = 'x';
    if (write(each, &byte, 1) != 1 || read(each, &byte, 1) != 1)
        fail("exchange");
    close(each);
    return 1;
}

static uint64_t datagram_once(int fd)
{
    if (write(fd, buffer, 64) != 64 || read(fd, buffer, sizeof buffer) != 64)
        fail("datagram");
    return 1;
}

static uint16_t checksum(const uint16_t *words, int count)
{
    uint32_t sum = 0;
    for (int i = 0; i < count; i++)
        sum += words[i];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static uint64_t ping_once(int fd)
{
    static uint16_t number;
    union {
        struct icmphdr header;
        uint16_t words[32];
    } request;
    memset(&request, 0, sizeof request);
    request.header.type = ICMP_ECHO;
    request.header.un.echo.id = 0x4d4e;
    request.header.un.echo.sequence = ++number;
    request.header.checksum = checksum(request.words, 32);
    if (write(fd, &request, sizeof request) != sizeof request)
        fail("write");
    for (;;) {
        ssize_t size = read(fd, buffer, sizeof buffer);
        if (size < 28)
            fail("no answer");
        struct icmphdr *answer = (struct icmphdr *)(buffer + 20);
        if (answer->type == ICMP_ECHOREPLY && answer->un.echo.sequence == number)
            return 1;
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int type, protocol;
        uint64_t (*work)(int fd);
    } modes[] = {
        {"send", SOCK_STREAM, 0, send_some},       {"receive", SOCK_STREAM, 0, receive_some},
        {"connect", 0, 0, connect_once},           {"udp", SOCK_DGRAM, 0, datagram_once},
        {"ping", SOCK_RAW, IPPROTO_ICMP, ping_once},
    };
    if (argc != 5)
        return 2;
    target.sin_family = AF_INET;
    target.sin_port = htons((uint16_t)atoi(argv[3]));
    if (inet_pton(AF_INET, argv[2], &target.sin_addr) != 1)
        return 2;
    double seconds = atof(argv[4]);
    for (unsigned i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        if (strcmp(argv[1], modes[i].name))
            continue;
        int fd = modes[i].type ? connected(modes[i].type, modes[i].protocol) : -1;
        /* A tenth of the time to get going: windows open, caches fill. */
        double start = now();
        while (now() - start < seconds / 10)
            modes[i].work(fd);
        uint64_t done = 0;
        start = now();
        double elapsed;
        do
            done += modes[i].work(fd);
        while ((elapsed = now() - start) < seconds);
        printf("@@rate %.6g seconds %.6f\n", (double)done / elapsed, elapsed);
        return 0;
    }
    return 2;
}
