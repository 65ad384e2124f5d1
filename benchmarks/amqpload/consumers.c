/* The thread that consumes: deliveries or basic.get, with or without acknowledgements; or answers requests. */
#include "load.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

enum { EVENTS = 64, WAIT_MS = 5 };

/* One channel with one consumer. */
typedef struct {
    int queue, channel;
    uint32_t *next;       /* for each publisher: the least sequence that may come */
    uint64_t tag;
    uint32_t size, there; /* of the body: said, and come */
    bool starved;         /* basic.get found nothing */
    int unacked;
    stamp s;
    uint8_t message_id[ID_LEN], correlation_id[ID_LEN];
    char reply_to[256];
} consumer;

typedef struct {
    conn *c;
    consumer *channels;
    int count;
} connection;

static connection *all;
static int epoll;

static void get_one(conn *c, consumer *k) {
    char name[128];
    name_of_queue(k->queue, name);
    size_t begun = begin_method(&c->out, k->channel, ID(60, 70));
    put16(&c->out, 0), put_short(&c->out, name), put8(&c->out, 0);
    end_frame(&c->out, begun);
    k->starved = false;
}

static void consume(conn *c, consumer *k) {
    char name[128];
    name_of_queue(k->queue, name);
    size_t begun = begin_method(&c->out, k->channel, ID(60, 20));
    put16(&c->out, 0), put_short(&c->out, name), put_short(&c->out, ""), put8(&c->out, opt.autoack ? 2 : 0), put32(&c->out, 0);
    end_frame(&c->out, begun);
    call(c, ID(60, 21));
}

static void open_consumer(conn *c, consumer *k, int number) {
    k->channel = 1 + number / opt.connections;
    k->queue = number % opt.queues;
    k->next = calloc(opt.publishers, sizeof *k->next);
    open_channel(c, k->channel);
    if (opt.prefetch && !opt.autoack) {
        size_t begun = begin_method(&c->out, k->channel, ID(60, 10));
        put32(&c->out, 0), put16(&c->out, opt.prefetch), put8(&c->out, 0);
        end_frame(&c->out, begun);
        call(c, ID(60, 11));
    }
    if (opt.get) k->starved = true;
    else consume(c, k);
}

void open_consumers(void) {
    all = calloc(opt.connections, sizeof *all);
    epoll = epoll_create1(0);
    for (int i = 0; i < opt.connections; i++) {
        connection *n = &all[i];
        n->c = dial();
        n->channels = calloc(opt.consumers / opt.connections + 1, sizeof *n->channels);
        for (int number = i; number < opt.consumers; number += opt.connections) open_consumer(n->c, &n->channels[n->count++], number);
        set_blocking(n->c, false);
        struct epoll_event event = {EPOLLIN | EPOLLOUT | EPOLLET, {.ptr = n}};
        epoll_ctl(epoll, EPOLL_CTL_ADD, n->c->fd, &event);
    }
}

static void acknowledge(conn *c, consumer *k) {
    if (!k->unacked) return;
    size_t begun = begin_method(&c->out, k->channel, ID(60, 80));
    put64(&c->out, k->tag), put8(&c->out, k->unacked > 1);
    end_frame(&c->out, begun);
    k->unacked = 0;
}

static void answer(conn *c, consumer *k) {
    bytes *out = &c->out;
    size_t begun = begin_method(out, k->channel, ID(60, 40));
    put16(out, 0), put_short(out, ""), put_short(out, k->reply_to), put8(out, 0);
    end_frame(out, begun);
    begun = begin_frame(out, HEADER, k->channel);
    put16(out, 60), put16(out, 0), put64(out, sizeof k->s), put16(out, 1 << 15 | 1 << 10);
    put_short(out, "application/json"), put8(out, ID_LEN), put(out, k->correlation_id, ID_LEN);
    end_frame(out, begun);
    begun = begin_frame(out, BODY, k->channel);
    put(out, &k->s, sizeof k->s);
    end_frame(out, begun);
}

static void check(consumer *k) {
    const stamp *s = &k->s;
    uint8_t id[ID_LEN];
    if (s->publisher >= (uint32_t)opt.publishers) fail("a body is not the one that was sent");
    if (s->size != k->size) fail("%u bytes of a body came, not %u", k->size, s->size);
    if (s->sequence < k->next[s->publisher])
        fail("queue %d: message %u of publisher %u came after %u", k->queue, s->sequence, s->publisher, k->next[s->publisher] - 1);
    if (!leads_to(s->key, k->queue)) fail("queue %d got a message with key %u", k->queue, s->key);
    k->next[s->publisher] = s->sequence + 1;
    if (opt.ids) {
        write_id(id, s->sequence, s->publisher);
        if (memcmp(id, k->message_id, 13)) fail("message %u of publisher %u has another's properties", s->sequence, s->publisher);
    }
    marks_received += mark_of(s->publisher, s->sequence);
}

