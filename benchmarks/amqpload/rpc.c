/* The thread of RPC clients: each sends a request, and waits for its answer before the next. */
#include "load.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

enum { EVENTS = 64, WAIT_MS = 5 };

typedef struct {
    conn *c;
    messages m;
    uint32_t answered;
    bool right;  /* the correlation-id of the answer that comes */
} client;

static client *all;
static int epoll;
static long waiting;

static void declare_reply_queue(client *n, char *name) {
    bytes *out = &n->c->out;
    strcpy(name, "amq.rabbitmq.reply-to");
    if (!opt.direct_reply_to) {
        size_t begun = begin_method(out, 1, ID(50, 10));
        put16(out, 0), put_short(out, ""), put8(out, 4), put32(out, 0);
        end_frame(out, begun);
        const uint8_t *said = call(n->c, ID(50, 11)).payload + 4;
        memcpy(name, said + 1, *said);
        name[*said] = 0;
    }
    size_t begun = begin_method(out, 1, ID(60, 20));
    put16(out, 0), put_short(out, name), put_short(out, ""), put8(out, 2), put32(out, 0);
    end_frame(out, begun);
    call(n->c, ID(60, 21));
}

void open_clients(void) {
    all = calloc(opt.publishers, sizeof *all);
    epoll = epoll_create1(0);
    for (int i = 0; i < opt.publishers; i++) {
        char name[256];
        all[i].c = dial();
        open_channel(all[i].c, 1);
        declare_reply_queue(&all[i], name);
        make_messages(&all[i].m, i, 1, name);
        struct epoll_event event = {EPOLLIN, {.ptr = &all[i]}};
        epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].c->fd, &event);
    }
}

/* A request is small, and alone on its connection: the socket has room for it. */
static void request(client *n) {
    add_message(&n->m);
    published++;
    expected++;
    waiting++;
    if (!write_messages(&n->m, n->c->fd)) fail("a request could not be written whole");
}

static void on_answer(client *n, const frame *f) {
    stamp s;
    memcpy(&s, f->payload, sizeof s);
    if (f->size != sizeof s || s.sequence != n->answered || s.publisher != n->m.publisher || !n->right)
        fail("client %u got another answer than that to request %u", n->m.publisher, n->answered);
    record_latency(s.sent_ns, now_ns());
    n->answered++;
    waiting--;
}

static void on_header(client *n, const frame *f) {
    uint8_t id[ID_LEN];
    properties p = read_properties(f);
    write_id(id, n->answered, n->m.publisher);
    n->right = p.correlation_id_len == ID_LEN && !memcmp(p.correlation_id, id, 13);
}

static bool is_time_up(double deadline) { return opt.count ? published >= opt.count : now() >= deadline; }

void *run_clients(void *unused) {
    struct epoll_event events[EVENTS];
    double deadline = now() + opt.seconds, last = now();
    for (int i = 0; i < opt.publishers; i++) request(&all[i]);
    while (waiting) {
        int ready = epoll_wait(epoll, events, EVENTS, WAIT_MS);
        for (int i = 0; i < ready; i++) {
            client *n = events[i].data.ptr;
            uint32_t before = n->answered;
            frame f;
            receive_some(n->c);
            while (next_frame(n->c, &f)) {
                if (f.type == HEADER) on_header(n, &f);
                else if (f.type == BODY) on_answer(n, &f);
            }
            if (n->answered > before && !is_time_up(deadline)) request(n);
            if (n->answered > before) last = now();
        }
        if (now() - last > opt.patience) fail("%ld requests have no answer after %d s", waiting, opt.patience);
    }
    for (int i = 0; i < opt.publishers; i++) close_channel(all[i].c, 1);
    published_all = true;
    return unused;
}
