// Scenarios with KafkaJS: `node kafkajs_scenarios.js HOST:PORT TOPIC NAME` prints what was seen, as JSON.
'use strict';

const { Kafka, CompressionTypes, logLevel } = require('kafkajs');

// Of records: older ones would be gone by the topic's retention.
const recent = Date.now() - 3600000;

const numbers = (count, from = 0) => Array.from({ length: count }, (_, index) => String(from + index));
const messages = (values, partition) => values.map((value) => ({ value, partition }));

// A consumer of a group, which begins with the first record and lets a test see quickly what happens.
function consumerOf(kafka, groupId) {
  return kafka.consumer({ groupId, sessionTimeout: 6000, heartbeatInterval: 200, maxWaitTimeInMs: 100 });
}

// Runs a consumer until it has so many records; it goes on afterwards.
async function take(consumer, topic, count, options = {}) {
  const found = [];
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  await new Promise((resolve, reject) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error));
    consumer.run({
      ...options,
      eachMessage: async ({ partition, message }) => {
        found.push({ partition, message });
        if (found.length === count) resolve();
      },
    }).catch(reject);
  });
  return found;
}

const valuesOf = (found) => found.map(({ message }) => message.value.toString());

const scenarios = {
  async produceAndConsume(kafka, topic, compression) {
    const producer = kafka.producer();
    await producer.connect();
    const sent = messages(numbers(100).map((number) => `${number}:${'compressible'.repeat(20)}`), 0);
    const type = CompressionTypes[compression];
    const [{ baseOffset, errorCode }] = await producer.send({ topic, messages: sent, compression: type });
    const consumer = consumerOf(kafka, topic);
    const found = await take(consumer, topic, 100);
    await consumer.disconnect();
    await producer.disconnect();
    return {
      baseOffset,
      errorCode,
      offsets: found.map(({ message }) => Number(message.offset)),
      same: found.every(({ message }, index) => message.value.toString() === sent[index].value),
    };
  },

  async keysHeadersAndTimes(kafka, topic) {
    const producer = kafka.producer();
    await producer.connect();
    const headers = { a: 'one', b: ['two', 'three'], 'ü': 'ü' };
    await producer.send({
      topic,
      messages: [
        { key: 'key', value: 'value', headers, timestamp: String(recent) },
        { key: 'key', value: null },
      ],
    });
    const consumer = consumerOf(kafka, topic);
    const found = await take(consumer, topic, 2);
    await consumer.disconnect();
    await producer.disconnect();
    return found.map(({ message: { key, value, headers, timestamp } }) => ({
      key: key.toString(),
      value: value && value.toString(),
      late: timestamp - recent,
      headers: Object.fromEntries(
        Object.entries(headers).map(([name, one]) => [name, Array.isArray(one) ? one.map(String) : String(one)])),
    }));
  },

  async idempotent(kafka, topic) {
    const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
    await producer.connect();
    const offsets = [];
    for (const value of numbers(20)) {
      const [{ baseOffset }] = await producer.send({ topic, messages: messages([value], 0) });
      offsets.push(Number(baseOffset));
    }
    await producer.disconnect();
    return { offsets };
  },

  async acks(kafka, topic) {
    const producer = kafka.producer();
    await producer.connect();
    for (const acks of [0, 1, -1]) await producer.send({ topic, acks, messages: messages([String(acks)], 0) });
    const consumer = consumerOf(kafka, topic);
    const found = await take(consumer, topic, 3);
    await consumer.disconnect();
    await producer.disconnect();
    return { values: valuesOf(found) };
  },

  // Three members; then two of them, and then the last one, which gets what is produced since.
  async group(kafka, topic) {
    const producer = kafka.producer();
    await producer.connect();
    await producer.send({ topic, messages: [0, 1, 2].flatMap((partition) => messages(numbers(10), partition)) });
    const owned = [];
    let changed = () => {};
    const found = new Set();
    const members = [0, 1, 2].map((index) => {
      const consumer = consumerOf(kafka, topic);
      consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
        owned[index] = payload.memberAssignment[topic] || [];
        changed();
      });
      return consumer;
    });
    const sizes = () => owned.map((one) => one.length).sort();
    const until = async (isSo) => {
      while (!isSo()) await new Promise((resolve) => { changed = resolve; });
    };
    for (const consumer of members) {
      await consumer.connect();
      await consumer.subscribe({ topics: [topic], fromBeginning: true });
      await consumer.run({
        eachMessage: async ({ partition, message }) => {
          found.add(`${partition}:${message.value}`);
          changed();
        },
      });
    }
    const seen = [];
    for (let left = 3; left; left--) {
      const count = 30 + (3 - left) * 3;
      await until(() => owned.length === left && owned.flat().length === 3 && found.size === count);
      seen.push(sizes());
      owned.pop();
      await members[left - 1].disconnect();
      const later = [0, 1, 2].flatMap((partition) => messages([`after ${left}`], partition));
      await producer.send({ topic, messages: later });
    }
    await producer.disconnect();
    return { seen };
  },

  async commitsAndSeek(kafka, topic) {
    const producer = kafka.producer();
    await producer.connect();
    await producer.send({ topic, messages: messages(numbers(10), 0) });
    await producer.disconnect();
    const first = consumerOf(kafka, topic);
    await take(first, topic, 10, { autoCommit: false });
    await first.commitOffsets([{ topic, partition: 0, offset: '4', metadata: 'four: ü' }]);
    await first.disconnect();
    const second = consumerOf(kafka, topic);
    const later = valuesOf(await take(second, topic, 6));
    await second.disconnect(); // commits what it has taken
    const third = consumerOf(kafka, topic);
    const sought = [];
    await third.connect();
    await third.subscribe({ topics: [topic] });
    await new Promise((resolve, reject) => {
      third.run({
        eachMessage: async ({ message }) => {
          sought.push(message.value.toString());
          resolve();
        },
      }).catch(reject);
      third.seek({ topic, partition: 0, offset: '9' });
    });
    await third.disconnect();
    return { later, sought };
  },

  async offsets(kafka, topic) {
    const producer = kafka.producer();
    await producer.connect();
    const sent = numbers(10).map((value) => ({ value, partition: 0, timestamp: String(recent + 1000 * value) }));
    await producer.send({ topic, messages: sent });
    await producer.disconnect();
    const admin = kafka.admin();
    await admin.connect();
    const byPartition = (one, other) => one.partition - other.partition;
    const ends = (await admin.fetchTopicOffsets(topic)).sort(byPartition);
    const since = (await admin.fetchTopicOffsetsByTimestamp(topic, recent + 3500)).sort(byPartition);
    await admin.disconnect();
    return { ends, since };
  },

  async adminOfTopics(kafka, topic) {
    const admin = kafka.admin();
    await admin.connect();
    const configEntries = [{ name: 'retention.ms', value: '100000' }];
    const created = await admin.createTopics({ topics: [{ topic, numPartitions: 2, configEntries }] });
    const again = await admin.createTopics({ topics: [{ topic }] });
    await admin.createPartitions({ topicPartitions: [{ topic, count: 4 }] });
    const { topics: [{ partitions }] } = await admin.fetchTopicMetadata({ topics: [topic] });
    const resource = { type: 2, name: topic };
    await admin.alterConfigs({
      resources: [{ ...resource, configEntries: [{ name: 'max.message.bytes', value: '1000' }] }],
    });
    const described = await admin.describeConfigs({ resources: [resource] });
    const changed = described.resources[0].configEntries.filter((one) => !one.isDefault);
    const { brokers, controller } = await admin.describeCluster();
    const listed = (await admin.listTopics()).includes(topic);
    await admin.deleteTopics({ topics: [topic] });
    const left = (await admin.listTopics()).includes(topic);
    await admin.disconnect();
    return {
      created,
      again,
      partitions: partitions.map(({ partitionId }) => partitionId).sort(),
      changed: changed.map(({ configName, configValue }) => [configName, configValue]),
      controller: brokers.map(({ nodeId }) => nodeId).includes(controller),
      listed,
      left,
    };
  },

  async adminOfGroups(kafka, topic) {
    const producer = kafka.producer();
    await producer.connect();
    await producer.send({ topic, messages: messages(numbers(10), 0) });
    await producer.disconnect();
    const admin = kafka.admin();
    await admin.connect();
    const consumer = consumerOf(kafka, topic);
    await take(consumer, topic, 10, { autoCommit: false });
    await consumer.commitOffsets([{ topic, partition: 0, offset: '5', metadata: 'five' }]);
    const listed = (await admin.listGroups()).groups.some(({ groupId }) => groupId === topic);
    const { groups: [stable] } = await admin.describeGroups([topic]);
    await consumer.disconnect();
    const { groups: [empty] } = await admin.describeGroups([topic]);
    const [{ partitions }] = await admin.fetchOffsets({ groupId: topic, topics: [topic] });
    const offsets = partitions.map(({ partition, offset }) => [partition, offset]).sort();
    await admin.deleteGroups([topic]);
    const left = (await admin.listGroups()).groups.some(({ groupId }) => groupId === topic);
    await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '4' }] });
    const low = (await admin.fetchTopicOffsets(topic)).find(({ partition }) => partition === 0).low;
    await admin.disconnect();
    return { listed, states: [stable.state, empty.state], offsets, left, low };
  },

  async login(kafka, topic, mechanism, password) {
    const sasl = { mechanism, username: 'guest', password };
    const known = new Kafka({ brokers: [bootstrap], logLevel: logLevel.NOTHING, sasl, retry: { retries: 0 } });
    const producer = known.producer();
    try {
      await producer.connect();
      const [{ errorCode }] = await producer.send({ topic, messages: messages(['one']) });
      await producer.disconnect();
      return { errorCode };
    } catch (error) {
      return { error: error.name };
    }
  },
};

const [bootstrap, topic, name, ...more] = process.argv.slice(2);

async function main() {
  const kafka = new Kafka({ brokers: [bootstrap], logLevel: logLevel.NOTHING });
  console.log(JSON.stringify(await scenarios[name](kafka, topic, ...more)));
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
