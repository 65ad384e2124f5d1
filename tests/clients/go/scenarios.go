package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type arguments struct {
	open             func(bootstrap string, login *credentials) (client, error)
	bootstrap, topic string
	more             []string
}

type seen map[string]any

var scenarios = map[string]func(ctx context.Context, given arguments) (any, error){
	"produceAndConsume": produceAndConsume,
	"read":              read,
	"group":             group,
	"admin":             admin,
	"login":             logIn,
	"stream":            stream,
}

const partitions = 3

// Of topics whose records have times that are long past.
var forever = map[string]string{"retention.ms": "-1"}

// So many with keys that recur, values to compress, every tenth one null, and headers.
func someRecords(count int, key string) []record {
	made := make([]record, count)
	for number := range made {
		value := fmt.Sprintf("%d:%s", number, strings.Repeat("compressible", 20))
		made[number] = record{
			Key:     fmt.Sprintf("%s%d", key, number%20),
			Value:   &value,
			Headers: [][2]string{{"number", strconv.Itoa(number)}, {"ü", "ü"}, {"number", ""}},
			Time:    1_700_000_000_000 + int64(number)*1000,
		}
		if number%10 == 9 {
			made[number].Value = nil
		}
	}
	return made
}

// MORE: the codec.
func produceAndConsume(ctx context.Context, given arguments) (any, error) {
	return with(given, func(one client) (any, error) {
		if err := one.create(ctx, given.topic, partitions, forever); err != nil {
			return nil, err
		}
		sent := someRecords(300, "key")
		acked, err := produce(ctx, one, given.topic, given.more[0], sent)
		if err != nil {
			return nil, err
		}
		found, err := one.read(ctx, given.topic, partitions, len(sent))
		return seen{"sent": sent, "acked": acked, "read": found}, err
	})
}

// MORE: how many partitions and records.
func read(ctx context.Context, given arguments) (any, error) {
	return with(given, func(one client) (any, error) {
		number, err := strconv.Atoi(given.more[0])
		if err != nil {
			return nil, err
		}
		count, err := strconv.Atoi(given.more[1])
		if err != nil {
			return nil, err
		}
		return one.read(ctx, given.topic, number, count)
	})
}

type place struct {
	partition int32
	offset    int64
}

type taking struct {
	member int
	record record
}

// A topic that is written to while members of a group read it.
type shared struct {
	client
	topic  string
	box    *outbox
	takers chan taking
}

func (topic *shared) member(ctx context.Context, number int) (leave func() error, err error) {
	return topic.join(topic.topic, topic.topic, func(one record) {
		select {
		case topic.takers <- taking{number, one}:
		case <-ctx.Done():
		}
	})
}

// Some records for all partitions.
func (topic *shared) write(ctx context.Context) (map[place]bool, error) {
	written, err := topic.box.write(ctx, someRecords(20, "key"))
	places := make(map[place]bool)
	for _, one := range written {
		places[place{one.Partition, one.Offset}] = true
	}
	return places, err
}

// Waits until all these were taken; returns who has taken from which partition. What is taken again is not seen.
func (topic *shared) take(ctx context.Context, wanted map[place]bool) (map[int32]map[int]bool, error) {
	owners := make(map[int32]map[int]bool)
	for len(wanted) > 0 {
		select {
		case one := <-topic.takers:
			at := place{one.record.Partition, one.record.Offset}
			if !wanted[at] {
				continue
			}
			delete(wanted, at)
			if owners[at.partition] == nil {
				owners[at.partition] = make(map[int]bool)
			}
			owners[at.partition][one.member] = true
		case <-ctx.Done():
			return nil, fmt.Errorf("not taken: %v", wanted)
		}
	}
	return owners, nil
}

// How many partitions each of so many members has, once every partition is one member's and all have some.
func (topic *shared) shares(ctx context.Context, members int) (map[string]int, error) {
	for {
		wanted, err := topic.write(ctx)
		if err != nil {
			return nil, err
		}
		owners, err := topic.take(ctx, wanted)
		if err != nil {
			return nil, err
		}
		found := make(map[string]int)
		single := true
		for _, of := range owners {
			single = single && len(of) == 1
			for member := range of {
				found[strconv.Itoa(member)]++
			}
		}
		if single && len(found) == members {
			return found, nil
		}
	}
}

// One member, then two, then the first one again; another one goes on where that was.
func group(ctx context.Context, given arguments) (any, error) {
	return with(given, func(one client) (any, error) {
		if err := one.create(ctx, given.topic, partitions, forever); err != nil {
			return nil, err
		}
		box, err := openOutbox(ctx, one, given.topic, "none")
		if err != nil {
			return nil, err
		}
		topic := &shared{one, given.topic, box, make(chan taking)}
		found, err := members(ctx, topic)
		return found, errors.Join(err, box.close())
	})
}

