// The npm package eventsource, which servers use for want of a browser's: it resumes by itself.
import assert from 'node:assert/strict';
import { once, EventEmitter } from 'node:events';
import { EventSource } from 'eventsource';

import { wire } from './wire.mjs';

const [hub] = process.argv.slice(2);
const line = await wire(hub);
const call = async (method, path, body) => {
  const answer = await fetch(hub + path, { method, headers: { 'Content-Type': 'application/json' }, body: body && JSON.stringify(body) });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
};
const publish = (payload) => call('POST', '/v1/tenants/node/events', { type: 'a.b', payload });

const heard = [], news = new EventEmitter();
const source = new EventSource(`${line.url}/v1/stream?tenant=node&profile=stock`);
const hear = (what) => { heard.push(what); news.emit('news'); };
source.addEventListener('hub.ready', ({ data }) => hear(JSON.parse(data).resume));
source.addEventListener('hub.closing', ({ data }) => hear(JSON.parse(data).reason));
source.addEventListener('a.b', ({ data, lastEventId }) => {
  assert.ok(lastEventId);
  hear(JSON.parse(data).payload);
});
const until = async (what) => {
  while (!heard.includes(what)) await once(news, 'news', { signal: AbortSignal.timeout(15_000) });
};
await until('fresh');
await publish(1);
await until(1);
line.cut();
await publish(2);
await until(2);
await call('DELETE', '/v1/tenants/node/connections?profile=stock');
await until('kicked');
await publish(3); // it is away for some minutes
assert.deepEqual(heard, ['fresh', 1, 'complete', 2, 'kicked']);
source.close();
