/* What can be asked for on the command line. */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

options opt = {
    .host = "127.0.0.1", .user = "guest", .password = "guest", .port = 5672,
    .seconds = 5, .publishers = 1, .consumers = 1, .queues = 1,
    .size_min = 100, .size_max = 100, .batch = 64, .multiack = 1, .patience = 30,
};

typedef struct {
    const char *name, *argument, *help;
    enum { FLAG, INT, LONG, REAL, TEXT, SIZES } kind;
    void *to;
} option;

static const option KNOWN[] = {
    {"--host", "ADDRESS", "of the broker (127.0.0.1)", TEXT, &opt.host},
    {"--port", "PORT", "(5672)", INT, &opt.port},
    {"--user", "NAME", "(guest)", TEXT, &opt.user},
    {"--password", "TEXT", "(guest)", TEXT, &opt.password},
    {"--pid", "PID", "of the broker: its CPU time and memory are measured", INT, &opt.pid},
    {"--prefix", "NAME", "of all that is declared (load-PID)", TEXT, &opt.prefix},
    {"--seconds", "S", "of publishing; then what is queued is still consumed (5)", REAL, &opt.seconds},
    {"--count", "N", "publish that many messages, however long it takes", LONG, &opt.count},
    {"--rate", "N", "messages a second of all publishers, at a steady pace", REAL, &opt.rate},
    {"--in-flight", "N", "publish no more while N are not yet delivered", LONG, &opt.in_flight},
    {"--publishers", "N", "connections that publish (1)", INT, &opt.publishers},
    {"--consumers", "N", "channels that consume, in turn from the queues (1); 0: the messages stay", INT, &opt.consumers},
    {"--connections", "N", "of the consumers (one for each)", INT, &opt.connections},
    {"--queues", "N", "(1)", INT, &opt.queues},
    {"--exchange-type", "TYPE", "direct, topic or fanout (the default exchange)", TEXT, &opt.exchange_type},
    {"--keys", "N", "of a topic exchange with 10 bindings for each of up to 10 queues; a random key for each message", INT, &opt.keys},
    {"--in-turn", NULL, "publish to all queues in turn (each publisher to one)", FLAG, &opt.in_turn},
    {"--shuffle", NULL, "publish to all queues at random", FLAG, &opt.shuffle},
    {"--size", "N[:M]", "bytes of a body, or a range of them (100)", SIZES, &opt.size_min},
    {"--ids", NULL, "a message-id, correlation-id and timestamp of its own for each message", FLAG, &opt.ids},
    {"--headers", NULL, "three headers with varying values", FLAG, &opt.headers},
    {"--expirations", "N", "a per-message expiration, one of N values of a minute and more", INT, &opt.expirations},
    {"--persistent", NULL, "persistent messages, durable queues", FLAG, &opt.persistent},
    {"--confirm", "N", "confirm mode, at most N unconfirmed for each publisher", INT, &opt.confirm},
    {"--tx", "N", "transactions of N messages; waits for each commit", INT, &opt.tx},
    {"--batch", "N", "messages in one write, at most (64)", INT, &opt.batch},
    {"--prefetch", "N", "of each consumer (unlimited)", INT, &opt.prefetch},
    {"--multiack", "N", "acknowledge N messages at once (1)", INT, &opt.multiack},
    {"--patience", "S", "fail if nothing comes for so long (30)", INT, &opt.patience},
    {"--autoack", NULL, "consume without acknowledgements", FLAG, &opt.autoack},
    {"--get", NULL, "consume with basic.get, and acknowledge each", FLAG, &opt.get},
    {"--rpc", NULL, "the publishers are clients that wait for each answer, the consumers answer", FLAG, &opt.rpc},
    {"--direct-reply-to", NULL, "answers come by amq.rabbitmq.reply-to, not a queue of each client", FLAG, &opt.direct_reply_to},
};
enum { COUNT = sizeof KNOWN / sizeof *KNOWN };

static _Noreturn void help(void) {
    puts("amqpload: publish and consume, check that nothing is lost or out of order, print one line of JSON\n");
    for (int i = 0; i < COUNT; i++) {
        char left[64];
        snprintf(left, sizeof left, "%s %s", KNOWN[i].name, KNOWN[i].argument ? KNOWN[i].argument : "");
        printf("  %-24s %s\n", left, KNOWN[i].help);
    }
    exit(0);
}

static double number(const char *name, const char *text, char end) {
    char *rest;
    double value = strtod(text, &rest);
    if (rest == text || (*rest && *rest != end) || value < 0) fail("%s needs a number, not '%s'", name, text);
    return value;
}

static void set(const option *found, const char *value) {
    switch (found->kind) {
    case FLAG: *(bool *)found->to = true; break;
    case INT: *(int *)found->to = number(found->name, value, 0); break;
    case LONG: *(long *)found->to = number(found->name, value, 0); break;
    case REAL: *(double *)found->to = number(found->name, value, 0); break;
    case TEXT: *(const char **)found->to = value; break;
    case SIZES:
        opt.size_min = opt.size_max = number(found->name, value, ':');
        if (strchr(value, ':')) opt.size_max = number(found->name, strchr(value, ':') + 1, 0);
        break;
    }
}

static void check(void) {
    if (opt.size_min < (int)sizeof(stamp)) fail("--size is at least %zu, for the stamp in each body", sizeof(stamp));
    if (opt.size_max < opt.size_min) fail("--size %d:%d is no range", opt.size_min, opt.size_max);
    if (!opt.publishers || !opt.queues || !opt.batch) fail("--publishers, --queues and --batch are at least 1");
    if (opt.consumers && opt.consumers < opt.queues) fail("%d queues need as many --consumers", opt.queues);
    if (opt.connections > opt.consumers) fail("--connections is at most --consumers");
    if (opt.keys && (!opt.exchange_type || strcmp(opt.exchange_type, "topic"))) fail("--keys needs a topic exchange");
    if (opt.keys && opt.queues > 10) fail("--keys is for up to 10 queues");
    if (opt.confirm && opt.tx) fail("--confirm and --tx exclude each other");
    if (opt.in_flight && !opt.consumers) fail("--in-flight needs consumers");
    if (opt.rpc && (!opt.consumers || opt.get || opt.autoack || opt.exchange_type || opt.confirm || opt.tx || opt.rate > 0))
        fail("--rpc excludes --get, --autoack, --exchange-type, --confirm, --tx and --rate, and needs consumers");
    if ((opt.get || opt.rpc) && opt.multiack > 1) fail("--get and --rpc acknowledge each message");
    if (opt.autoack && (opt.get || opt.multiack > 1)) fail("--autoack excludes --get and --multiack");
    if (opt.prefetch && opt.multiack > opt.prefetch) fail("--multiack is at most --prefetch");
}

void read_options(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const option *found = NULL;
        for (int k = 0; k < COUNT; k++)
            if (!strcmp(argv[i], KNOWN[k].name)) found = &KNOWN[k];
        if (!strcmp(argv[i], "--help")) help();
        if (!found) fail("unknown option %s", argv[i]);
        const char *value = NULL;
        if (found->kind != FLAG) {
            if (++i == argc) fail("%s needs %s", found->name, found->argument);
            value = argv[i];
        }
        set(found, value);
    }
    if (!opt.connections) opt.connections = opt.consumers;
    if (opt.batch < opt.tx) opt.batch = opt.tx;
    static char prefix[32];
    snprintf(prefix, sizeof prefix, "load-%d", (int)getpid());
    if (!opt.prefix) opt.prefix = prefix;
    check();
}
