// A hub that lets a profile have one connection, and two of its devices: the newer has it, until
// somebody asks for it at the other. Each stream that is opened is counted.
import assert from 'node:assert/strict';
import { once, EventEmitter } from 'node:events';
import { connect } from 'realtimehub';
import { EventSource } from 'eventsource';

const [hub] = process.argv.slice(2);
const call = async (method, path, body) => {
  const answer = await fetch(hub + path, { method, headers: { 'Content-Type': 'application/json' }, body: body && JSON.stringify(body) });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
};
const publish = (payload) => call('POST', '/v1/tenants/node/events', { type: 'a.b', payload });

/** What one device is told, which can be waited for. */
function device() {
  const heard = [], news = new EventEmitter();
  return {
    heard,
    hear(what) { heard.push(what); news.emit('news'); },
    async until(what) {
      while (!heard.includes(what)) await once(news, 'news', { signal: AbortSignal.timeout(15_000) });
    },
    times: (what) => heard.filter((one) => one === what).length,
  };
}

function withClient() {
  const one = device();
  const client = connect({ url: hub, tenant: 'node', profile: 'me', types: ['a.*'] });
  client.on('a.b', ({ payload }) => one.hear(payload));
  client.on('hub.ready', ({ payload }) => one.hear(`ready ${payload.resume}`));
  client.onStatus(({ state, reason }) => one.hear(`${state} ${reason ?? ''}`.trim()));
  return Object.assign(one, { client, close: () => client.close() });
}

function withEventSource() {
  const one = device();
  const source = new EventSource(`${hub}/v1/stream?tenant=node&profile=stock&types=a.*`);
  source.addEventListener('hub.ready', ({ data }) => one.hear(`ready ${JSON.parse(data).resume}`));
  source.addEventListener('hub.closing', ({ data }) => one.hear(JSON.parse(data).reason));
  source.addEventListener('a.b', ({ data }) => one.hear(JSON.parse(data).payload));
  return Object.assign(one, { close: () => source.close() });
}

const first = withClient();
await first.until('live');
const second = withClient();
await second.until('live');
await first.until('displaced replaced');
for (let i = 0; i < 50; i++) { // much longer than clients wait to reconnect
  await publish(i);
  await second.until(i);
}
assert.deepEqual([first.heard, second.times('ready fresh')], [['connecting', 'ready fresh', 'live', 'displaced replaced'], 1]);
first.client.reconnect();
await first.until(49);
await second.until('displaced replaced');
assert.deepEqual(first.heard.filter((what) => typeof what === 'number'), [...Array(50).keys()]);
assert.deepEqual(first.heard.slice(4).filter((what) => typeof what === 'string'), ['waiting replaced', 'ready complete', 'live']);
await call('DELETE', '/v1/tenants/node/connections?profile=me');
await first.until('displaced kicked');
await publish('nobody there');
for (const one of [first, second]) one.close();

// The stock ones come back by themselves, minutes later.
const third = withEventSource();
await third.until('ready fresh');
const fourth = withEventSource();
await third.until('replaced');
for (let i = 0; i < 50; i++) {
  await publish(i);
  await fourth.until(i);
}
assert.deepEqual([third.heard, fourth.times('ready fresh'), fourth.times('replaced')], [['ready fresh', 'replaced'], 1, 0]);
for (const one of [third, fourth]) one.close();
