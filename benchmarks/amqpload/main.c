/* One measurement: declare, connect, run both threads, add up, print. */
#include "load.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>

/* A thousand connections are more than most shells allow. */
static void allow_many_files(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

static void check_sums(long left) {
    long kept = opt.consumers ? 0 : (long)expected;
    if (opt.consumers && delivered != expected) fail("%ld messages came, %ld were published", (long)delivered, (long)expected);
    if (opt.consumers && marks_sent != marks_received) fail("as many messages came as were published, but not the same ones");
    if (left != kept) fail("%ld messages are in the queues at the end, not %ld", left, kept);
    if ((opt.confirm || opt.tx) && confirmed != published) fail("%ld of %ld messages confirmed", (long)confirmed, (long)published);
    if (!published) fail("nothing was published");
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    allow_many_files();
    conn *control = dial();
    open_channel(control, 1);
    declare_all(control);
    if (opt.consumers) open_consumers();
    if (opt.rpc) open_clients();
    else open_publishers();

    pthread_t consuming, publishing;
    double broker = cpu_seconds_of(opt.pid), here = cpu_seconds_here(), begun = now();
    if (opt.consumers) pthread_create(&consuming, NULL, run_consumers, NULL);
    pthread_create(&publishing, NULL, opt.rpc ? run_clients : run_publishers, NULL);
    pthread_join(publishing, NULL);
    double publish_s = now() - begun;
    long resident = resident_kb_of(opt.pid), backlog = expected - delivered;
    if (opt.consumers) {
        pthread_join(consuming, NULL);
        close_consumers();
    }
    broker = cpu_seconds_of(opt.pid) - broker;
    here = cpu_seconds_here() - here;
    check_sums(delete_all(control));

    long messages = delivered > published ? delivered : published;
    double deliver_s = last_delivery - begun;
    printf("{\"published\": %ld, \"publish_rate\": %.0f, \"confirmed\": %ld, \"delivered\": %ld, \"deliver_rate\": %.0f, "
           "\"backlog_at_end\": %ld, \"p50_us\": %.0f, \"p99_us\": %.0f, \"p999_us\": %.0f, \"max_us\": %ld, \"cpu_s\": %.2f, "
           "\"cpu_us_per_msg\": %.2f, \"load_cpu_us_per_msg\": %.2f, \"rss_kb\": %ld}\n",
           (long)published, published / publish_s, (long)confirmed, (long)delivered, delivered ? delivered / deliver_s : 0,
           backlog, latency_us(.5), latency_us(.99), latency_us(.999), latency_max_us(), broker,
           broker * 1e6 / messages, here * 1e6 / messages, resident);
    return 0;
}
