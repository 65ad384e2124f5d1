package main

import (
	"context"
	"errors"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

var kafkaGoCodecs = map[string]kafka.Compression{
	"none":   0,
	"gzip":   kafka.Gzip,
	"snappy": kafka.Snappy,
	"lz4":    kafka.Lz4,
	"zstd":   kafka.Zstd,
}

type kafkaGo struct {
	bootstrap string
	mechanism sasl.Mechanism
	transport *kafka.Transport
	inner     *kafka.Client
}

func openKafkaGo(bootstrap string, login *credentials) (client, error) {
	mechanism, err := kafkaGoMechanism(login)
	transport := kafkaGoTransport(mechanism)
	inner := &kafka.Client{Addr: kafka.TCP(bootstrap), Timeout: callTime, Transport: transport}
	return &kafkaGo{bootstrap, mechanism, transport, inner}, err
}

func kafkaGoTransport(mechanism sasl.Mechanism) *kafka.Transport {
	return &kafka.Transport{DialTimeout: callTime, SASL: mechanism}
}

func kafkaGoMechanism(login *credentials) (sasl.Mechanism, error) {
	switch {
	case login == nil:
		return nil, nil
	case login.mechanism == "PLAIN":
		return plain.Mechanism{Username: login.user, Password: login.password}, nil
	case login.mechanism == "SCRAM-SHA-256":
		return scram.Mechanism(scram.SHA256, login.user, login.password)
	default:
		return scram.Mechanism(scram.SHA512, login.user, login.password)
	}
}

// As readers do; a transport does not say why it gets nowhere.
func (client *kafkaGo) greet(ctx context.Context) error {
	dialer := kafka.Dialer{Timeout: callTime, SASLMechanism: client.mechanism}
	connection, err := dialer.DialContext(ctx, "tcp", client.bootstrap)
	if err != nil {
		return err
	}
	return connection.Close()
}

func (client *kafkaGo) create(ctx context.Context, topic string, partitions int, configs map[string]string) error {
	config := kafka.TopicConfig{Topic: topic, NumPartitions: partitions, ReplicationFactor: 1}
	for name, value := range configs {
		config.ConfigEntries = append(config.ConfigEntries, kafka.ConfigEntry{ConfigName: name, ConfigValue: value})
	}
	answer, err := client.inner.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{config}})
	if err != nil {
		return err
	}
	return answer.Errors[topic]
}

func (client *kafkaGo) grow(ctx context.Context, topic string, partitions int) error {
	config := kafka.TopicPartitionsConfig{Name: topic, Count: int32(partitions)}
	request := &kafka.CreatePartitionsRequest{Topics: []kafka.TopicPartitionsConfig{config}}
	answer, err := client.inner.CreatePartitions(ctx, request)
	if err != nil {
		return err
	}
	return answer.Errors[topic]
}

func (client *kafkaGo) partitions(ctx context.Context, topic string) (int, error) {
	// With what the client's transport knows of the topic it would be answered from memory.
	transport := kafkaGoTransport(client.mechanism)
	defer transport.CloseIdleConnections()
	inner := kafka.Client{Addr: client.inner.Addr, Timeout: callTime, Transport: transport}
	answer, err := inner.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{topic}})
	if err != nil {
		return 0, err
	}
	return len(answer.Topics[0].Partitions), answer.Topics[0].Error
}

func (client *kafkaGo) configs(ctx context.Context, topic string) (map[string]string, error) {
	resource := kafka.DescribeConfigRequestResource{ResourceType: kafka.ResourceTypeTopic, ResourceName: topic}
	request := &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{resource}}
	answer, err := client.inner.DescribeConfigs(ctx, request)
	if err != nil {
		return nil, err
	}
	set := make(map[string]string)
	for _, one := range answer.Resources[0].ConfigEntries {
		if one.ConfigSource == 1 { // set for the topic
			set[one.ConfigName] = one.ConfigValue
		}
	}
	return set, answer.Resources[0].Error
}

func (client *kafkaGo) alter(ctx context.Context, topic, name, value string) error {
	resource := kafka.IncrementalAlterConfigsRequestResource{
		ResourceType: kafka.ResourceTypeTopic,
		ResourceName: topic,
		Configs:      []kafka.IncrementalAlterConfigsRequestConfig{{Name: name, Value: value}},
	}
	request := &kafka.IncrementalAlterConfigsRequest{Resources: []kafka.IncrementalAlterConfigsRequestResource{resource}}
	answer, err := client.inner.IncrementalAlterConfigs(ctx, request)
	if err != nil {
		return err
	}
	return answer.Resources[0].Error
}

