package main

import (
	"context"
	"errors"
	"io"
	"log"
	"time"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

var saramaCodecs = map[string]sarama.CompressionCodec{
	"none":   sarama.CompressionNone,
	"gzip":   sarama.CompressionGZIP,
	"snappy": sarama.CompressionSnappy,
	"lz4":    sarama.CompressionLZ4,
	"zstd":   sarama.CompressionZSTD,
}

type saramaClient struct {
	bootstrap []string
	login     *credentials
	admin     sarama.ClusterAdmin
}

func openSarama(bootstrap string, login *credentials) (client, error) {
	sarama.Logger = log.New(io.Discard, "", 0)
	return &saramaClient{bootstrap: []string{bootstrap}, login: login}, nil
}

func (client *saramaClient) config() *sarama.Config {
	made := sarama.NewConfig()
	made.Version = sarama.MaxVersion
	made.Net.DialTimeout, made.Net.ReadTimeout, made.Net.WriteTimeout = callTime, callTime, callTime
	made.Admin.Timeout = callTime
	made.Consumer.MaxWaitTime = fetchTime
	made.Consumer.Offsets.Initial = sarama.OffsetOldest
	made.Consumer.Offsets.AutoCommit.Enable = false
	made.Consumer.Group.Session.Timeout = sessionTime
	made.Consumer.Group.Heartbeat.Interval = heartbeat
	made.Consumer.Group.Rebalance.Retry.Backoff = heartbeat
	if client.login == nil {
		return made
	}
	made.Net.SASL.Enable = true
	made.Net.SASL.Mechanism = sarama.SASLMechanism(client.login.mechanism)
	made.Net.SASL.User, made.Net.SASL.Password = client.login.user, client.login.password
	made.Metadata.Retry.Max = 0
	switch client.login.mechanism {
	case "SCRAM-SHA-256":
		made.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{generator: scram.SHA256} }
	case "SCRAM-SHA-512":
		made.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{generator: scram.SHA512} }
	}
	return made
}

// sarama leaves the mechanism to a library of one's choice.
type scramClient struct {
	generator scram.HashGeneratorFcn
	*scram.ClientConversation
}

func (client *scramClient) Begin(user, password, authzid string) error {
	made, err := client.generator.NewClient(user, password, authzid)
	if err == nil {
		client.ClientConversation = made.NewConversation()
	}
	return err
}

// The one for all requests, made when it is needed first.
func (client *saramaClient) clusterAdmin() (sarama.ClusterAdmin, error) {
	if client.admin == nil {
		made, err := sarama.NewClusterAdmin(client.bootstrap, client.config())
		if err != nil {
			return nil, err
		}
		client.admin = made
	}
	return client.admin, nil
}

func (client *saramaClient) greet(context.Context) error {
	_, err := client.clusterAdmin()
	return err
}

func (client *saramaClient) create(_ context.Context, topic string, partitions int, configs map[string]string) error {
	admin, err := client.clusterAdmin()
	if err != nil {
		return err
	}
	detail := &sarama.TopicDetail{NumPartitions: int32(partitions), ReplicationFactor: 1, ConfigEntries: map[string]*string{}}
	for name, value := range configs {
		detail.ConfigEntries[name] = &value
	}
	return admin.CreateTopic(topic, detail, false)
}

func (client *saramaClient) grow(_ context.Context, topic string, partitions int) error {
	admin, err := client.clusterAdmin()
	if err != nil {
		return err
	}
	return admin.CreatePartitions(topic, int32(partitions), nil, false)
}

func (client *saramaClient) partitions(_ context.Context, topic string) (int, error) {
	admin, err := client.clusterAdmin()
	if err != nil {
		return 0, err
	}
	found, err := admin.DescribeTopics([]string{topic})
	if err != nil {
		return 0, err
	}
	if found[0].Err != sarama.ErrNoError {
		return 0, found[0].Err
	}
	return len(found[0].Partitions), nil
}

func (client *saramaClient) configs(_ context.Context, topic string) (map[string]string, error) {
	admin, err := client.clusterAdmin()
	if err != nil {
		return nil, err
	}
	found, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: topic})
	set := make(map[string]string)
	for _, one := range found {
		if one.Source == sarama.SourceTopic {
			set[one.Name] = one.Value
		}
	}
	return set, err
}

func (client *saramaClient) alter(_ context.Context, topic, name, value string) error {
	admin, err := client.clusterAdmin()
	if err != nil {
		return err
	}
	entry := sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value}
	entries := map[string]sarama.IncrementalAlterConfigsEntry{name: entry}
	return admin.IncrementalAlterConfig(sarama.TopicResource, topic, entries, false)
}

