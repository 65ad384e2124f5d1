/* Messages: made before the clock starts, and made different from each other as they are sent. */
#include "load.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    VARIETY = 16384,      /* messages made beforehand, of all publishers */
    VARIETY_LEAST = 512,  /* of one publisher */
    SLICES = 4096,        /* places in the text where a body may begin */
    COPIED_MOST = 16384,  /* a longer body is not copied, but written from where it is */
    PATCHED = 8,          /* digits */
};
enum { CONTENT_TYPE = 1 << 15, HEADERS = 1 << 13, DELIVERY_MODE = 1 << 12, CORRELATION_ID = 1 << 10, REPLY_TO = 1 << 9,
       EXPIRATION = 1 << 8, MESSAGE_ID = 1 << 7, TIMESTAMP = 1 << 6, APP_ID = 1 << 3 };

uint64_t marks_sent, marks_received;
static uint8_t *text;  /* all bodies are slices of it */

static uint64_t random_state = 88172645463325252ull;
static uint32_t random_below(uint32_t limit) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % limit;
}

static uint32_t random_between(uint32_t least, uint32_t most) { return least + random_below(most - least + 1); }

uint64_t mark_of(uint32_t publisher, uint32_t sequence) {
    uint64_t mark = ((uint64_t)publisher << 32 | sequence) + 0x9E3779B97F4A7C15ull;
    mark = (mark ^ mark >> 30) * 0xBF58476D1CE4E5B9ull;
    return mark ^ mark >> 27;
}

static uint16_t PAIRS[256];
static void write_digits(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) memcpy(at + 2 * i, &PAIRS[value >> (24 - 8 * i) & 255], 2);
}

/* The first two groups of digits of a UUID. */
void write_id(uint8_t *at, uint32_t sequence, uint32_t publisher) {
    write_digits(at, sequence);
    at[8] = '-';
    memcpy(at + 9, &PAIRS[publisher >> 8 & 255], 2);
    memcpy(at + 11, &PAIRS[publisher & 255], 2);
}

static void make_text(void) {
    static const char LETTERS[] = "abcdefghijklmnopqrstuvwxyz0123456789 \":,{}";
    size_t size = opt.size_max + SLICES;
    text = malloc(size);
    for (size_t i = 0; i < size; i++) text[i] = LETTERS[random_below(sizeof LETTERS - 1)];
    for (int i = 0; i < 256; i++) {
        char pair[3];
        snprintf(pair, sizeof pair, "%02x", i);
        memcpy(&PAIRS[i], pair, 2);
    }
}

/* A UUID of which `write_id` makes a different one for each message. */
static void put_uuid(bytes *to) {
    char uuid[64];
    snprintf(uuid, sizeof uuid, "%08x-%04x-4%03x-a%03x-%06x%06x", 0, 0, random_below(4096), random_below(4096),
             random_below(1 << 24), random_below(1 << 24));
    put_short(to, uuid);
}

static uint32_t put_headers(bytes *to) {
    char tenant[32], trace[64];
    snprintf(tenant, sizeof tenant, "customer-%u", random_below(100000));
    snprintf(trace, sizeof trace, "%08x%08x%08x%08x", 0, random_below(UINT_MAX), random_below(UINT_MAX), random_below(UINT_MAX));
    put32(to, 0);
    size_t begun = to->len;
    put_short(to, "tenant"), put8(to, 'S'), put_long(to, tenant, strlen(tenant));
    put_short(to, "trace-id"), put8(to, 'S'), put_long(to, trace, strlen(trace));
    uint32_t patched = to->len - strlen(trace);
    put_short(to, "attempt"), put8(to, 'I'), put32(to, random_below(5));
    set32(to->at + begun - 4, to->len - begun);
    return patched;
}

static void put_header_frame(bytes *to, template *t, int channel, const char *reply_to) {
    bool rpc = reply_to != NULL;
    int flags = CONTENT_TYPE | (opt.headers ? HEADERS : 0) | (opt.persistent ? DELIVERY_MODE : 0) | (opt.ids || rpc ? CORRELATION_ID : 0) |
                (rpc ? REPLY_TO : 0) | (opt.expirations ? EXPIRATION : 0) | (opt.ids ? MESSAGE_ID | TIMESTAMP | APP_ID : 0);
    size_t begun = begin_frame(to, HEADER, channel);
    put16(to, 60), put16(to, 0), put64(to, t->size), put16(to, flags);
    put_short(to, opt.ids ? "application/json" : "text/plain");
    if (flags & HEADERS) t->ids[0] = put_headers(to) - t->head;
    if (flags & DELIVERY_MODE) put8(to, 2);
    if (flags & CORRELATION_ID) put_uuid(to), t->ids[1] = to->len - ID_LEN - t->head;
    if (flags & REPLY_TO) put_short(to, reply_to);
    if (flags & EXPIRATION) {
        char milliseconds[16];
        snprintf(milliseconds, sizeof milliseconds, "%u", 60000 + random_below(opt.expirations));
        put_short(to, milliseconds);
    }
    if (flags & MESSAGE_ID) put_uuid(to), t->ids[2] = to->len - ID_LEN - t->head;
    if (flags & TIMESTAMP) put64(to, 0), t->timestamp = to->len - 8 - t->head;
    if (flags & APP_ID) put_short(to, "amqpload");
    end_frame(to, begun);
}

