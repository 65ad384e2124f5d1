/* Frames, and a connection that writes and reads them. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_AT_ONCE = 65536, FRAME_LIMIT = 131072, HEAD = 7, AROUND = 8 };

uint32_t frame_max = FRAME_LIMIT;

static void room(bytes *in, size_t more) {
    if (in->len + more <= in->cap) return;
    while (in->len + more > in->cap) in->cap = in->cap ? 2 * in->cap : 1024;
    in->at = realloc(in->at, in->cap);
    if (!in->at) fail("out of memory");
}

void put(bytes *to, const void *from, size_t len) {
    room(to, len);
    memcpy(to->at + to->len, from, len);
    to->len += len;
}

void set32(uint8_t *at, uint32_t value) {
    value = htonl(value);
    memcpy(at, &value, 4);
}

void put8(bytes *to, int value) { put(to, &(uint8_t){value}, 1); }
void put16(bytes *to, int value) { put(to, &(uint16_t){htons(value)}, 2); }
void put32(bytes *to, uint32_t value) { put(to, &(uint32_t){htonl(value)}, 4); }
void put64(bytes *to, uint64_t value) { put32(to, value >> 32), put32(to, value); }
void put_short(bytes *to, const char *text) { put8(to, strlen(text)), put(to, text, strlen(text)); }
void put_long(bytes *to, const void *text, uint32_t len) { put32(to, len), put(to, text, len); }

uint16_t get16(const uint8_t *at) { return at[0] << 8 | at[1]; }

uint32_t get32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return ntohl(value);
}

uint64_t get64(const uint8_t *at) { return (uint64_t)get32(at) << 32 | get32(at + 4); }

size_t begin_frame(bytes *to, int type, int channel) {
    put8(to, type);
    put16(to, channel);
    put32(to, 0);
    return to->len;
}

size_t begin_method(bytes *to, int channel, uint32_t id) {
    size_t begun = begin_frame(to, METHOD, channel);
    put32(to, id);
    return begun;
}

void end_frame(bytes *to, size_t begun) {
    set32(to->at + begun - 4, to->len - begun);
    put8(to, FRAME_END);
}

/* size u64 | flags u16 | content-type, content-encoding, headers, ... as the flags say, class and weight before */
properties read_properties(const frame *header) {
    properties found = {0};
    const uint8_t *at = header->payload + 14, *end = header->payload + header->size;
    int flags = get16(header->payload + 12);
    for (int bit = 15; bit >= 7 && at < end; bit--) {
        if (!(flags & 1 << bit)) continue;
        switch (bit) {
        case 13: at += 4 + get32(at); break;           /* headers */
        case 12: case 11: at += 1; break;              /* delivery-mode, priority */
        case 10: found.correlation_id = at + 1; found.correlation_id_len = *at; at += 1 + *at; break;
        case 9: found.reply_to = at + 1; found.reply_to_len = *at; at += 1 + *at; break;
        case 7: found.message_id = at + 1; found.message_id_len = *at; at += 1 + *at; break;
        default: at += 1 + *at;                        /* content-type, content-encoding, expiration */
        }
    }
    if (at > end) fail("the properties of a message end before they should");
    return found;
}

