/* The load generator of the WebSocket workloads: one thread, one epoll, a closed loop.
 *
 * usage: websocket echo|broadcast|handshake PORT PATH CONNECTIONS BYTES text|binary
 *
 *   echo       every connection has one message in flight, and sends the next when its echo is complete
 *   broadcast  one connection sends a message, and again when every connection has received it; what is counted are
 *              the messages received
 *   handshake  every connection is opened, closed with a Close frame of each side, and opened again; what is counted
 *              are these cycles, and timed is from connect to the complete response
 *
 * When everything is open (and has exchanged one message, or done one cycle) it prints "ready". Then it keeps the
 * connections, and answers pings, until a line on its standard input says for how many seconds to load the server.
 * It stops sending at the end of that time, waits for what is in flight, and prints one line: "figures " and JSON, times
 * in microseconds, from the first byte sent to the last received; cpu_us is its own. Then it waits for the next line,
 * and ends at the end of the input. Anything wrong ends it: a word on stderr, exit code 1.
 *
 * Every byte received is compared with what it must be. There are VARIANTS messages, random under random masking keys,
 * and a connection takes one after the other, so that a stale answer, or another connection's, is found out. No
 * extension is offered, and none accepted.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../anchors/websocket.h"

enum { VARIANTS = 8, MOST_EVENTS = 512, BUFFER = 1 << 18, MOST_CONTROL = 125, MOST_HEAD = 1024 };
enum { OPENED_AT_ONCE = 64 }; /* below the smallest backlog among the servers */
static const double PATIENCE = 10; /* seconds without any answer, or from the end of a load to its last one */
static const double LONGEST = 120; /* seconds until everything is open */

enum mode { ECHO, BROADCAST, HANDSHAKE };
enum state { CONNECTING, UPGRADING, OPEN, CLOSING, CLOSED };
enum phase { PREPARING, HOLDING, LOADING, DRAINING };

struct connection {
    int fd;
    enum state state;
    int variant, waiting, opened;   /* what it sent last, or waits for; whether it does; whether it is prepared */
    size_t unsent;                  /* bytes of the frame the kernel did not take */
    double sent_at;
    unsigned char head[14];         /* of the frame being received */
    int head_have;
    size_t length, got;
    char control[MOST_CONTROL];     /* payload of the latest control frame */
    size_t control_length;
    int pong_owed;
    char accept[ACCEPT_LENGTH + 1];
    char *response;                 /* the handshake's, until it is complete */
    size_t response_size;
};

static enum mode mode;
static enum phase phase = PREPARING;
static int port, count, opcode, epoll, started, prepared, in_flight;
static const char *path;
static size_t size, frame_size;
static char *payloads[VARIANTS], *frames[VARIANTS];
static struct connection *connections;
static char input[BUFFER];
static double began, until, last;    /* opening, or the load; `last` is when something was last received */
static uint32_t *times;              /* tenths of a microsecond, one per message received */
static size_t received, room;

