// The npm package event-source-polyfill, which says the last id in the query, behind the address it was given.
import assert from 'node:assert/strict';
import { once, EventEmitter } from 'node:events';
import polyfill from 'event-source-polyfill';
import { wire } from './wire.mjs';

const [hub] = process.argv.slice(2);
const call = async (method, path, body) => {
  const answer = await fetch(hub + path, { method, headers: { 'Content-Type': 'application/json' }, body: body && JSON.stringify(body) });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
  return answer.json();
};
const publish = (payload) => call('POST', '/v1/tenants/polyfill/events', { type: 'a.b', payload });

const line = await wire(hub);
const { cursor } = await publish(0);
const heard = [], news = new EventEmitter();
const source = new polyfill.EventSourcePolyfill(`${line.url}/v1/stream?tenant=polyfill&profile=me&presence=none&cursor=${cursor}`);
const hear = (what) => { heard.push(what); news.emit('news'); };
source.addEventListener('hub.ready', ({ data }) => hear(JSON.parse(data).resume));
source.addEventListener('a.b', ({ data }) => hear(JSON.parse(data).payload));
const until = async (what) => {
  while (!heard.includes(what)) await once(news, 'news', { signal: AbortSignal.timeout(15_000) });
};
await until('complete');
await publish(1);
await until(1);
line.cut();
await publish(2);
await until(2);
assert.deepEqual(heard, ['complete', 1, 'complete', 2]); // 1 is not told twice, as it would be from cursor
source.close();
process.exit(); // its timer for silence lives on
