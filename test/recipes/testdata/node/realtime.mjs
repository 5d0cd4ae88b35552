// realtime.js as Node runs it, from its npm package: told, filtered, cut and back, out of the way when closed; by each transport.
import assert from 'node:assert/strict';
import { once, EventEmitter } from 'node:events';
import { connect } from 'realtimehub';
import { wire } from './wire.mjs';

const [hub, transport = 'sse'] = process.argv.slice(2), tenant = `node-${transport}`;
const call = async (method, path, body) => {
  const answer = await fetch(hub + path, { method, headers: { 'Content-Type': 'application/json' }, body: body && JSON.stringify(body) });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
  return answer.status === 204 ? null : answer.json();
};
const publish = (type, payload, more) => call('POST', `/v1/tenants/${tenant}/events`, { type, payload, ...more });
const line = await wire(hub);

/** Does something until it has come about: what happens between two polls does nothing to a client that polls. */
const until = async (isSo, act) => {
  for (let tries = 0; !isSo(); tries++) {
    if (tries % 50 === 0) await act(); // each second
    await new Promise((done) => setTimeout(done, 20));
  }
};

/** Everything one client is told, which can be waited for. */
function listen(options) {
  const client = connect({ url: line.url, tenant, profile: 'me', transport, ...options });
  const heard = [], news = new EventEmitter();
  const hear = (what) => { heard.push(what); news.emit('news'); };
  client.on('a.*', ({ payload }) => hear(payload));
  client.onGap(({ reason }) => hear(`gap ${reason}`));
  client.onStatus(({ state, resume }) => hear(state === 'live' ? `live ${resume}` : state));
  const hears = async (what) => {
    while (!heard.includes(what)) await once(news, 'news', { signal: AbortSignal.timeout(15_000) });
  };
  return { client, heard, hear, hears };
}

const { client, heard, hear, hears } = listen({ types: ['a.*'], meta: { device: 'node' } });
await hears('live fresh');
const { connections: [connection] } = await call('GET', `/v1/tenants/${tenant}/connections`);
assert.equal(connection.id, client.status.connectionId);
assert.equal(connection.metadata.device, 'node');
assert.equal(client.status.shared, false);

await publish('a.b', 1);
await publish('b.c', 'not asked for');
await publish('a.b', 'my echo', { correlationId: client.id });
await publish('a.b', 2);
await hears(2);
await until(() => heard.includes('waiting'), () => line.cut());
await publish('a.b', 3);
await hears('live complete');
await hears(3);
assert.deepEqual(heard.filter(Number), [1, 2, 3]);
assert.deepEqual(heard.filter((what) => !Number(what)), ['connecting', 'live fresh', 'waiting', 'live complete']);

// What a listener failed to handle comes again when the stream is resumed, to that listener alone.
const failed = [];
const offError = client.onError((error, { payload }) => failed.push(`${payload} ${error.message}`));
const offFailing = client.on('a.b', async ({ payload }) => { if (failed.length < 2) throw new Error(`at ${failed.length}`); hear(`handled ${payload}`); });
await call('POST', `/v1/tenants/${tenant}/profiles/me/events`, { type: 'a.b', payload: 4, deadline: '1h' });
while (failed.length < 1) await new Promise((done) => setTimeout(done, 20));
const before = client.cursor;
for (const times of [2, 3]) {
  line.cut();
  while (failed.length < 2 || (times === 3 && !heard.includes('handled 4'))) await new Promise((done) => setTimeout(done, 20));
  if (times === 2) assert.equal(client.cursor, before);
}
assert.deepEqual([failed, heard.filter((what) => what === 4).length], [['4 at 0', '4 at 1'], 1]);
while (client.cursor === before) await new Promise((done) => setTimeout(done, 20));
offError();
offFailing();

// Presence: where they are, and each change.
const statuses = [];
const stop = client.presence.watch(['other'], ({ profile, status }) => statuses.push(`${profile.id} ${status}`));
const other = listen({ profile: 'other' });
await other.hears('live fresh');
while (!statuses.includes('other online')) await new Promise((done) => setTimeout(done, 20));
stop();
assert.deepEqual((await client.presence.get(['other', 'nobody'])).map(({ status }) => status), ['online', 'offline']);

// Typing: the other member sees it, once for many keystrokes.
await call('PUT', `/v1/tenants/${tenant}/conversations/c1/members`, { members: ['me', 'other'] });
const typing = [];
other.client.on('typing.*', ({ type, payload }) => typing.push(`${type} ${payload.profile.id}`));
const mine = client.typing('c1');
await until(() => typing.includes('typing.started me') && typing.includes('typing.stopped me'), async () => {
  assert.deepEqual(await Promise.all([mine.start(), mine.start(), mine.start()]), [true, true, true]);
  await mine.stop();
});
if (transport !== 'poll') assert.deepEqual(typing, ['typing.started me', 'typing.stopped me']);
assert.equal(await client.typing('of others').start(), false);
other.client.close();

// Where a cursor is of no history there is a gap, and it is said.
const lost = listen({ cursor: '0123456789abcdef-5' });
await lost.hears('gap unknown');
lost.client.close();
assert.equal(lost.client.status.state, 'closed');

// Who closes while something is under way has closed: no stream is opened again, and nothing keeps the process.
for (const at of ['live', 'waiting', 'displaced']) {
  const hasty = connect({ url: line.url, tenant, profile: `closes ${at}`, transport });
  const told = [];
  const over = new Promise((done) => hasty.onStatus(({ state }) => {
    told.push(state);
    if (state === at || state === 'closed') hasty.close();
    if (state === 'closed') done();
  }));
  const off = hasty.presence.watch(['other'], () => {});
  if (at !== 'live') {
    while (hasty.status.state !== 'live') await new Promise((done) => setTimeout(done, 20));
    const kick = () => call('DELETE', `/v1/tenants/${tenant}/connections?profile=${encodeURIComponent(`closes ${at}`)}`);
    await until(() => told.includes(at), at === 'waiting' ? () => line.cut() : kick);
  }
  await over;
  off();
  assert.equal(told.filter((state) => state === 'closed').length, 1);
}

// Who watches from within onStatus is not told for ever what did not change.
for (const presence of [undefined, 'none']) {
  const nested = connect({ url: hub, tenant, profile: 'nested', presence, transport });
  let told = 0, off;
  nested.onStatus(({ state }) => {
    if (state !== 'live') return;
    told++;
    off?.();
    off = nested.presence.watch(['me'], () => {});
  });
  while (told === 0) await new Promise((done) => setTimeout(done, 20));
  await nested.presence.get(['me']);
  await nested.presence.get(['me']);
  assert.equal(told, 1);
  nested.close();
}

// A listener that throws is in nobody's way, and a token() that fails is asked again; what is no token is none.
console.error = () => {};
let asked = 0;
const impatient = connect({ url: hub, token: async () => [undefined, '', 7][asked++] });
while (asked < 2) await new Promise((done) => setTimeout(done, 20));
assert.equal(impatient.status.state, 'waiting');
assert.equal(impatient.status.reason, 'token');
impatient.close();

client.on('a.c', () => { throw new Error('mine'); });
client.on('a.c', ({ payload }) => { if (payload === 'last') client.close(); });
await publish('a.c', 'last');
await hears('closed'); // and nothing is left that keeps the process