static void fail(const char *form, ...) {
    va_list arguments;
    va_start(arguments, form);
    vfprintf(stderr, form, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void note_time(double since) {
    if (phase != LOADING && phase != DRAINING) return;
    if (received == room) {
        room = room ? room * 2 : 1 << 20;
        if ((times = realloc(times, room * sizeof *times)) == NULL) fail("no memory for %zu times", room);
    }
    times[received++] = (last - since) * 1e7;
}

static void must_send(struct connection *c, const void *bytes, size_t length, const char *what) {
    if (send(c->fd, bytes, length, MSG_NOSIGNAL) != (ssize_t)length) fail("%s not sent: %s", what, strerror(errno));
}

/* Opening. */

static void start(struct connection *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    int on = 1;
    c->state = CONNECTING;
    c->sent_at = now();
    c->head_have = 0;
    if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) < 0) fail("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) fail("connect: %s", strerror(errno));
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl: %s", strerror(errno));
}

static void start_some(void) {
    while (started < count && started - prepared < OPENED_AT_ONCE) start(&connections[started++]);
}

static void ask_upgrade(struct connection *c) {
    unsigned char nonce[16];
    char key[KEY_LENGTH + 1], request[512];
    for (int i = 0; i < 16; i++) nonce[i] = random();
    base64(nonce, sizeof nonce, key);
    accept_of(key, c->accept);
    must_send(c, request, snprintf(request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n", path, port, key), "handshake");
    c->state = UPGRADING;
}

/* RFC 6455 section 4.1, what the client must validate. */
static void check_response(struct connection *c, char *head) {
    if (strncmp(head, "HTTP/1.1 101", 12)) fail("handshake refused: %.80s", head);
    char *accept = strcasestr(head, "\r\nsec-websocket-accept:");
    if (accept == NULL) fail("no Sec-WebSocket-Accept");
    accept += 23;
    accept += strspn(accept, " ");
    if (strncmp(accept, c->accept, ACCEPT_LENGTH)) fail("wrong Sec-WebSocket-Accept");
    if (strcasestr(head, "\r\nsec-websocket-extensions:")) fail("an extension that was not offered");
}

/* Sending. */

/* To the latest ping; but a frame that is partly sent must not be cut in two. */
static void send_pong(struct connection *c) {
    unsigned char frame[6 + MOST_CONTROL] = {FIN | PONG, MASKED | c->control_length}; /* a masking key of zeros */
    c->pong_owed = c->unsent != 0;
    if (c->pong_owed) return;
    memcpy(frame + 6, c->control, c->control_length);
    must_send(c, frame, 6 + c->control_length, "Pong");
}

static void push(struct connection *c) {
    ssize_t n = send(c->fd, frames[c->variant] + frame_size - c->unsent, c->unsent, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) fail("send: %s", strerror(errno));
    if (n > 0) c->unsent -= n;
    if (c->unsent == 0 && c->pong_owed) send_pong(c);
}

static void send_message(struct connection *c) {
    c->variant = (c->variant + 1) % VARIANTS;
    c->waiting = 1;
    c->sent_at = last;
    c->unsent = frame_size;
    in_flight++;
    push(c);
}

/* Sent by the last that was opened: by the time it is heard, the application knows all the others. */
static void send_broadcast(void) {
    struct connection *sender = &connections[count - 1];
    send_message(sender);
    for (int i = 0; i < count; i++) {
        connections[i].waiting = 1;
        connections[i].variant = sender->variant;
    }
    in_flight = count;
}

static void send_close(struct connection *c) {
    unsigned char frame[8] = {FIN | CLOSE, MASKED | 2, 0, 0, 0, 0, 1000 >> 8, 1000 & 255}; /* a masking key of zeros */
    must_send(c, frame, sizeof frame, "Close");
    c->state = CLOSING;
}

static void begin_turn(struct connection *c) {
    if (mode == ECHO) send_message(c);
    else if (mode == HANDSHAKE) start(c), in_flight++;
}

/* What arrives. */

static void is_prepared(struct connection *c) {
    c->opened = 1;
    prepared++;
    start_some();
    if (mode == BROADCAST && prepared == count) send_broadcast();
}

static void upgraded(struct connection *c) {
    c->state = OPEN;
    if (mode == ECHO) send_message(c);
    else if (mode == BROADCAST) is_prepared(c);
    else note_time(c->sent_at), send_close(c);
}

/* A message or a cycle is complete. */
static void answered(struct connection *c) {
    in_flight--;
    if (mode != HANDSHAKE) note_time(mode == ECHO ? c->sent_at : connections[count - 1].sent_at);
    if (phase == PREPARING && !c->opened) is_prepared(c);
    else if (phase == LOADING && last >= until) phase = DRAINING;
    if (phase != LOADING) return;
    if (mode != BROADCAST) begin_turn(c);
    else if (in_flight == 0) send_broadcast();
}

static void begin_frame(struct connection *c) {
    int got = c->head[0] & 15;
    c->length = payload_length(c->head);
    c->got = 0;
    if (c->head[0] != (FIN | got)) fail("a fragmented message, or reserved bits set: %02x", c->head[0]);
    if (c->head[1] & MASKED) fail("a masked frame");
    if (got >= CLOSE) {
        if (c->length > MOST_CONTROL) fail("a control frame of %zu bytes", c->length);
    } else {
        if (got != opcode) fail("opcode %d, not %d", got, opcode);
        if (!c->waiting) fail("a message too many");
        if (c->length != size) fail("%zu bytes, not %zu", c->length, size);
    }
}

static void end_frame(struct connection *c) {
    int got = c->head[0] & 15;
    c->head_have = 0;
    if (got >= CLOSE) c->control_length = c->length;
    if (got == PING) send_pong(c);
    else if (got == CLOSE) {
        int code = c->length >= 2 ? (unsigned char)c->control[0] << 8 | (unsigned char)c->control[1] : 1005;
        if (c->state != CLOSING || code != 1000) fail("closed by the server, code %d", code);
        c->state = CLOSED;
    } else if (got != PONG) {
        c->waiting = 0;
        answered(c);
    }
}

static void take_frames(struct connection *c, const char *bytes, size_t n) {
    while (n) {
        if (c->state == CLOSED) fail("%zu bytes after Close", n);
        if (c->head_have < 2 || c->head_have < head_length(c->head)) {
            c->head[c->head_have++] = *bytes++;
            n--;
            if (c->head_have < 2 || c->head_have < head_length(c->head)) continue;
            begin_frame(c);
        } else {
            size_t taken = n < c->length - c->got ? n : c->length - c->got;
            if ((c->head[0] & 15) >= CLOSE) memcpy(c->control + c->got, bytes, taken);
            else if (memcmp(payloads[c->variant] + c->got, bytes, taken)) fail("wrong content");
            c->got += taken;
            bytes += taken;
            n -= taken;
        }
        if (c->got == c->length) end_frame(c);
    }
}

static void take(struct connection *c, const char *bytes, size_t n) {
    last = now();
    if (c->state != UPGRADING) {
        take_frames(c, bytes, n);
        return;
    }
    if (c->response_size + n > MOST_HEAD) fail("a response of more than %d bytes", MOST_HEAD);
    c->response = realloc(c->response, c->response_size + n + 1);
    memcpy(c->response + c->response_size, bytes, n);
    size_t before = c->response_size;
    c->response_size += n;
    c->response[c->response_size] = 0;
    char *end = strstr(c->response, "\r\n\r\n");
    if (end == NULL) return;
    end[2] = 0;
    check_response(c, c->response);
    size_t used = end + 4 - c->response - before;
    free(c->response);
    c->response = NULL;
    c->response_size = 0;
    upgraded(c);
    take_frames(c, bytes + used, n - used);
}

static void at_end(struct connection *c) {
    if (c->state != CLOSED) fail("connection closed by the server");
    last = now();
    close(c->fd);
    answered(c);
}

static void receive(struct connection *c, unsigned events) {
    for (;;) {
        ssize_t n = recv(c->fd, input, BUFFER, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) fail("recv: %s", strerror(errno));
        if (n == 0) { at_end(c); return; }
        take(c, input, n);
        if (n < BUFFER && !(events & EPOLLRDHUP)) return; /* a short read has emptied the socket */
    }
}

static void on_event(struct connection *c, unsigned events) {
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error) fail("connect: %s", strerror(error));
        if (!(events & EPOLLOUT)) return;
        ask_upgrade(c);
    } else {
        if (c->unsent && events & EPOLLOUT) push(c);
        if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) receive(c, events);
    }
}

