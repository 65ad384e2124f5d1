/* Queues, the exchange, its bindings; and which queue a routing key leads to. */
#include "load.h"

#include <stdio.h>
#include <string.h>

static const char *REGIONS[] = {"eu-north", "eu-west", "us-east", "us-west", "ca", "br", "jp", "in", "au", "za"};
static const char *SERVICES[] = {"orders", "billing", "stock", "mail", "search", "users", "carts", "prices", "audit", "fraud"};
static const char *EVENTS[] = {"created", "changed", "paid", "sent", "failed", "viewed", "removed", "retried", "merged", "closed"};
enum { WORDS = 10 };

static bool is_type(const char *type) { return opt.exchange_type && !strcmp(opt.exchange_type, type); }

void name_of_queue(int queue, char *into) { sprintf(into, "%.100s-%d", opt.prefix, queue); }

const char *exchange_name(void) {
    static char name[128];
    if (opt.exchange_type) snprintf(name, sizeof name, "%.100s-x", opt.prefix);
    return name;
}

int count_of_keys(void) { return opt.keys ? opt.keys : opt.queues; }

bool leads_to(int key, int queue) {
    return is_type("fanout") || queue == (opt.keys ? key % WORDS % opt.queues : key);
}

int copies_of_message(void) { return is_type("fanout") ? opt.queues : 1; }

void name_of_key(int key, char *into) {
    if (opt.keys) {
        int region = key / WORDS / WORDS;
        sprintf(into, "%s%d.%s.%s", REGIONS[region % WORDS], region / WORDS, SERVICES[key % WORDS], EVENTS[key / WORDS % WORDS]);
    } else if (opt.exchange_type) sprintf(into, "a.q%d.c", key);
    else name_of_queue(key, into);
}

static void bind(bytes *out, int queue, const char *key) {
    char name[128];
    name_of_queue(queue, name);
    size_t begun = begin_method(out, 1, ID(50, 20));
    put16(out, 0), put_short(out, name), put_short(out, exchange_name()), put_short(out, key), put8(out, 0), put32(out, 0);
    end_frame(out, begun);
}

static int bind_queue(bytes *out, int queue) {
    char key[128];
    if (is_type("topic")) sprintf(key, "*.q%d.#", queue);
    else name_of_key(queue, key);
    bind(out, queue, key);
    return 1;
}

/* A key matches one binding: each service has ten, one for each event from any region, and one queue. */
static int bind_keys(bytes *out) {
    for (int service = 0; service < WORDS; service++)
        for (int event = 0; event < WORDS; event++) {
            char pattern[128];
            sprintf(pattern, "%s.%s.%s", event % 2 ? "*" : "#", SERVICES[service], EVENTS[event]);
            bind(out, service % opt.queues, pattern);
        }
    return WORDS * WORDS;
}

void declare_all(conn *c) {
    bytes *out = &c->out;
    int durable = opt.persistent ? 2 : 0, bindings = 0;
    for (int i = 0; i < opt.queues; i++) {
        char name[128];
        name_of_queue(i, name);
        size_t begun = begin_method(out, 1, ID(50, 10));
        put16(out, 0), put_short(out, name), put8(out, durable), put32(out, 0);
        end_frame(out, begun);
    }
    for (int i = 0; i < opt.queues; i++) call(c, ID(50, 11));
    if (!opt.exchange_type) return;
    size_t begun = begin_method(out, 1, ID(40, 10));
    put16(out, 0), put_short(out, exchange_name()), put_short(out, opt.exchange_type), put8(out, durable), put32(out, 0);
    end_frame(out, begun);
    call(c, ID(40, 11));
    if (opt.keys) bindings = bind_keys(out);
    else
        for (int i = 0; i < opt.queues; i++) bindings += bind_queue(out, i);
    for (int i = 0; i < bindings; i++) call(c, ID(50, 21));
}

long delete_all(conn *c) {
    bytes *out = &c->out;
    long left = 0;
    for (int i = 0; i < opt.queues; i++) {
        char name[128];
        name_of_queue(i, name);
        size_t begun = begin_method(out, 1, ID(50, 40));
        put16(out, 0), put_short(out, name), put8(out, 0);
        end_frame(out, begun);
    }
    for (int i = 0; i < opt.queues; i++) left += get32(call(c, ID(50, 41)).payload + 4);
    if (opt.exchange_type) {
        size_t begun = begin_method(out, 1, ID(40, 20));
        put16(out, 0), put_short(out, exchange_name()), put8(out, 0);
        end_frame(out, begun);
        call(c, ID(40, 21));
    }
    return left;
}