static void on_message(conn *c, consumer *k, uint64_t at_ns) {
    check(k);
    if (!opt.rpc) record_latency(k->s.sent_ns, at_ns);
    else answer(c, k);
    k->there = k->size = 0;
    if (!opt.autoack && ++k->unacked >= opt.multiack) acknowledge(c, k);
    if (opt.get) get_one(c, k);
    if (opt.rpc) send_some(c); /* as a server does that handles one request after the other */
}

static void on_header(consumer *k, const frame *f) {
    k->size = get64(f->payload + 4);
    k->there = 0;
    if (k->size < sizeof k->s) fail("a body of %u bytes was not sent", k->size);
    if (!opt.ids && !opt.rpc) return;
    properties p = read_properties(f);
    if (opt.ids && p.message_id_len != ID_LEN) fail("a message came without its message-id");
    if (opt.ids) memcpy(k->message_id, p.message_id, ID_LEN);
    if (!opt.rpc) return;
    if (p.correlation_id_len != ID_LEN || !p.reply_to_len) fail("a request came without correlation-id or reply-to");
    memcpy(k->correlation_id, p.correlation_id, ID_LEN);
    memcpy(k->reply_to, p.reply_to, p.reply_to_len);
    k->reply_to[p.reply_to_len] = 0;
}

static bool on_body(consumer *k, const frame *f) {
    if (k->there == 0) memcpy(&k->s, f->payload, sizeof k->s);
    k->there += f->size;
    if (k->there > k->size) fail("a body is longer than its header says");
    return k->there == k->size;
}

/* True if it made a message whole. */
static bool on_frame(connection *n, const frame *f, uint64_t at_ns) {
    if (f->channel < 1 || f->channel > n->count) fail("a frame for channel %d", f->channel);
    consumer *k = &n->channels[f->channel - 1];
    if (f->type == HEADER) on_header(k, f);
    else if (f->type == BODY) {
        if (!on_body(k, f)) return false;
        on_message(n->c, k, at_ns);
        return true;
    } else {
        uint32_t id = get32(f->payload);
        bool redelivered = false;
        if (id == ID(60, 60)) {
            const uint8_t *after = f->payload + 5 + f->payload[4];
            k->tag = get64(after);
            redelivered = after[8];
        } else if (id == ID(60, 71)) {
            k->tag = get64(f->payload + 4);
            redelivered = f->payload[12];
        } else if (id == ID(60, 72)) k->starved = true;
        else fail("a consumer got %d.%d", id >> 16, id & 0xFFFF);
        if (redelivered) fail("a message was redelivered");
    }
    return false;
}

static void read_in(connection *n) {
    frame f;
    while (receive_some(n->c)) {
        uint64_t at_ns = now_ns();
        long came = 0;
        while (next_frame(n->c, &f)) came += on_frame(n, &f, at_ns);
        send_some(n->c);
        delivered += came;
        if (came) last_delivery = at_ns * 1e-9;
        if (n->c->drained) return;
    }
}

static void feed_starved(void) {
    for (int i = 0; i < opt.connections; i++) {
        for (int k = 0; k < all[i].count; k++)
            if (all[i].channels[k].starved) get_one(all[i].c, &all[i].channels[k]);
        send_some(all[i].c);
    }
}

static bool is_done(void) { return published_all && delivered >= expected; }

void *run_consumers(void *unused) {
    struct epoll_event events[EVENTS];
    last_delivery = now();
    while (!is_done()) {
        int n = epoll_wait(epoll, events, EVENTS, opt.get ? 1 : WAIT_MS);
        for (int i = 0; i < n; i++) {
            connection *from = events[i].data.ptr;
            send_some(from->c);
            if (events[i].events & ~EPOLLOUT) read_in(from);
        }
        if (opt.get && !n) feed_starved();
        if (published_all && now() - last_delivery > opt.patience)
            fail("%ld of %ld messages came, and none for %d s", (long)delivered, (long)expected, opt.patience);
    }
    return unused;
}

/* The broker has read the last acknowledgement when it answers this. */
void close_consumers(void) {
    for (int i = 0; i < opt.connections; i++)
        for (int k = 0; k < all[i].count; k++) {
            acknowledge(all[i].c, &all[i].channels[k]);
            close_channel(all[i].c, all[i].channels[k].channel);
        }
}