func members(ctx context.Context, topic *shared) (any, error) {
	leaveFirst, err := topic.member(ctx, 1)
	if err != nil {
		return nil, err
	}
	alone, err := topic.shares(ctx, 1)
	if err != nil {
		return nil, err
	}
	leaveSecond, err := topic.member(ctx, 2)
	if err != nil {
		return nil, err
	}
	both, err := topic.shares(ctx, 2)
	if err != nil {
		return nil, err
	}
	if err := leaveSecond(); err != nil {
		return nil, err
	}
	left, err := topic.shares(ctx, 1)
	if err != nil {
		return nil, err
	}
	if err := leaveFirst(); err != nil {
		return nil, err
	}
	resumed, err := resume(ctx, topic)
	return seen{"alone": alone, "both": both, "left": left, "resumed": resumed}, err
}

// Whether a new member's first records are those that were written while there was none.
func resume(ctx context.Context, topic *shared) (bool, error) {
	wanted, err := topic.write(ctx)
	if err != nil {
		return false, err
	}
	leave, err := topic.member(ctx, 3)
	if err != nil {
		return false, err
	}
	for left := len(wanted); left > 0; left-- {
		select {
		case one := <-topic.takers:
			delete(wanted, place{one.record.Partition, one.record.Offset})
		case <-ctx.Done():
			return false, fmt.Errorf("not taken: %v", wanted)
		}
	}
	return len(wanted) == 0, leave()
}

func admin(ctx context.Context, given arguments) (any, error) {
	return with(given, func(one client) (any, error) {
		topic := given.topic
		if err := one.create(ctx, topic, 2, map[string]string{"retention.ms": "1000000000000"}); err != nil {
			return nil, err
		}
		found := seen{"again": one.code(one.create(ctx, topic, 2, nil))}
		if err := one.grow(ctx, topic, partitions); err != nil {
			return nil, err
		}
		if err := one.alter(ctx, topic, "max.message.bytes", "100000"); err != nil {
			return nil, err
		}
		var err error
		if found["partitions"], err = one.partitions(ctx, topic); err != nil {
			return nil, err
		}
		if found["configs"], err = one.configs(ctx, topic); err != nil {
			return nil, err
		}
		if found["acked"], err = produce(ctx, one, topic, "none", someRecords(100, "key")); err != nil {
			return nil, err
		}
		for name, at := range map[string]int64{"first": -2, "end": -1, "since": 1_700_000_049_500} {
			if found[name], err = one.offsets(ctx, topic, partitions, at); err != nil {
				return nil, err
			}
		}
		if err := one.remove(ctx, topic); err != nil {
			return nil, err
		}
		_, err = one.partitions(ctx, topic)
		found["removed"] = one.code(err)
		return found, nil
	})
}

// MORE: mechanism, user, password. What is refused is told by its number.
func logIn(ctx context.Context, given arguments) (any, error) {
	login := &credentials{given.more[0], given.more[1], given.more[2]}
	one, err := given.open(given.bootstrap, login)
	if err != nil {
		return nil, err
	}
	err = one.greet(ctx)
	if code := one.code(err); code != 0 {
		return seen{"code": code}, one.close()
	}
	if err := errors.Join(err, one.create(ctx, given.topic, 1, forever)); err != nil {
		return nil, err
	}
	written, err := produce(ctx, one, given.topic, "none", someRecords(1, "key"))
	return seen{"acked": len(written)}, errors.Join(err, one.close())
}

// Produces until SIGTERM, and prints a line for every record that is acknowledged, with the time in µs.
func stream(ctx context.Context, given arguments) (any, error) {
	ending, done := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer done()
	return with(given, func(one client) (any, error) {
		if err := one.create(ctx, given.topic, partitions, forever); err != nil {
			return nil, err
		}
		under := make(chan struct{}, 200) // what may be under way
		var all sync.WaitGroup
		var failed atomic.Int64
		made, err := one.producer(given.topic, "none", func(one record, err error) {
			if err != nil {
				failed.Add(1)
				fmt.Println("failed", *one.Value, err)
			} else {
				fmt.Println("acked", one.Partition, one.Offset, *one.Value, time.Now().UnixMicro())
			}
			<-under
			all.Done()
		})
		if err != nil {
			return nil, err
		}
		for number := 0; ending.Err() == nil; number++ {
			select {
			case under <- struct{}{}:
				value := strconv.Itoa(number)
				all.Add(1)
				made.send(record{Key: value, Value: &value})
			case <-ending.Done():
			}
		}
		all.Wait()
		return seen{"failed": failed.Load()}, made.close()
	})
}

// A client that is closed again.
func with(given arguments, run func(one client) (any, error)) (any, error) {
	one, err := given.open(given.bootstrap, nil)
	if err != nil {
		return nil, err
	}
	found, err := run(one)
	return found, errors.Join(err, one.close())
}
