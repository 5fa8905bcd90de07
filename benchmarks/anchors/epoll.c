/* A minimal HTTP server on epoll: what the system calls alone cost. An anchor for the comparison, not a server.
 *
 * usage: epoll PORT BODY_BYTES [close]
 *
 * One recv and one send per turn of a connection. It believes that every request is a GET and ends at an empty
 * line, counts the requests in what it received (pipelining) and answers all of them with one send. A connection
 * whose send would block waits for EPOLLOUT; nothing else is handled. With `close` each answer ends its connection.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST_FILES = 65536, MOST_EVENTS = 512, BUFFER = 65536, MOST_PIPELINED = 64 };

struct connection {
    int matched;     /* how many bytes of "\r\n\r\n" the input ended with */
    size_t pending;  /* bytes of the current answer not yet taken by the kernel */
    size_t end;      /* that answer ends at answers + end */
};

static struct connection connections[MOST_FILES];
static char input[BUFFER];
static char *answers;   /* the same answer MOST_PIPELINED times: n pipelined answers are its first n * answer_size bytes */
static size_t answer_size;

static void die(const char *what) { perror(what); exit(1); }

static int count_requests(struct connection *c, const char *bytes, ssize_t n) {
    static const char end[] = "\r\n\r\n";
    int requests = 0, matched = c->matched;
    if (matched == 0 && n >= 4 && memcmp(bytes + n - 4, end, 4) == 0 && memmem(bytes, n - 1, end, 4) == NULL)
        return 1;
    for (ssize_t i = 0; i < n; i++) {
        if (bytes[i] == end[matched]) matched++;
        else matched = bytes[i] == '\r';
        if (matched == 4) { requests++; matched = 0; }
    }
    c->matched = matched;
    return requests;
}

static void watch(int epoll, int fd, unsigned events, int operation) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(epoll, operation, fd, &event);
}

/* Returns 0 when all is sent, 1 when the client must read first, -1 when the connection is gone. */
static int send_pending(int fd, struct connection *c) {
    while (c->pending) {
        ssize_t n = send(fd, answers + c->end - c->pending, c->pending, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN ? 1 : -1;
        c->pending -= n;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 3) { fprintf(stderr, "usage: epoll PORT BODY_BYTES [close]\n"); return 2; }
    int body_size = atoi(argv[2]), closing = argc > 3;
    char head[256];
    int head_size = snprintf(head, sizeof head,
        "HTTP/1.1 200 OK\r\nServer: epoll\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\n"
        "Content-Type: text/plain\r\nContent-Length: %d\r\n%s\r\n", body_size, closing ? "Connection: close\r\n" : "");
    answer_size = head_size + body_size;
    answers = malloc(answer_size * MOST_PIPELINED);
    for (int i = 0; i < MOST_PIPELINED; i++) {
        memcpy(answers + i * answer_size, head, head_size);
        memset(answers + i * answer_size + head_size, 'x', body_size);
    }

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* inherited by what is accepted */
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) die("listen");

    int epoll = epoll_create1(0);
    watch(epoll, listener, EPOLLIN, EPOLL_CTL_ADD);
    struct epoll_event events[MOST_EVENTS];
    for (;;) {
        int ready = epoll_wait(epoll, events, MOST_EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int accepted;
                while ((accepted = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (accepted >= MOST_FILES) { close(accepted); continue; }
                    memset(&connections[accepted], 0, sizeof connections[accepted]);
                    watch(epoll, accepted, EPOLLIN, EPOLL_CTL_ADD);
                }
                continue;
            }
            struct connection *c = &connections[fd];
            int was_pending = c->pending != 0, state;
            if (!was_pending) {
                ssize_t n = recv(fd, input, BUFFER, 0);
                if (n <= 0) {
                    if (n == 0 || errno != EAGAIN) close(fd);
                    continue;
                }
                int requests = count_requests(c, input, n);
                if (requests > MOST_PIPELINED) { close(fd); continue; }
                c->pending = c->end = requests * answer_size;
                if (requests == 0) continue;
            }
            state = send_pending(fd, c);
            if (state < 0 || (state == 0 && closing)) close(fd);
            else if (state == 1 && !was_pending) watch(epoll, fd, EPOLLOUT, EPOLL_CTL_MOD);
            else if (state == 0 && was_pending) watch(epoll, fd, EPOLLIN, EPOLL_CTL_MOD);
        }
    }
}
