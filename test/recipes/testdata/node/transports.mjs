// What has realtime.js try another transport, and what does not, whatever the hub and the network do.
import assert from 'node:assert/strict';
import { connect } from 'realtimehub';
import { asked, clock, hub, newPage, pass, publish, settled, streams } from './world.mjs';

const happens = newPage();
const SECOND = 1000;
const polls = () => asked.filter(({ method, path }) => method === 'GET' && path === '/v1/poll');
const kept = new Map();
globalThis.localStorage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value), removeItem: (key) => kept.delete(key) };
delete globalThis.WebSocket; // of newer Nodes; see test/browser for sockets

/** Polls are answered: the place now at once, and otherwise what was published since, or nothing. */
let wakes = [];
const poll = async ({ query }) => {
  const since = query.get('cursor') ? Number(query.get('cursor').slice(2)) : hub.n;
  if (hub.history.length === since && query.get('wait') !== '0ms') {
    await Promise.race([new Promise((woken) => { wakes.push(woken); }), new Promise((over) => { setTimeout(over, parseInt(query.get('wait'))); })]);
  }
  const events = hub.history.slice(since), cursor = `c-${hub.n}`;
  if (query.get('cursor') && !events.length) return new Response(null, { status: 204, headers: { Cursor: cursor } });
  const ready = { connectionId: 'polls', tenantId: 't', profile: { type: 'user', id: 'me' }, connectedAt: new Date(clock()).toISOString(), resume: query.get('cursor') ? 'complete' : 'fresh', cursor: `c-${since}`, heartbeatMs: 15_000, ...hub.says };
  return Response.json({ events, cursors: events.map((event) => event.cursor), cursor, gap: null, more: false, hub: { ready } });
};
const says = (payload, type, more) => {
  publish(payload, type, more);
  for (const wake of wakes.splice(0)) wake();
};
const answers = ({ method, path, ...request }) => (path !== '/v1/poll' ? undefined : method === 'HEAD' ? new Response(null) : poll(request));

async function test(name, options, run) {
  [asked.length, hub.history, hub.n, hub.answer] = [0, [], 0, answers];
  kept.clear();
  try {
    const client = connect({ tenant: 't', profile: 'me', share: false, ...options });
    const heard = [], states = [];
    client.on('*', ({ payload }) => heard.push(payload));
    client.onStatus(({ state }) => states.push(state));
    await settled();
    await run({ client, heard, states, is: () => client.status });
    client.close();
    await settled();
  } catch (error) {
    error.message = `${name}: ${error.message}`;
    throw error;
  }
}
const jwt = (seconds) => ['{}', JSON.stringify({ tenant: 't', sub: 'user:me', exp: clock() / 1000 + seconds }), ''].map((part) => Buffer.from(part).toString('base64url')).join('.');
const cut = async () => {
  streams[0].close();
  await pass(6 * SECOND);
};
/** The next try is not answered, by what is not asked for in short. */
const held = (more) => { hub.answer = (request) => more?.(request) ?? (request.path === '/v1/stream' ? 'silence' : answers(request)); };

await test('a stream that does not begin, while the hub answers', {}, async ({ is, heard }) => {
  says(1);
  await settled();
  held();
  happens('online');
  await pass(7 * SECOND);
  assert.deepEqual([is().transport, polls().length], ['sse', 0]);
  await pass(2 * SECOND);
  assert.deepEqual([is().state, is().transport, is().resume], ['live', 'poll', 'complete']);
  says(2);
  await settled();
  assert.deepEqual(heard, [1, 2]);
  assert.deepEqual([...kept.keys()], ['realtime transport http://page/']);
});

await test('a hub that answers nothing', {}, async ({ is }) => {
  held(({ method }) => (method === 'HEAD' ? new TypeError('no network') : undefined));
  happens('online');
  await pass(30 * SECOND);
  assert.deepEqual([is().transport, polls().length], ['sse', 0]);
});

