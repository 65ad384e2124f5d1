/* Clocks, counters, latencies, and what the system says of the broker. */
#include "load.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

atomic_long published, expected, delivered, confirmed;
atomic_bool published_all;
double last_delivery;

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("amqpload: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("\n", stderr);
    va_end(arguments);
    _exit(1);
}

uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + t.tv_nsec;
}

double now(void) { return now_ns() * 1e-9; }

/* Microseconds up to 10 ms, tenths of milliseconds up to 10 s. One thread records. */
enum { FINE = 10000, COARSE = 100000 };
static long fine[FINE], coarse[COARSE], longest, recorded;

void record_latency(uint64_t sent_ns, uint64_t at_ns) {
    uint64_t us = at_ns > sent_ns ? (at_ns - sent_ns) / 1000 : 0;
    if (us < FINE) fine[us]++;
    else coarse[us / 100 < COARSE ? us / 100 : COARSE - 1]++;
    if ((long)us > longest) longest = us;
    recorded++;
}

double latency_us(double share) {
    long wanted = recorded * share, seen = 0;
    for (int i = 0; i < FINE; i++)
        if ((seen += fine[i]) > wanted) return i;
    for (int i = 0; i < COARSE; i++)
        if ((seen += coarse[i]) > wanted) return i * 100.0;
    return longest;
}

long latency_max_us(void) { return longest; }

static double seconds_of(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t)) return 0;
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Of all its threads; to the nanosecond, which /proc is not. */
double cpu_seconds_of(int pid) {
    clockid_t clock;
    if (!pid) return 0;
    if (clock_getcpuclockid(pid, &clock)) fail("there is no process %d", pid);
    return seconds_of(clock);
}

double cpu_seconds_here(void) { return seconds_of(CLOCK_PROCESS_CPUTIME_ID); }

long resident_kb_of(int pid) {
    char path[64], line[256];
    long kb = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = pid ? fopen(path, "r") : NULL;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmRSS: %ld", &kb) == 1) break;
    if (file) fclose(file);
    return kb;
}