func (client *saramaClient) offsets(_ context.Context, topic string, partitions int, at int64) ([]int64, error) {
	inner, err := sarama.NewClient(client.bootstrap, client.config())
	if err != nil {
		return nil, err
	}
	found := make([]int64, partitions)
	for number := range found {
		if found[number], err = inner.GetOffset(topic, int32(number), at); err != nil {
			break
		}
	}
	return found, errors.Join(err, inner.Close())
}

func (client *saramaClient) remove(_ context.Context, topic string) error {
	admin, err := client.clusterAdmin()
	if err != nil {
		return err
	}
	return admin.DeleteTopic(topic)
}

type saramaProducer struct {
	inner sarama.AsyncProducer
	topic string
	ended chan struct{}
}

func (client *saramaClient) producer(topic, codec string, acked func(record, error)) (producer, error) {
	config := client.config()
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1 // what it asks of the idempotent
	config.Producer.Compression = saramaCodecs[codec]
	config.Producer.Return.Successes = true
	config.Producer.Flush.Frequency = 5 * time.Millisecond
	// Its own three tries, also to hear of a leader, are over before a broker has started again.
	config.Producer.Retry.Max, config.Metadata.Retry.Max = 100, 100
	inner, err := sarama.NewAsyncProducer(client.bootstrap, config)
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		successes, failures := inner.Successes(), inner.Errors()
		for successes != nil || failures != nil {
			select {
			case one, open := <-successes:
				if !open {
					successes = nil
					continue
				}
				acked(sentBySarama(one), nil)
			case one, open := <-failures:
				if !open {
					failures = nil
					continue
				}
				acked(sentBySarama(one.Msg), one.Err)
			}
		}
	}()
	return &saramaProducer{inner, topic, ended}, nil
}

func sentBySarama(one *sarama.ProducerMessage) record {
	made := one.Metadata.(record)
	made.Partition, made.Offset = one.Partition, one.Offset
	return made
}

func (producer *saramaProducer) send(one record) {
	made := &sarama.ProducerMessage{Topic: producer.topic, Key: sarama.StringEncoder(one.Key), Metadata: one}
	if one.Value != nil {
		made.Value = sarama.StringEncoder(*one.Value)
	}
	if one.Time != 0 {
		made.Timestamp = time.UnixMilli(one.Time)
	}
	for _, header := range one.Headers {
		made.Headers = append(made.Headers, sarama.RecordHeader{Key: []byte(header[0]), Value: []byte(header[1])})
	}
	producer.inner.Input() <- made
}

func (producer *saramaProducer) close() error {
	producer.inner.AsyncClose()
	<-producer.ended
	return nil
}

func (client *saramaClient) read(ctx context.Context, topic string, partitions, count int) ([]record, error) {
	inner, err := sarama.NewConsumer(client.bootstrap, client.config())
	if err != nil {
		return nil, err
	}
	ctx, done := context.WithCancel(ctx)
	records := make(chan record)
	for number := range partitions {
		one, err := inner.ConsumePartition(topic, int32(number), sarama.OffsetOldest)
		if err != nil {
			done()
			return nil, err
		}
		defer one.AsyncClose()
		go func() {
			for {
				select {
				case got, open := <-one.Messages():
					if !open {
						return
					}
					select {
					case records <- fromSarama(got):
					case <-ctx.Done():
						return
					}
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	defer done()
	var found []record
	for len(found) < count {
		select {
		case one := <-records:
			found = append(found, one)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return found, nil
}

func fromSarama(one *sarama.ConsumerMessage) record {
	headers := [][2]string{}
	for _, header := range one.Headers {
		headers = append(headers, [2]string{string(header.Key), string(header.Value)})
	}
	return record{
		Partition: one.Partition, Offset: one.Offset, Key: string(one.Key), Value: text(one.Value),
		Headers: headers, Time: one.Timestamp.UnixMilli(),
	}
}

type saramaHandler func(record)

func (saramaHandler) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (saramaHandler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (taken saramaHandler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case one, open := <-claim.Messages():
			if !open {
				return nil
			}
			taken(fromSarama(one))
			session.MarkMessage(one, "")
			session.Commit()
		case <-session.Context().Done():
			return nil
		}
	}
}

func (client *saramaClient) join(group, topic string, taken func(record)) (func() error, error) {
	inner, err := sarama.NewConsumerGroup(client.bootstrap, group, client.config())
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			if err := inner.Consume(ctx, []string{topic}, saramaHandler(taken)); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	return func() error {
		stop()
		return errors.Join(<-ended, inner.Close())
	}, nil
}

func (client *saramaClient) code(err error) int {
	if errors.Is(err, sarama.ErrSASLAuthenticationFailed) { // As does not find it
		return int(sarama.ErrSASLAuthenticationFailed)
	}
	var known sarama.KError
	if errors.As(err, &known) {
		return int(known)
	}
	return 0
}

func (client *saramaClient) close() error {
	if client.admin == nil {
		return nil
	}
	return client.admin.Close()
}