await test('a transport that is named stays', { transport: 'sse' }, async ({ is }) => {
  held();
  happens('online');
  await pass(15 * SECOND);
  assert.deepEqual([is().transport, asked.filter(({ method }) => method === 'HEAD').length], ['sse', 0]);
  hub.answer = answers;
  happens('online');
  for (let i = 0; i < 4; i++) {
    await settled();
    streams[0].close();
    await settled();
    assert.ok(is().retryMs > 500);
    await pass(6 * SECOND);
  }
});

await test('streams that are cut', {}, async ({ is }) => {
  for (let i = 0; i < 2; i++) await cut();
  await pass(11 * SECOND); // one that lived long enough
  await cut();
  for (let i = 0; i < 2; i++) {
    streams[0].say('hub.closing', { reason: 'drain', retryMs: 1 }); // the hub's own
    await pass(SECOND);
  }
  await cut();
  await cut();
  assert.equal(is().transport, 'sse');
  await cut();
  assert.deepEqual([is().transport, is().state], ['poll', 'live']);
  hub.answer = (request) => (request.query.get('wait') === '25000ms' ? new TypeError('cut') : answers(request));
  says(1);
  await pass(30 * SECOND);
  assert.deepEqual([is().transport, is().state, kept.size], ['sse', 'live', 0]); // all anew
});

await test('what is not to be had either', { transport: 'poll' }, async ({ is, states }) => {
  for (const answer of [new Response(null, { status: 204 }), new Response('<html>', { status: 200, headers: { 'Content-Type': 'text/html' } })]) {
    hub.answer = () => answer.clone();
    happens('online');
    await settled();
    const tries = asked.length;
    await pass(SECOND / 2);
    assert.deepEqual([is().state, asked.length], ['waiting', tries]); // and it does not ask again and again
  }
  assert.equal(states.filter((state) => state === 'live').length, 1);
  kept.set('realtime transport http://page/', `poll ${clock() + 3600 * SECOND}`); // in another network
  hub.answer = ({ path }) => (path === '/v1/poll' ? new Response('<html>', { status: 404 }) : undefined);
  const other = connect({ tenant: 't', profile: 'me', share: false });
  await pass(6 * SECOND);
  assert.deepEqual([other.status.transport, other.status.state, kept.size], ['sse', 'live', 0]);
  other.close();
});

// Another hub may take the next poll, and a hub takes who was late for gone: the client goes on by another connection, at the same place.
await test('polls of another connection', { transport: 'poll' }, async ({ client, heard, states }) => {
  const others = () => asked.filter(({ path }) => path.startsWith('/v1/connections/') || path === '/v1/presence').map(({ method, path }) => `${method} ${path}`);
  says(1);
  await settled();
  hub.says = { connectionId: 'another' };
  says(2);
  await settled();
  hub.says = {};
  assert.deepEqual([client.status.connectionId, client.status.reconnects, client.cursor], ['another', 0, 'c-2']);
  await client.touch();
  assert.deepEqual([others(), states, heard], [['POST /v1/connections/another/touch'], ['connecting', 'live', 'live'], [1, 2]]);
  assert.equal(polls().at(-1).query.get('previous'), 'another');
});

// A hidden page's timers fire once a second, and the hub takes a client that does not poll for 10 s for gone.
await test('what is owed holds polls up for as long in a hidden page', { transport: 'poll' }, async ({ client }) => {
  const at = setTimeout;
  globalThis.setTimeout = (fn, ms = 0) => at(fn, Math.ceil(ms / SECOND) * SECOND);
  hub.says = { ackMs: SECOND };
  happens('online');
  await settled();
  client.on('a.b', () => new Promise(() => {}));
  says(1, 'a.b', { timestamp: new Date(clock()).toISOString(), deadline: '2m' });
  await settled();
  const before = polls().length;
  await pass(6 * SECOND);
  globalThis.setTimeout = at;
  hub.says = {};
  assert.ok(polls().length > before);
});

