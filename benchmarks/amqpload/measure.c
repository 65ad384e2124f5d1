/* Clocks, counters, and what /proc says of the broker. */
#include "load.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
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

/* One field of a process: processor time in ticks, and its parent. */
static bool read_stat(int pid, unsigned long *ticks, int *parent) {
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return false;
    char *got = fgets(line, sizeof line, file);
    fclose(file);
    char *after = got ? strrchr(line, ')') : NULL;
    unsigned long user, system;
    if (!after || sscanf(after + 2, "%*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", parent, &user, &system) != 3)
        return false;
    *ticks = user + system;
    return true;
}

double cpu_seconds_of(int pid) {
    unsigned long ticks;
    int parent;
    if (!pid || !read_stat(pid, &ticks, &parent)) return 0;
    double total = ticks / (double)sysconf(_SC_CLK_TCK);
    DIR *folder = opendir("/proc");
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        int other = atoi(entry->d_name);
        if (other > 0 && read_stat(other, &ticks, &parent) && parent == pid) total += cpu_seconds_of(other);
    }
    if (folder) closedir(folder);
    return total;
}

double cpu_seconds_here(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
}

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
