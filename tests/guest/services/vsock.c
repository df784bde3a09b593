/* Vsock from inside: `vsock echo PORT` sends back what comes, one connection after the other; `vsock send PORT COUNT`
   connects to the host and sends COUNT bytes of a known pattern, then prints the sum of what comes back. */
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct sockaddr_vm address(unsigned cid, unsigned port)
{
    struct sockaddr_vm a = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
    return a;
}

static int write_all(int fd, const char *data, size_t size)
{
    while (size) {
        ssize_t done = write(fd, data, size);
        if (done <= 0)
            return -1;
        data += done;
        size -= done;
    }
    return 0;
}

static int echo(unsigned port)
{
    static char buffer[65536];
    struct sockaddr_vm a = address(VMADDR_CID_ANY, port);
    int server = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (server < 0 || bind(server, (struct sockaddr *)&a, sizeof a) || listen(server, 4)) {
        perror("listen");
        return 1;
    }
    puts("listening");
    fflush(stdout);
    for (;;) {
        int fd = accept(server, NULL, NULL);
        if (fd < 0)
            return 1;
        ssize_t size;
        while ((size = read(fd, buffer, sizeof buffer)) > 0 && !write_all(fd, buffer, size))
            ;
        close(fd);
    }
}

static int send_to_host(unsigned port, size_t count)
{
    static char buffer[4096];
    struct sockaddr_vm a = address(VMADDR_CID_HOST, port);
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a)) {
        perror("connect");
        return 1;
    }
    for (size_t sent = 0; sent < count;) {
        size_t size = count - sent < sizeof buffer ? count - sent : sizeof buffer;
        for (size_t i = 0; i < size; i++)
            buffer[i] = (sent + i) * 31 >> 3;
        if (write_all(fd, buffer, size)) {
            perror("write");
            return 1;
        }
        sent += size;
    }
    shutdown(fd, SHUT_WR);
    unsigned long total = 0, sum = 0;
    ssize_t size;
    while ((size = read(fd, buffer, sizeof buffer)) > 0)
        for (ssize_t i = 0; i < size; i++, total++)
            sum += (unsigned char)buffer[i];
    printf("got %lu sum %lu\n", total, sum);
    return size < 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "echo"))
        return echo(atoi(argv[2]));
    if (argc == 4 && !strcmp(argv[1], "send"))
        return send_to_host(atoi(argv[2]), atol(argv[3]));
    return 2;
}