// In a hidden page timers may come once a minute, which is longer than three heartbeats, and no page sees those of a socket.
const every = globalThis.setInterval, prods = [];
let isDead = false;
globalThis.setInterval = (fn) => every(fn, 60 * SECOND);
globalThis.WebSocket = class {
  static CLOSED = 3;
  readyState = 1;

  constructor() {
    setImmediate(() => {
      this.onopen();
      this.#say({ id: 'c-0', event: 'hub.ready', data: { connectionId: 'socket', tenantId: 't', profile: { type: 'user', id: 'me' }, connectedAt: new Date(clock()).toISOString(), resume: 'fresh', heartbeatMs: 15_000 } });
    });
  }

  #say(line) { this.onmessage({ data: JSON.stringify(line) }); }

  send(text) {
    prods.push(JSON.parse(text).do);
    if (!isDead) setImmediate(() => this.#say({ n: 1 }));
  }

  close() { this.readyState = 3; }
};
await test('a quiet socket in a hidden page', { transport: 'websocket' }, async ({ states }) => {
  await pass(605 * SECOND);
  assert.deepEqual([states, prods], [['connecting', 'live'], Array(10).fill('filter')]);
  isDead = true;
  await pass(120 * SECOND);
  assert.deepEqual([prods.length, states], [11, ['connecting', 'live', 'waiting', 'live']]);
});
globalThis.setInterval = every;
delete globalThis.WebSocket;

// A connection that goes on says when it began, which tells nothing of the hub's clock by then.
let given = 0;
await test('a token, after an hour of one connection', { tenant: undefined, profile: undefined, transport: 'poll', token: () => { given++; return jwt(3600); } }, async ({ is }) => {
  hub.says = { connectedAt: new Date(clock()).toISOString() };
  await pass(1800 * SECOND);
  happens('online');
  await settled();
  assert.deepEqual([is().state, given], ['live', 1]);
  await pass(1790 * SECOND);
  hub.says = {};
  assert.deepEqual([given, asked.filter(({ method }) => method === 'PUT').length], [2, 1]);
});

// What is not kept may have changed between two polls, so who watches asks again after each.
await test('presence by polls', { transport: 'poll' }, async ({ client }) => {
  const questions = () => asked.filter(({ path }) => path === '/v1/presence').length;
  hub.answer = (request) => (request.path === '/v1/presence' ? Response.json({ profiles: [{ profile: { type: 'user', id: 'other' }, status: 'away' }] }) : answers(request));
  client.presence.watch(['other'], () => {});
  await pass(4 * SECOND);
  const before = questions();
  says(1);
  await pass(4 * SECOND);
  assert.equal(questions(), before + 1);
  await pass(30 * SECOND);
  assert.equal(questions(), before + 2); // after an empty one, too
});

// A token() that fails is no reason to end what goes on by polls, as long as the token before is good.
let tokens = 0;
console.error = () => {};
await test('a token that is still good', { tenant: undefined, profile: undefined, transport: 'poll', token: () => { if (tokens++) throw new Error('away'); return jwt(60); } }, async ({ heard, states }) => {
  await pass(57 * SECOND); // nobody uses a token of its last 5 s if there is another
  says(1);
  await settled();
  says(2);
  await settled();
  assert.deepEqual([heard, states, tokens > 2], [[1, 2], ['connecting', 'live'], true]);
});

// An address has no room for a long list, so that is said again once a poll is there.
await test('long lists by polls', { transport: 'poll', presence: 'none', types: Array.from({ length: 199 }, (_, i) => `long.type.of.an.event.${i}`) }, async () => {
  const changes = () => asked.filter(({ method }) => method === 'PATCH').length;
  assert.equal(changes(), 1);
  says(1, 'long.type.of.an.event.7');
  await pass(2 * SECOND);
  assert.deepEqual([polls().length, changes()], [3, 2]);
});

for (const transport of ['long', 'websocket', '', 'toString']) assert.throws(() => connect({ tenant: 't', profile: 'me', transport }), TypeError, transport);