func (client *kafkaGo) offsets(ctx context.Context, topic string, partitions int, at int64) ([]int64, error) {
	wanted := make([]kafka.OffsetRequest, partitions)
	for number := range wanted {
		wanted[number] = kafka.OffsetRequest{Partition: number, Timestamp: at}
	}
	request := &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{topic: wanted}}
	answer, err := client.inner.ListOffsets(ctx, request)
	if err != nil {
		return nil, err
	}
	found := make([]int64, partitions)
	for _, one := range answer.Topics[topic] {
		err = errors.Join(err, one.Error)
		switch at {
		case kafka.FirstOffset:
			found[one.Partition] = one.FirstOffset
		case kafka.LastOffset:
			found[one.Partition] = one.LastOffset
		default:
			for offset := range one.Offsets {
				found[one.Partition] = offset
			}
		}
	}
	return found, err
}

func (client *kafkaGo) remove(ctx context.Context, topic string) error {
	answer, err := client.inner.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{topic}})
	if err != nil {
		return err
	}
	return answer.Errors[topic]
}

type kafkaGoProducer struct {
	inner     *kafka.Writer
	transport *kafka.Transport
	acked     func(record, error)
}

func (client *kafkaGo) producer(topic, codec string, acked func(record, error)) (producer, error) {
	// One of its own: what another one knows of the topic may be older than its partitions.
	transport := kafkaGoTransport(client.mechanism)
	return &kafkaGoProducer{acked: acked, transport: transport, inner: &kafka.Writer{
		Addr:         client.inner.Addr,
		Topic:        topic,
		Transport:    transport,
		Balancer:     &kafka.Hash{},
		RequiredAcks: kafka.RequireAll,
		Compression:  kafkaGoCodecs[codec],
		BatchTimeout: 5 * time.Millisecond,
		WriteTimeout: callTime,
		ReadTimeout:  callTime,
		Async:        true,
		Completion: func(messages []kafka.Message, err error) {
			for _, one := range messages {
				made := one.WriterData.(record)
				made.Partition, made.Offset = int32(one.Partition), one.Offset
				acked(made, err)
			}
		},
	}}, nil
}

func (producer *kafkaGoProducer) send(one record) {
	made := kafka.Message{Key: []byte(one.Key), Value: octets(one.Value), WriterData: one}
	if one.Time != 0 {
		made.Time = time.UnixMilli(one.Time)
	}
	for _, header := range one.Headers {
		made.Headers = append(made.Headers, kafka.Header{Key: header[0], Value: []byte(header[1])})
	}
	ctx, done := context.WithTimeout(context.Background(), callTime)
	defer done()
	if err := producer.inner.WriteMessages(ctx, made); err != nil {
		producer.acked(one, err)
	}
}

func (producer *kafkaGoProducer) close() error {
	defer producer.transport.CloseIdleConnections()
	return producer.inner.Close()
}

func (client *kafkaGo) read(ctx context.Context, topic string, partitions, count int) ([]record, error) {
	ctx, done := context.WithCancel(ctx)
	defer done()
	records := make(chan record)
	failures := make(chan error, partitions)
	for number := range partitions {
		reader := kafka.NewReader(kafka.ReaderConfig{
			Brokers: []string{client.bootstrap}, Topic: topic, Partition: number, MaxWait: fetchTime,
		})
		defer reader.Close()
		go func() {
			for {
				one, err := reader.ReadMessage(ctx)
				if err != nil {
					failures <- err
					return
				}
				select {
				case records <- fromKafkaGo(one):
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	var found []record
	for len(found) < count {
		select {
		case one := <-records:
			found = append(found, one)
		case err := <-failures:
			return nil, err
		}
	}
	return found, nil
}

func fromKafkaGo(one kafka.Message) record {
	headers := [][2]string{}
	for _, header := range one.Headers {
		headers = append(headers, [2]string{header.Key, string(header.Value)})
	}
	return record{
		Partition: int32(one.Partition), Offset: one.Offset, Key: string(one.Key), Value: text(one.Value),
		Headers: headers, Time: one.Time.UnixMilli(),
	}
}

func (client *kafkaGo) join(group, topic string, taken func(record)) (func() error, error) {
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{client.bootstrap}, GroupID: group, Topic: topic, StartOffset: kafka.FirstOffset,
		MaxWait: fetchTime, SessionTimeout: sessionTime, HeartbeatInterval: heartbeat,
	})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		for {
			one, err := reader.FetchMessage(ctx)
			if ctx.Err() != nil {
				ended <- nil
				return
			}
			if err != nil {
				ended <- err
				return
			}
			taken(fromKafkaGo(one))
			// Refused while partitions move: then another member takes it again.
			_ = reader.CommitMessages(context.Background(), one)
		}
	}()
	return func() error {
		stop()
		return errors.Join(<-ended, reader.Close())
	}, nil
}

func (client *kafkaGo) code(err error) int {
	var known kafka.Error
	if errors.As(err, &known) {
		return int(known)
	}
	return 0
}

func (client *kafkaGo) close() error {
	client.transport.CloseIdleConnections()
	return nil
}