/* The load. */

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile(double part) {
    return received ? times[(size_t)(part * (received - 1))] / 10.0 : 0;
}

static void obey(void) {
    char line[64];
    ssize_t n = read(0, line, sizeof line - 1);
    if (n <= 0) exit(0);
    line[n] = 0;
    if (phase != HOLDING) fail("told to begin while busy");
    phase = LOADING;
    received = 0;
    began = last = now();
    until = began + atof(line);
    if (mode == BROADCAST) send_broadcast();
    else for (int i = 0; i < count; i++) begin_turn(&connections[i]);
}

static void wait_and_serve(void) {
    struct epoll_event events[MOST_EVENTS];
    int ready = epoll_wait(epoll, events, MOST_EVENTS, 1000);
    if (ready < 0 && errno != EINTR) fail("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < ready; i++) {
        if (events[i].data.ptr) on_event(events[i].data.ptr, events[i].events);
        else obey();
    }
    double time = now(), limit = phase == DRAINING || (phase == LOADING && until > last) ? until : last;
    if (phase == PREPARING && time > began + LONGEST) fail("%d of %d open after %.0f s", prepared, count, LONGEST);
    if (phase != HOLDING && time > limit + PATIENCE)
        fail("no answer within %.0f s: %d missing", PATIENCE, phase == PREPARING ? count - prepared : in_flight);
}

static void make_messages(void) {
    for (int v = 0; v < VARIANTS; v++) {
        unsigned char head[14], mask[4];
        int length = frame_head(head, opcode, size, MASKED);
        payloads[v] = malloc(size + 1);
        for (size_t i = 0; i < size; i++) payloads[v][i] = opcode == TEXT ? 'a' + random() % 26 : random();
        for (int i = 0; i < 4; i++) mask[i] = random();
        frame_size = length + 4 + size;
        frames[v] = malloc(frame_size);
        memcpy(frames[v], head, length);
        memcpy(frames[v] + length, mask, 4);
        apply_mask(frames[v] + length + 4, payloads[v], size, mask);
    }
}

int main(int argc, char **argv) {
    static const char *const modes[] = {"echo", "broadcast", "handshake"};
    if (argc != 7) { fprintf(stderr, "usage: websocket echo|broadcast|handshake PORT PATH CONNECTIONS BYTES text|binary\n"); return 2; }
    while (mode < HANDSHAKE && strcmp(argv[1], modes[mode])) mode++;
    port = atoi(argv[2]), path = argv[3], count = atoi(argv[4]), size = atol(argv[5]);
    opcode = strcmp(argv[6], "text") ? BINARY : TEXT;

    unsigned seed;
    if (getrandom(&seed, sizeof seed, 0) == sizeof seed) srandom(seed);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    make_messages();
    connections = calloc(count, sizeof *connections);
    epoll = epoll_create1(0);
    struct epoll_event commands = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &commands)) fail("standard input: %s", strerror(errno));

    began = last = now();
    if (mode == HANDSHAKE) in_flight = count;
    start_some();
    while (prepared < count || in_flight) wait_and_serve();
    puts("ready");
    for (;;) {
        fflush(stdout);
        phase = HOLDING;
        while (phase == HOLDING) wait_and_serve();
        double before = cpu();
        while (phase != DRAINING || in_flight) wait_and_serve();
        double used = cpu() - before;
        qsort(times, received, sizeof *times, compare);
        printf("figures {\"requests\": %zu, \"duration_us\": %.0f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"cpu_us\": %.0f}\n",
            received, (last - began) * 1e6, percentile(0.5), percentile(0.99), used * 1e6);
    }
}
