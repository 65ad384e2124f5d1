// Scenarios with amqplib: `node amqplib_scenarios.js URL QUEUE NAME` prints what was seen, as JSON.
'use strict';

const amqp = require('amqplib');

const scenarios = {
  // Confirmed, persistent, and consumed in order with manual acknowledgements.
  async confirmAndConsume(connection, queue) {
    const channel = await connection.createConfirmChannel();
    await channel.assertQueue(queue, { durable: true });
    for (let number = 0; number < 100; number++) {
      channel.sendToQueue(queue, Buffer.from(String(number)), { persistent: true, headers: { number } });
    }
    await channel.waitForConfirms();
    const waiting = (await channel.checkQueue(queue)).messageCount;
    await channel.prefetch(10);
    const bodies = [];
    const headers = [];
    await new Promise((resolve, reject) => {
      channel.on('error', reject);
      channel.consume(queue, (message) => {
        if (message === null) return; // the queue is deleted, below
        bodies.push(Number(message.content.toString()));
        headers.push(message.properties.headers.number);
        channel.ack(message);
        if (bodies.length === 100) resolve();
      }).catch(reject);
    });
    return { waiting, bodies, headers, deleted: (await channel.deleteQueue(queue)).messageCount };
  },

  // More than one frame, whatever the frame size is.
  async largeBody(connection, queue) {
    const channel = await connection.createConfirmChannel();
    await channel.assertQueue(queue, { exclusive: true });
    const body = Buffer.alloc(1000000, 'abcdefg');
    channel.sendToQueue(queue, body);
    await channel.waitForConfirms();
    const message = await channel.get(queue, { noAck: true });
    return { size: message.content.length, same: message.content.equals(body) };
  },

  async exchanges(connection, queue) {
    const channel = await connection.createConfirmChannel();
    await channel.assertQueue(queue, { exclusive: true });
    await channel.assertExchange(`${queue}.topic`, 'topic', { autoDelete: true });
    await channel.assertExchange(`${queue}.fanout`, 'fanout', { autoDelete: true });
    await channel.bindExchange(`${queue}.fanout`, `${queue}.topic`, 'a.*');
    await channel.bindQueue(queue, `${queue}.fanout`, '');
    channel.publish(`${queue}.topic`, 'a.b', Buffer.from('matching'));
    channel.publish(`${queue}.topic`, 'b.a', Buffer.from('other'));
    await channel.waitForConfirms();
    const message = await channel.get(queue, { noAck: true });
    return { body: message.content.toString(), more: await channel.get(queue, { noAck: true }) };
  },

  async mandatory(connection) {
    const channel = await connection.createConfirmChannel();
    const returned = [];
    channel.on('return', (message) => {
      returned.push([message.fields.replyCode, message.fields.replyText, message.content.toString()]);
    });
    channel.publish('', 'nowhere', Buffer.from('lost'), { mandatory: true });
    await channel.waitForConfirms();
    return { returned };
  },

  async nackAndRequeue(connection, queue) {
    const channel = await connection.createChannel();
    await channel.assertQueue(queue, { exclusive: true });
    channel.sendToQueue(queue, Buffer.from('again'));
    const first = await channel.get(queue);
    channel.nack(first, false, true);
    const second = await channel.get(queue);
    channel.nack(second, false, false);
    return {
      redelivered: [first.fields.redelivered, second.fields.redelivered],
      more: await channel.get(queue),
    };
  },

  // A consumer gets null when its queue is deleted.
  async cancelled(connection, queue) {
    const channel = await connection.createChannel();
    await channel.assertQueue(queue);
    const told = new Promise((resolve, reject) => {
      channel.consume(queue, resolve).then(() => channel.deleteQueue(queue)).catch(reject);
    });
    return { told: await told };
  },

  async checkQueue(connection, queue) {
    const channel = await connection.createChannel();
    const closed = new Promise((resolve) => channel.on('error', (error) => resolve([error.code, error.message])));
    const rejected = await channel.checkQueue(queue).then(() => null, (error) => error.code);
    const other = await connection.createChannel();
    return { rejected, closed: await closed, alive: (await other.assertQueue('', { exclusive: true })).messageCount };
  },

  async inequivalent(connection, queue) {
    const channel = await connection.createChannel();
    await channel.assertQueue(queue, { durable: false, exclusive: true });
    channel.on('error', () => {});
    const rejected = await channel
      .assertQueue(queue, { durable: false, exclusive: true, messageTtl: 1000 })
      .then(() => null, (error) => [error.code, error.message]);
    return { rejected };
  },
};

async function main() {
  const [url, queue, name] = process.argv.slice(2);
  const connection = await amqp.connect(url);
  const seen = await scenarios[name](connection, queue);
  await connection.close();
  console.log(JSON.stringify(seen));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
