/* amqpload: an AMQP 0-9-1 load generator that also checks what the broker does with its messages.
 *
 * Two threads: one has the publishers (or RPC clients), the other the consumers (or RPC servers). Each serves
 * all its connections with one epoll. Messages are made before the clock starts; sending one copies its head,
 * writes a few digits into it and adds a slice of a common body.
 */
#ifndef LOAD_H
#define LOAD_H

#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* ---- options.c ---- */

typedef struct {
    const char *host, *user, *password, *prefix;
    int port, pid, patience;
    double seconds, rate;
    long count, in_flight;
    int publishers, consumers, connections, queues;
    const char *exchange_type;
    int keys;
    bool in_turn, shuffle;
    int size_min, size_max;
    bool ids, headers, persistent;
    int expirations;
    int confirm, tx, batch;
    int prefetch, multiack;
    bool autoack, get, rpc, direct_reply_to;
} options;

extern options opt;
void read_options(int argc, char **argv);

/* ---- measure.c ---- */

extern atomic_long published;  /* written to a socket, or about to be */
extern atomic_long expected;   /* deliveries that those must lead to */
extern atomic_long delivered;
extern atomic_long confirmed;
extern atomic_bool published_all;
extern double last_delivery;   /* written by the consumers' thread, read after it */

_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
double now(void);
uint64_t now_ns(void);
void record_latency(uint64_t sent_ns, uint64_t at_ns);
double latency_us(double share);
long latency_max_us(void);
double cpu_seconds_of(int pid);
double cpu_seconds_here(void);
long resident_kb_of(int pid);

/* ---- wire.c ---- */

enum { METHOD = 1, HEADER = 2, BODY = 3, HEARTBEAT = 8, FRAME_END = 0xCE };
#define ID(class_id, method_id) ((uint32_t)(class_id) << 16 | (method_id))

typedef struct {
    uint8_t *at;
    size_t len, cap;
} bytes;

typedef struct {
    int fd;
    bytes in;     /* received */
    size_t from;  /* of it, already parsed */
    bytes out;    /* not yet written */
    bool drained; /* the last receive took all that was there */
} conn;

typedef struct {
    int type, channel;
    uint8_t *payload;
    uint32_t size;
} frame;

typedef struct {
    const uint8_t *message_id, *correlation_id, *reply_to;
    int message_id_len, correlation_id_len, reply_to_len;
} properties;

extern uint32_t frame_max;

void put(bytes *to, const void *from, size_t len);
void put8(bytes *to, int value);
void put16(bytes *to, int value);
void put32(bytes *to, uint32_t value);
void put64(bytes *to, uint64_t value);
void put_short(bytes *to, const char *text);
void put_long(bytes *to, const void *text, uint32_t len);
void set32(uint8_t *at, uint32_t value);
uint16_t get16(const uint8_t *at);
uint32_t get32(const uint8_t *at);
uint64_t get64(const uint8_t *at);
size_t begin_frame(bytes *to, int type, int channel);
size_t begin_method(bytes *to, int channel, uint32_t id);
void end_frame(bytes *to, size_t begun);
properties read_properties(const frame *header);

conn *dial(void);
void open_channel(conn *, int channel);
void close_channel(conn *, int channel);
void set_blocking(conn *, bool);
void send_all(conn *);         /* blocks until `out` is written */
bool send_some(conn *);        /* false: the socket is full */
bool receive_some(conn *);     /* false: nothing is there */
bool next_frame(conn *, frame *);
frame call(conn *, uint32_t reply_id);  /* sends `out`, blocks until this method arrives */

/* ---- topology.c ---- */

void declare_all(conn *);
long delete_all(conn *);       /* messages that were left in the queues */
int count_of_keys(void);
void name_of_key(int key, char *into);
bool leads_to(int key, int queue);
int copies_of_message(void);
const char *exchange_name(void);
void name_of_queue(int queue, char *into);

/* ---- messages.c ---- */

/* The first bytes of each body. */
typedef struct {
    uint64_t sent_ns;
    uint32_t publisher, sequence, key, size;
} stamp;

enum { ID_LEN = 36 };

typedef struct {
    uint32_t head, head_len;  /* publish and header frame, in `heads` */
    uint32_t ids[3];          /* offsets in the head of what is patched; 0: not there */
    uint32_t timestamp;
    uint32_t key, size, slice;
} template;

/* Messages of one publisher, and those of its batch that are not yet written. */
typedef struct {
    uint32_t publisher, sequence, count;
    template *ring;
    bytes heads;
    bytes copied;             /* never moves: `parts` point into it */
    struct iovec *parts;
    int first, used;
} messages;

void make_messages(messages *, int publisher, int channel, const char *reply_to);
void add_message(messages *);
bool write_messages(messages *, int fd);  /* false: the socket is full */
bool is_written(const messages *);
void write_id(uint8_t *at, uint32_t sequence, uint32_t publisher);
uint64_t mark_of(uint32_t publisher, uint32_t sequence);
extern uint64_t marks_sent, marks_received; /* sums of marks: equal if the same messages came as were sent */

/* ---- publishers.c, rpc.c, consumers.c ---- */

void *run_publishers(void *);
void *run_clients(void *);
void open_publishers(void);
void open_clients(void);
void open_consumers(void);
void *run_consumers(void *);
void close_consumers(void);

#endif
