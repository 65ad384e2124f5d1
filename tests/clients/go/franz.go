package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

var franzCodecs = map[string]kgo.CompressionCodec{
	"none":   kgo.NoCompression(),
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

type franz struct {
	options []kgo.Opt
	admin   *kadm.Client
}

func openFranz(bootstrap string, login *credentials) (client, error) {
	options := []kgo.Opt{kgo.SeedBrokers(bootstrap), kgo.FetchMaxWait(fetchTime), kgo.MetadataMinAge(fetchTime)}
	if login != nil {
		switch login.mechanism {
		case "PLAIN":
			options = append(options, kgo.SASL(plain.Auth{User: login.user, Pass: login.password}.AsMechanism()))
		case "SCRAM-SHA-256":
			options = append(options, kgo.SASL(scram.Auth{User: login.user, Pass: login.password}.AsSha256Mechanism()))
		case "SCRAM-SHA-512":
			options = append(options, kgo.SASL(scram.Auth{User: login.user, Pass: login.password}.AsSha512Mechanism()))
		}
	}
	inner, err := kgo.NewClient(options...)
	if err != nil {
		return nil, err
	}
	return &franz{options, kadm.NewClient(inner)}, nil
}

func (franz *franz) with(more ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(append([]kgo.Opt{}, franz.options...), more...)...)
}

func (franz *franz) greet(ctx context.Context) error {
	inner, err := franz.with()
	if err != nil {
		return err
	}
	defer inner.Close()
	return inner.Ping(ctx)
}

func (franz *franz) create(ctx context.Context, topic string, partitions int, configs map[string]string) error {
	given := make(map[string]*string)
	for name, value := range configs {
		given[name] = &value
	}
	_, err := franz.admin.CreateTopic(ctx, int32(partitions), 1, given, topic)
	return err
}

func (franz *franz) grow(ctx context.Context, topic string, partitions int) error {
	answer, err := franz.admin.UpdatePartitions(ctx, partitions, topic)
	return errors.Join(err, answer.Error())
}

func (franz *franz) partitions(ctx context.Context, topic string) (int, error) {
	// What is asked for with rights does not come from the client's memory.
	answer, err := franz.admin.ListTopics(kadm.WithAuthorizedOps(ctx), topic)
	return len(answer[topic].Partitions), errors.Join(err, answer[topic].Err)
}

func (franz *franz) configs(ctx context.Context, topic string) (map[string]string, error) {
	answer, err := franz.admin.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return nil, err
	}
	found, err := answer.On(topic, nil)
	set := make(map[string]string)
	for _, one := range found.Configs {
		if one.Source.String() == "DYNAMIC_TOPIC_CONFIG" {
			set[one.Key] = one.MaybeValue()
		}
	}
	return set, errors.Join(err, found.Err)
}

func (franz *franz) alter(ctx context.Context, topic, name, value string) error {
	configs := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: name, Value: &value}}
	answer, err := franz.admin.AlterTopicConfigs(ctx, configs, topic)
	if err != nil {
		return err
	}
	found, err := answer.On(topic, nil)
	return errors.Join(err, found.Err)
}

func (franz *franz) offsets(ctx context.Context, topic string, partitions int, at int64) ([]int64, error) {
	list := franz.admin.ListStartOffsets
	switch {
	case at == -1:
		list = franz.admin.ListEndOffsets
	case at >= 0:
		list = func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return franz.admin.ListOffsetsAfterMilli(ctx, at, topics...)
		}
	}
	answer, err := list(ctx, topic)
	if err := errors.Join(err, answer.Error()); err != nil {
		return nil, err
	}
	found := make([]int64, partitions)
	for number := range found {
		found[number] = answer[topic][int32(number)].Offset
	}
	return found, nil
}

func (franz *franz) remove(ctx context.Context, topic string) error {
	_, err := franz.admin.DeleteTopic(ctx, topic)
	return err
}

type franzProducer struct {
	inner *kgo.Client
	topic string
	acked func(record, error)
}

func (franz *franz) producer(topic, codec string, acked func(record, error)) (producer, error) {
	compression := kgo.ProducerBatchCompression(franzCodecs[codec])
	inner, err := franz.with(kgo.RequiredAcks(kgo.AllISRAcks()), compression, kgo.ProducerLinger(5*time.Millisecond))
	return &franzProducer{inner, topic, acked}, err
}

func (producer *franzProducer) send(one record) {
	made := &kgo.Record{Topic: producer.topic, Key: []byte(one.Key), Value: octets(one.Value)}
	if one.Time != 0 {
		made.Timestamp = time.UnixMilli(one.Time)
	}
	for _, header := range one.Headers {
		made.Headers = append(made.Headers, kgo.RecordHeader{Key: header[0], Value: []byte(header[1])})
	}
	producer.inner.Produce(context.Background(), made, func(done *kgo.Record, err error) {
		one.Partition, one.Offset = done.Partition, done.Offset
		producer.acked(one, err)
	})
}

func (producer *franzProducer) close() error {
	ctx, done := context.WithTimeout(context.Background(), callTime)
	defer done()
	defer producer.inner.Close()
	return producer.inner.Flush(ctx)
}

func (franz *franz) read(ctx context.Context, topic string, partitions, count int) ([]record, error) {
	inner, err := franz.with(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	defer inner.Close()
	var found []record
	for len(found) < count {
		fetched := inner.PollFetches(ctx)
		if err := fetched.Err(); err != nil {
			return nil, fmt.Errorf("%d of %d records: %w", len(found), count, err)
		}
		fetched.EachRecord(func(one *kgo.Record) { found = append(found, fromFranz(one)) })
	}
	return found, nil
}

func fromFranz(one *kgo.Record) record {
	headers := [][2]string{}
	for _, header := range one.Headers {
		headers = append(headers, [2]string{header.Key, string(header.Value)})
	}
	return record{
		one.Partition, one.Offset, string(one.Key), text(one.Value), headers,
		one.Timestamp.UnixMilli(), int(one.Attrs.CompressionType()),
	}
}

func (franz *franz) join(group, topic string, taken func(record)) (func() error, error) {
	inner, err := franz.with(
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(), kgo.SessionTimeout(sessionTime), kgo.HeartbeatInterval(heartbeat),
	)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			fetched := inner.PollFetches(ctx)
			if ctx.Err() != nil {
				return
			}
			fetched.EachRecord(func(one *kgo.Record) {
				taken(fromFranz(one))
				// Refused while partitions move: then another member takes it again.
				_ = inner.CommitRecords(context.Background(), one)
			})
		}
	}()
	return func() error {
		stop()
		<-ended
		inner.Close() // leaves
		return nil
	}, nil
}

func (franz *franz) code(err error) int {
	var known *kerr.Error
	if errors.As(err, &known) {
		return int(known.Code)
	}
	return 0
}

func (franz *franz) close() error {
	franz.admin.Close()
	return nil
}
