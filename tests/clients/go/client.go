package main

import (
	"context"
	"errors"
	"fmt"
)

// A record as all of the clients have it.
type record struct {
	Partition int32       `json:"partition"`
	Offset    int64       `json:"offset"`
	Key       string      `json:"key"`
	Value     *string     `json:"value"`
	Headers   [][2]string `json:"headers"`
	Time      int64       `json:"time"`  // in ms; 0: the client's now
	Codec     int         `json:"codec"` // of its batch, from the client that tells it
}

type credentials struct {
	mechanism, user, password string
}

// What the scenarios need of a client.
type client interface {
	// Reaches the broker, and logs in.
	greet(ctx context.Context) error
	create(ctx context.Context, topic string, partitions int, configs map[string]string) error
	grow(ctx context.Context, topic string, partitions int) error
	partitions(ctx context.Context, topic string) (int, error)
	// What is set for the topic itself.
	configs(ctx context.Context, topic string) (map[string]string, error)
	alter(ctx context.Context, topic, name, value string) error
	// Of each partition; -2 is the first one, -1 the end, others are times in ms.
	offsets(ctx context.Context, topic string, partitions int, at int64) ([]int64, error)
	remove(ctx context.Context, topic string) error

	// acks=all, and idempotent where the client can; a record is for the partition of its key.
	producer(topic, codec string, acked func(record, error)) (producer, error)
	// So many records from the beginning, without a group.
	read(ctx context.Context, topic string, partitions, count int) ([]record, error)
	// Each record is committed after it was taken; after leave nothing is under way.
	join(group, topic string, taken func(record)) (leave func() error, err error)

	// Kafka's number of an error, 0 if it has none.
	code(err error) int
	close() error
}

type producer interface {
	send(one record)
	// Waits for all that was sent.
	close() error
}

type ack struct {
	record record
	err    error
}

// A producer whose records are waited for.
type outbox struct {
	producer
	acks chan ack
}

func openOutbox(ctx context.Context, one client, topic, codec string) (*outbox, error) {
	acks := make(chan ack)
	made, err := one.producer(topic, codec, func(one record, err error) {
		select {
		case acks <- ack{one, err}:
		case <-ctx.Done():
		}
	})
	return &outbox{made, acks}, err
}

// The records with the places that they have got.
func (box *outbox) write(ctx context.Context, records []record) ([]record, error) {
	go func() {
		for _, one := range records {
			box.send(one)
		}
	}()
	written := make([]record, 0, len(records))
	for len(written) < len(records) {
		select {
		case got := <-box.acks:
			if got.err != nil {
				return nil, got.err
			}
			written = append(written, got.record)
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d records were acknowledged", len(written), len(records))
		}
	}
	return written, nil
}

// All of them with a producer of their own.
func produce(ctx context.Context, one client, topic, codec string, records []record) ([]record, error) {
	box, err := openOutbox(ctx, one, topic, codec)
	if err != nil {
		return nil, err
	}
	written, err := box.write(ctx, records)
	return written, errors.Join(err, box.close())
}

func text(octets []byte) *string {
	if octets == nil {
		return nil
	}
	value := string(octets)
	return &value
}

func octets(value *string) []byte {
	if value == nil {
		return nil
	}
	return []byte(*value)
}