void set_blocking(conn *c, bool blocking) {
    int flags = fcntl(c->fd, F_GETFL);
    fcntl(c->fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

bool send_some(conn *c) {
    size_t sent = 0;
    while (sent < c->out.len) {
        ssize_t n = send(c->fd, c->out.at + sent, c->out.len - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) fail("write: %s", strerror(errno));
        sent += n;
    }
    if (sent) memmove(c->out.at, c->out.at + sent, c->out.len - sent);
    c->out.len -= sent;
    return !c->out.len;
}

void send_all(conn *c) {
    while (!send_some(c))
        if (poll(&(struct pollfd){c->fd, POLLOUT, 0}, 1, opt.patience * 1000) == 0) fail("the broker reads nothing for %d s", opt.patience);
}

/* What is parsed makes room first, so that frames which have been handed out are no longer valid. */
bool receive_some(conn *c) {
    if (c->from) memmove(c->in.at, c->in.at + c->from, c->in.len - c->from);
    c->in.len -= c->from;
    c->from = 0;
    room(&c->in, READ_AT_ONCE);
    for (;;) {
        size_t most = c->in.cap - c->in.len;
        ssize_t n = recv(c->fd, c->in.at + c->in.len, most, 0);
        if (n > 0) {
            c->in.len += n;
            c->drained = (size_t)n < most;
            return true;
        }
        if (n == 0) fail("the broker closed the connection");
        if (errno == EAGAIN) return false;
        if (errno != EINTR) fail("read: %s", strerror(errno));
    }
}

static void fail_if_closed(const frame *f) {
    const uint8_t *at = f->payload;
    uint32_t id = get32(at);
    if (id == ID(10, 50) || id == ID(20, 40))
        fail("%s.close %d %.*s", id == ID(10, 50) ? "connection" : "channel", get16(at + 4), at[6], at + 7);
}

bool next_frame(conn *c, frame *f) {
    for (;;) {
        uint8_t *at = c->in.at + c->from;
        size_t there = c->in.len - c->from;
        if (there < HEAD) return false;
        uint32_t size = get32(at + 3);
        if (size > FRAME_LIMIT) fail("a frame of %u bytes", size);
        if (there < AROUND + size) return false;
        if (at[HEAD + size] != FRAME_END) fail("a frame does not end with its mark");
        *f = (frame){at[0], get16(at + 1), at + HEAD, size};
        c->from += AROUND + size;
        if (f->type == METHOD) fail_if_closed(f);
        if (f->type != HEARTBEAT) return true;
    }
}

frame call(conn *c, uint32_t reply_id) {
    send_all(c);
    frame f;
    for (;;) {
        while (!next_frame(c, &f)) {
            if (poll(&(struct pollfd){c->fd, POLLIN, 0}, 1, opt.patience * 1000) == 0)
                fail("no %d.%d in %d s", reply_id >> 16, reply_id & 0xFFFF, opt.patience);
            receive_some(c);
        }
        if (f.type == METHOD && get32(f.payload) == reply_id) return f;
    }
}

static void log_in(conn *c) {
    bytes *out = &c->out;
    bytes answer = {0};
    put8(&answer, 0), put(&answer, opt.user, strlen(opt.user));
    put8(&answer, 0), put(&answer, opt.password, strlen(opt.password));
    put(out, "AMQP\0\0\x09\x01", 8);
    call(c, ID(10, 10));
    size_t begun = begin_method(out, 0, ID(10, 11));
    put32(out, 0), put_short(out, "PLAIN"), put_long(out, answer.at, answer.len), put_short(out, "en_US");
    end_frame(out, begun);
    free(answer.at);
    frame tune = call(c, ID(10, 30));
    uint16_t channels = get16(tune.payload + 4);
    uint32_t most = get32(tune.payload + 6);
    if (most && most < frame_max) frame_max = most;
    begun = begin_method(out, 0, ID(10, 31));
    put16(out, channels), put32(out, frame_max), put16(out, 0);
    end_frame(out, begun);
    begun = begin_method(out, 0, ID(10, 40));
    put_short(out, "/"), put_short(out, ""), put8(out, 0);
    end_frame(out, begun);
    call(c, ID(10, 41));
}

conn *dial(void) {
    conn *c = calloc(1, sizeof *c);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(opt.port)};
    if (inet_pton(AF_INET, opt.host, &to.sin_addr) != 1) fail("--host is an IPv4 address, not '%s'", opt.host);
    if (connect(c->fd, (void *)&to, sizeof to)) fail("connect to %s:%d: %s", opt.host, opt.port, strerror(errno));
    log_in(c);
    return c;
}

void open_channel(conn *c, int channel) {
    size_t begun = begin_method(&c->out, channel, ID(20, 10));
    put_short(&c->out, "");
    end_frame(&c->out, begun);
    call(c, ID(20, 11));
}

/* The answer to it says that the broker has read all that came before. */
void close_channel(conn *c, int channel) {
    size_t begun = begin_method(&c->out, channel, ID(20, 40));
    put16(&c->out, 200), put_short(&c->out, ""), put32(&c->out, 0);
    end_frame(&c->out, begun);
    call(c, ID(20, 41));
}
