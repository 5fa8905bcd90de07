/* A minimal WebSocket server on epoll: what the system calls and the unmasking alone cost. An anchor for the
 * comparison, not a server.
 *
 * usage: websocket PORT echo|broadcast
 *
 * One recv and one send per message. It takes whoever sends a Sec-WebSocket-Key for a client, and frames for whole
 * messages of at most MOST bytes; it answers Close, and Ping not at all. What the kernel does not take waits for
 * EPOLLOUT, and nothing more is read from that connection meanwhile.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "websocket.h"

enum { MOST_FILES = 65536, MOST_EVENTS = 512, MOST = 1 << 17 };

struct connection {
    int open, upgraded;
    char *held;  /* an incomplete head or frame, MOST bytes; NULL when there is none */
    size_t have;
    char *out;   /* not yet taken by the kernel */
    size_t out_size;
};

static struct connection connections[MOST_FILES];
static char input[MOST];
static int epoll, highest, broadcasting;

static void die(const char *what) { perror(what); exit(1); }

static void watch(int fd, unsigned events, int operation) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(epoll, operation, fd, &event);
}

static void drop(int fd) {
    struct connection *c = &connections[fd];
    free(c->held);
    free(c->out);
    memset(c, 0, sizeof *c);
    close(fd);
}

static void put(int fd, const char *bytes, size_t size) {
    struct connection *c = &connections[fd];
    if (c->out_size == 0) {
        ssize_t n = send(fd, bytes, size, MSG_NOSIGNAL);
        if (n == (ssize_t)size) return;
        if (n < 0 && errno != EAGAIN) return; /* the next recv will tell */
        if (n > 0) { bytes += n; size -= n; }
        watch(fd, EPOLLOUT, EPOLL_CTL_MOD);
    }
    c->out = realloc(c->out, c->out_size + size);
    memcpy(c->out + c->out_size, bytes, size);
    c->out_size += size;
}

static void flush(int fd) {
    struct connection *c = &connections[fd];
    ssize_t n = send(fd, c->out, c->out_size, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN) drop(fd);
        return;
    }
    c->out_size -= n;
    memmove(c->out, c->out + n, c->out_size);
    if (c->out_size == 0) watch(fd, EPOLLIN, EPOLL_CTL_MOD);
}

/* Returns how many bytes of the request's head were used: all or none; -1 when it is not for us. */
static ssize_t upgrade(int fd, char *bytes, size_t size) {
    char answer[256], accept[ACCEPT_LENGTH + 1], *end = memmem(bytes, size, "\r\n\r\n", 4), *key;
    if (end == NULL) return size < MOST ? 0 : -1;
    *end = 0;
    key = strcasestr(bytes, "sec-websocket-key: ");
    if (key == NULL || strlen(key + 19) < KEY_LENGTH) return -1;
    accept_of(key + 19, accept);
    put(fd, answer, snprintf(answer, sizeof answer,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept));
    connections[fd].upgraded = 1;
    return end + 4 - bytes;
}

/* Answers one frame. Returns its length, 0 when it is incomplete, -1 when the connection is at its end. */
static ssize_t answer_frame(int fd, char *bytes, size_t size) {
    unsigned char *head = (unsigned char *)bytes, again[10];
    if (size < 2 || size < (size_t)head_length(head)) return 0;
    size_t start = head_length(head), length = payload_length(head);
    if (start + length > MOST) return -1;
    if (size < start + length) return 0;
    int opcode = head[0] & 15;
    apply_mask(bytes + start, bytes + start, length, head + start - 4);
    if (opcode != PING && opcode != PONG) {
        int shorter = frame_head(again, opcode, length, 0); /* by the masking key, so it fits before the payload */
        memcpy(bytes + start - shorter, again, shorter);
        if (broadcasting && opcode != CLOSE) {
            for (int other = 0; other <= highest; other++)
                if (connections[other].upgraded) put(other, bytes + start - shorter, shorter + length);
        } else put(fd, bytes + start - shorter, shorter + length);
    }
    return opcode == CLOSE ? -1 : (ssize_t)(start + length);
}

static void receive(int fd) {
    struct connection *c = &connections[fd];
    char *bytes = c->held ? c->held : input;
    ssize_t n = recv(fd, bytes + c->have, MOST - c->have, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) drop(fd);
        return;
    }
    size_t size = c->have + n, used = 0;
    while (used < size) {
        n = c->upgraded ? answer_frame(fd, bytes + used, size - used) : upgrade(fd, bytes + used, size - used);
        if (n < 0) { drop(fd); return; }
        if (n == 0) break;
        used += n;
    }
    c->have = size - used;
    if (c->have == 0) {
        free(c->held);
        c->held = NULL;
        return;
    }
    if (c->held == NULL) c->held = malloc(MOST);
    memmove(c->held, bytes + used, c->have);
}

int main(int argc, char **argv) {
    if (argc < 3) { fprintf(stderr, "usage: websocket PORT echo|broadcast\n"); return 2; }
    broadcasting = strcmp(argv[2], "broadcast") == 0;

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* inherited by what is accepted */
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) die("listen");

    epoll = epoll_create1(0);
    watch(listener, EPOLLIN, EPOLL_CTL_ADD);
    struct epoll_event events[MOST_EVENTS];
    for (;;) {
        int ready = epoll_wait(epoll, events, MOST_EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd, accepted;
            if (fd != listener) {
                if (connections[fd].open && connections[fd].out_size) flush(fd);
                else if (connections[fd].open) receive(fd);
                continue;
            }
            while ((accepted = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                if (accepted >= MOST_FILES) { close(accepted); continue; }
                connections[accepted].open = 1;
                if (accepted > highest) highest = accepted;
                watch(accepted, EPOLLIN, EPOLL_CTL_ADD);
            }
        }
    }
}