static uint32_t key_for(int publisher, int i) {
    if (opt.keys || opt.shuffle) return random_below(count_of_keys());
    if (opt.in_turn) return (publisher + i) % opt.queues;
    return publisher % opt.queues;
}

static void make_template(messages *m, template *t, int i, int channel, const char *reply_to) {
    char key[128];
    t->key = key_for(m->publisher, i);
    t->size = random_between(opt.size_min, opt.size_max);
    t->slice = opt.ids ? random_below(SLICES) : 0;
    t->head = m->heads.len;
    name_of_key(t->key, key);
    size_t begun = begin_method(&m->heads, channel, ID(60, 40));
    put16(&m->heads, 0), put_short(&m->heads, exchange_name()), put_short(&m->heads, key), put8(&m->heads, 0);
    end_frame(&m->heads, begun);
    put_header_frame(&m->heads, t, channel, reply_to);
    t->head_len = m->heads.len - t->head;
}

void make_messages(messages *m, int publisher, int channel, const char *reply_to) {
    if (!text) make_text();
    m->publisher = publisher;
    m->count = VARIETY / opt.publishers > VARIETY_LEAST ? VARIETY / opt.publishers : VARIETY_LEAST;
    if (opt.in_turn) m->count -= m->count % opt.queues;
    if (!m->count) m->count = opt.queues;
    m->ring = calloc(m->count, sizeof *m->ring);
    uint32_t longest = 0;
    for (uint32_t i = 0; i < m->count; i++) {
        make_template(m, &m->ring[i], i, channel, reply_to);
        if (m->ring[i].head_len > longest) longest = m->ring[i].head_len;
    }
    int frames = opt.size_max / (frame_max - 8) + 1;
    size_t most = opt.size_max > COPIED_MOST ? COPIED_MOST : opt.size_max;
    m->copied.cap = (size_t)opt.batch * (longest + most + 8 * frames);
    m->copied.at = malloc(m->copied.cap);
    m->parts = calloc((size_t)opt.batch * 2 * (frames + 1) + 1, sizeof *m->parts);
}

bool is_written(const messages *m) { return m->first == m->used; }

static void refer(messages *m, const void *at, size_t len) {
    struct iovec *last = m->used > m->first ? &m->parts[m->used - 1] : NULL;
    if (last && (uint8_t *)last->iov_base + last->iov_len == at) last->iov_len += len;
    else m->parts[m->used++] = (struct iovec){(void *)at, len};
}

static uint8_t *copy(messages *m, const void *from, size_t len) {
    uint8_t *at = m->copied.at + m->copied.len;
    memcpy(at, from, len);
    m->copied.len += len;
    refer(m, at, len);
    return at;
}

static void add_body(messages *m, const template *t, const stamp *s, uint8_t channel_high, uint8_t channel_low) {
    const uint8_t *from = text + t->slice;
    for (uint32_t at = 0; at < t->size;) {
        uint32_t len = t->size - at < frame_max - 8 ? t->size - at : frame_max - 8;
        uint8_t head[7] = {BODY, channel_high, channel_low, len >> 24, len >> 16, len >> 8, len};
        copy(m, head, sizeof head);
        uint32_t stamped = at ? 0 : sizeof *s;
        if (stamped) copy(m, s, stamped);
        if (t->size > COPIED_MOST) refer(m, from + at + stamped, len - stamped);
        else copy(m, from + at + stamped, len - stamped);
        copy(m, &(uint8_t){FRAME_END}, 1);
        at += len;
    }
}

void add_message(messages *m) {
    const template *t = &m->ring[m->sequence % m->count];
    const uint8_t *made = m->heads.at + t->head;
    stamp s = {now_ns(), m->publisher, m->sequence, t->key, t->size};
    if (is_written(m)) m->copied.len = 0, m->first = m->used = 0;
    uint8_t *head = copy(m, made, t->head_len);
    if (t->ids[0]) write_digits(head + t->ids[0], m->sequence * 2654435761u);
    if (t->ids[1]) write_id(head + t->ids[1], m->sequence, m->publisher);
    if (t->ids[2]) write_id(head + t->ids[2], m->sequence, m->publisher);
    if (t->timestamp) set32(head + t->timestamp + 4, s.sent_ns / 1000000);
    add_body(m, t, &s, made[1], made[2]);
    marks_sent += mark_of(m->publisher, m->sequence++) * copies_of_message();
}

bool write_messages(messages *m, int fd) {
    while (!is_written(m)) {
        struct iovec *part = &m->parts[m->first];
        int count = m->used - m->first < IOV_MAX ? m->used - m->first : IOV_MAX;
        ssize_t n = sendmsg(fd, &(struct msghdr){.msg_iov = part, .msg_iovlen = count}, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return false;
        if (n < 0) fail("write: %s", strerror(errno));
        for (; m->first < m->used && (size_t)n >= part->iov_len; part++, m->first++) n -= part->iov_len;
        if (m->first < m->used) part->iov_base = (uint8_t *)part->iov_base + n, part->iov_len -= n;
    }
    return true;
}
