/* The thread that publishes: streams, with or without confirms, at a pace, or in transactions. */
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>

enum { EVENTS = 64, SPAN = 1 << 20 };

typedef struct {
    conn *c;
    messages m;
    uint32_t settled;   /* messages confirmed or committed */
    uint32_t least;     /* all before this sequence are settled */
    bool *beyond;       /* which of the SPAN from there are: confirms may come in any order */
    bool writable, committing;
} publisher;

static publisher *all;
static int epoll;
static double started, deadline;
static long paced;

void open_publishers(void) {
    all = calloc(opt.publishers, sizeof *all);
    epoll = epoll_create1(0);
    for (int i = 0; i < opt.publishers; i++) {
        publisher *p = &all[i];
        p->c = dial();
        p->writable = true;
        p->beyond = calloc(SPAN, sizeof *p->beyond);
        open_channel(p->c, 1);
        make_messages(&p->m, i, 1, NULL);
        if (opt.confirm) {
            size_t begun = begin_method(&p->c->out, 1, ID(85, 10));
            put8(&p->c->out, 0);
            end_frame(&p->c->out, begun);
            call(p->c, ID(85, 11));
        }
        if (opt.tx) {
            end_frame(&p->c->out, begin_method(&p->c->out, 1, ID(90, 10)));
            call(p->c, ID(90, 11));
        }
        set_blocking(p->c, false);
        struct epoll_event event = {EPOLLIN | EPOLLOUT | EPOLLET, {.ptr = p}};
        epoll_ctl(epoll, EPOLL_CTL_ADD, p->c->fd, &event);
    }
}

static long lesser(long a, long b) { return a < b ? a : b; }

static bool time_is_up(void) { return opt.count ? published >= opt.count : now() >= deadline; }

/* How many messages this one may publish now. */
static long allowance(const publisher *p) {
    long n = opt.tx ? (p->committing ? 0 : opt.tx) : opt.batch;
    if (opt.confirm) n = lesser(n, lesser(opt.confirm - (p->m.sequence - p->settled), p->least + SPAN - p->m.sequence));
    if (opt.in_flight) n = lesser(n, opt.in_flight - (expected - delivered));
    if (opt.rate > 0) n = lesser(n, (long)((now() - started) * opt.rate) + 1 - paced);
    if (opt.count && !opt.tx) n = lesser(n, opt.count - published);
    return opt.tx && n < opt.tx ? 0 : n;
}

/* True if something was published. */
static bool publish(publisher *p) {
    if (time_is_up()) return false;
    long n = p->writable && is_written(&p->m) && !p->c->out.len ? allowance(p) : 0;
    if (n <= 0) return false;
    for (long i = 0; i < n; i++) add_message(&p->m);
    published += n;
    expected += n * copies_of_message();
    paced += n;
    if (opt.tx) {
        end_frame(&p->c->out, begin_method(&p->c->out, 1, ID(90, 20)));
        p->committing = true;
    }
    return true;
}

static bool step(publisher *p) {
    bool busy = publish(p);
    if (p->writable) p->writable = write_messages(&p->m, p->c->fd) && send_some(p->c);
    return busy;
}

static void settle(publisher *p, uint32_t sequence) {
    if (sequence >= p->m.sequence) fail("a confirm of %u, %u published", sequence + 1, p->m.sequence);
    if (sequence - p->least >= SPAN || p->beyond[sequence % SPAN]) fail("a second confirm of %u", sequence + 1);
    p->beyond[sequence % SPAN] = true;
    p->settled++;
    for (; p->beyond[p->least % SPAN]; p->least++) p->beyond[p->least % SPAN] = false;
}

static void settle_up_to(publisher *p, uint32_t end) {
    if (end <= p->least) fail("a second confirm of %u", end);
    while (p->least < end) settle(p, p->least);
}

static void on_frame(publisher *p, const frame *f) {
    uint32_t id = get32(f->payload), before = p->settled;
    if (id == ID(60, 80) && f->payload[12] & 1) settle_up_to(p, get64(f->payload + 4));
    else if (id == ID(60, 80)) settle(p, get64(f->payload + 4) - 1);
    else if (id == ID(90, 21)) p->committing = false, settle_up_to(p, p->m.sequence);
    else fail("a publisher got %d.%d", id >> 16, id & 0xFFFF);
    confirmed += p->settled - before;
}

static void read_in(publisher *p) {
    frame f;
    while (receive_some(p->c)) {
        while (next_frame(p->c, &f)) on_frame(p, &f);
        if (p->c->drained) return;
    }
}

static void serve(int timeout_ms) {
    struct epoll_event events[EVENTS];
    int n = epoll_wait(epoll, events, EVENTS, timeout_ms);
    for (int i = 0; i < n; i++) {
        publisher *p = events[i].data.ptr;
        if (events[i].events & EPOLLOUT) p->writable = true;
        if (events[i].events & ~EPOLLOUT) read_in(p);
        step(p);
    }
}

/* Sleeps until the next message is due, if there is a pace. */
static void keep_pace(void) {
    double due = started + paced / opt.rate;
    struct timespec until = {(time_t)due, (due - (time_t)due) * 1e9};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

static bool is_settled(const publisher *p) {
    return is_written(&p->m) && !p->c->out.len && (!(opt.confirm || opt.tx) || p->settled == p->m.sequence);
}

static void finish(void) {
    double until = now() + opt.patience;
    for (int i = 0; i < opt.publishers; i++)
        while (!is_settled(&all[i])) {
            if (now() > until)
                fail("publisher %d: %u of %u messages confirmed after %d s", i, all[i].settled, all[i].m.sequence, opt.patience);
            serve(1);
        }
    for (int i = 0; i < opt.publishers; i++) close_channel(all[i].c, 1);
}

void *run_publishers(void *unused) {
    prctl(PR_SET_TIMERSLACK, 1);
    double last = started = now();
    deadline = started + opt.seconds;
    while (!time_is_up()) {
        bool busy = false;
        long first = paced;  /* of those that keep a pace, another one comes first each time */
        if (opt.rate > 0) keep_pace();
        for (int i = 0; i < opt.publishers; i++) busy |= step(&all[(first + i) % opt.publishers]);
        serve(busy ? 0 : 1);
        if (busy) last = now();
        else if (now() - last > opt.patience) fail("nothing could be published for %d s, %ld were", opt.patience, (long)published);
    }
    finish();
    published_all = true;
    return unused;
}
