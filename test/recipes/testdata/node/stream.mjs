// What realtime.js makes of one stream, whatever the hub and the network do.
import assert from 'node:assert/strict';
import { connect } from 'realtimehub';
import { asked, clock, hub, newPage, pass, publish, settled, streams } from './world.mjs';

const happens = newPage();
const problem = (status, body, kind = 'application/problem+json') => new Response(JSON.stringify(body), { status, headers: { 'Content-Type': kind } });
const calls = (method) => asked.filter((request) => request.method === method);

/** A client with a stream of its own, and what it is told. */
async function listen(options) {
  asked.length = 0;
  hub.answer = () => undefined;
  const client = connect({ tenant: 't', profile: 'me', share: false, ...options });
  const heard = [], states = [];
  client.on('*', ({ payload }) => heard.push(payload));
  client.onGap(({ reason }) => heard.push(`gap ${reason}`));
  client.onStatus((status) => states.push(status));
  await settled();
  return { client, heard, states, is: () => client.status };
}

async function test(name, options, run) {
  const tab = await listen(options);
  try {
    await run(tab);
  } catch (error) {
    error.message = `${name}: ${error.message}`;
    throw error;
  }
  tab.client.close();
  await settled();
  assert.equal(streams.length, 0, `${name}: a closed client has no stream`);
}

const jwt = (claims) => ['{}', JSON.stringify(claims), ''].map((part) => Buffer.from(part).toString('base64url')).join('.');
const person = (seconds, more) => jwt({ tenant: 't', sub: 'user:me', exp: Math.round(clock() / 1000) + seconds, ...more });

// Waits are longer each time, up to a bound, and no two clients' are the same.
await test('backoff', {}, async ({ is }) => {
  const random = Math.random;
  hub.answer = () => new TypeError('no network');
  streams[0].close();
  await settled();
  for (const [part, of] of [[0, 0.5], [0.5, 1], [0.999, 1.499]]) {
    Math.random = () => part;
    await pass(is().retryMs); // and the next was drawn anew
    assert.equal(is().state, 'waiting');
    assert.equal(is().retryMs, Math.round(2000 * 2 ** ({ 0: 1, 0.5: 2, 0.999: 3 })[part] * of));
  }
  Math.random = () => 0.5;
  const waits = [];
  for (let i = 0; i < 3; i++) {
    await pass(is().retryMs);
    waits.push(is().retryMs);
  }
  assert.deepEqual(waits, [30_000, 30_000, 30_000]);
  hub.answer = () => undefined;
  await pass(30_000);
  assert.equal(is().state, 'live');
  streams[0].raw('retry: 7000\n\n');
  await settled();
  streams[0].close();
  await settled();
  assert.equal(is().retryMs, 7000); // the hub's, from the beginning
  Math.random = random;
});

// When the hub says when, then it is then, and the network's coming back changes nothing.
await test('hub.closing', {}, async ({ is, client }) => {
  streams[0].say('hub.closing', { reason: 'drain', retryMs: 12_345 });
  streams[0].close();
  await settled();
  assert.deepEqual([is().state, is().reason, is().retryMs], ['waiting', 'drain', 12_345]);
  happens('online');
  happens('visibilitychange');
  await pass(12_344);
  assert.equal(streams.length, 0);
  await pass(1);
  assert.equal(is().state, 'live');
  assert.equal(client.status.reconnects, 1);
  // After any other loss it is at once.
  streams[0].close();
  await settled();
  assert.deepEqual([is().state, is().reason], ['waiting', 'lost']);
  happens('visibilitychange');
  await settled();
  assert.equal(is().state, 'live');
  const [before] = streams;
  happens('online');
  await settled();
  assert.notEqual(streams[0], before);
  assert.equal(is().state, 'live');
});

// Only the hub ends a client; what stands in between may be gone soon.
await test('refusals', {}, async ({ is }) => {
  for (const answer of [problem(403, { code: 'no hub' }, 'application/json'), problem(400, { title: 'no code' }), problem(503, { code: 'BrokerUnavailable' })]) {
    hub.answer = () => answer;
    happens('online');
    await settled();
    assert.equal(is().state, 'waiting', `${answer.status}`);
    assert.equal(is().problem.status, answer.status);
  }
  hub.answer = () => problem(403, { code: 'ScopeRequired' });
  happens('online');
  await settled();
  assert.deepEqual([is().state, is().reason, is().problem.code], ['closed', 'refused', 'ScopeRequired']);
});

// A stream that does not begin is given up after 20 s, one that has begun is not.
await test('late', { transport: 'sse' }, async ({ is }) => {
  await pass(60_000);
  assert.equal(is().reconnects, 0);
  hub.answer = () => 'silence';
  streams[0].close();
  await pass(3000);
  assert.equal(streams.length, 1);
  await pass(16_900);
  assert.equal(asked.length, 2);
  await pass(60_000);
  assert.ok(asked.length > 2);
});

// Without heartbeats silence means nothing; with them three are missed.
await test('silence', {}, async ({ is, states }) => {
  await pass(600_000);
  assert.equal(is().reconnects, 0);
  streams[0].ready({ heartbeatMs: 10_000 });
  await pass(29_000);
  streams[0].raw(':\n\n');
  await pass(29_000);
  assert.equal(is().reconnects, 0);
  await pass(6000);
  assert.ok(states.some(({ reason }) => reason === 'silent'));
});

// The place moves with each id, and is what the next stream begins at.
await test('cursor', {}, async ({ client, heard }) => {
  const [stream] = streams;
  stream.raw('id: c-5\n\nid: bad\0\n\n');
  stream.raw('event: a.b\r\ndata: {"type":"a.b","id":"1",\r');
  await settled();
  stream.raw('\ndata: "payload": "h\u00e9llo"}\r\n\r\n');
  await settled();
  assert.deepEqual(heard, ['h\u00e9llo']);
  assert.equal(client.cursor, 'c-5');
  stream.raw('data: {"type":"a.b","id":"lines",\ndata:"payload":"two"}\n\ndata: "half\ndata: a text"\n\n');
  const bytes = new TextEncoder().encode('data: {"type":"a.b","payload":"\u20ac","id":"2"}\n\n');
  for (const byte of bytes) stream.bytes(Uint8Array.of(byte));
  stream.raw('id: c-6\n\n');
  await settled();
  assert.deepEqual(heard.slice(1), ['two', '\u20ac']);
  stream.close();
  await pass(3000);
  assert.equal(asked.at(-1).headers['Last-Event-ID'], 'c-6');
});

// An id may be used again, later; a repeat is what says the same of itself.
await test('repeats', {}, async ({ heard }) => {
  const event = { id: 'one', type: 'a.b', payload: 1, timestamp: 'then' };
  for (const more of [{}, {}, { timestamp: 'later', payload: 2 }]) streams[0].event({ ...event, ...more });
  await settled();
  assert.deepEqual(heard, [1, 2]);
});

// A page may listen for each thing that it shows, for as long as it shows it.
await test('patterns', {}, async ({ client }) => {
  const { endsWith } = String.prototype, heard = [];
  let asked = 0;
  String.prototype.endsWith = function (end) { // with which an event's type is compared with a pattern
    if (this.startsWith('order.')) asked++;
    return endsWith.call(this, end);
  };
  for (let i = 0; i < 1000; i++) {
    const off = [1, 2].map(() => client.on(`order.${i}`, () => {}));
    for (const end of [...off, ...off]) end();
  }
  const again = () => { // for one event at a time
    const off = client.on('order.7', ({ payload }) => {
      heard.push(payload);
      off();
      again();
    });
  };
  again();
  publish('once', 'order.7');
  publish('twice', 'order.7');
  await settled();
  String.prototype.endsWith = endsWith;
  assert.deepEqual(heard, ['once', 'twice']);
  assert.ok(asked <= 2, `${asked} patterns`);
});

// Long lists are said once the stream is there: proxies take no long address.
const many = (n, name) => Array.from({ length: n }, (_, i) => `${name}${i}`);
await test('long lists', { types: many(199, 'long.type.of.an.event.'), presence: many(190, 'user:somebody-') }, async ({ is, client }) => {
  assert.deepEqual([...asked[0].query.keys()], ['ack', 'types', 'presence', 'tenant', 'profile']);
  assert.deepEqual([asked[0].query.get('types'), asked[0].query.get('presence')], ['long.*,presence.*', 'none']);
  const [{ body }] = calls('PATCH');
  assert.deepEqual([body.types.length, body.presence.length], [200, 190]); // with presence.*
  assert.equal(is().state, 'live');
  client.presence.watch(many(20, 'group:'), () => {}); // more than the hub takes: all then
  await settled();
  assert.deepEqual(calls('PATCH').at(-1).body.presence, ['*']);
});

await test('long lists of many families', { types: many(200, 'family-of-types-') }, async () => {
  assert.deepEqual([...asked[0].query.keys()], ['ack', 'tenant', 'profile']); // all, until the hub knows
  assert.equal(calls('PATCH')[0].body.types.length, 200);
});

// A change that the hub did not take is said again, and until then the client is not live.
await test('settling', { types: ['a.b'], presence: 'none' }, async ({ is, client }) => {
  hub.answer = ({ method }) => (method === 'PATCH' ? problem(503, { code: 'x' }) : undefined);
  let told = 0;
  client.presence.watch(['other'], () => told++);
  await settled();
  hub.answer = ({ path }) => (path === '/v1/presence' ? Response.json({ profiles: [{ profile: { type: 'user', id: 'other' }, status: 'away' }] }) : undefined);
  assert.deepEqual([calls('PATCH').length, told], [1, 0]);
  await pass(2000);
  assert.deepEqual([calls('PATCH').length, told], [2, 1]);
  assert.deepEqual(calls('PATCH')[1].body, { types: ['a.b', 'presence.*'], presence: ['user:other'] });
  assert.equal(is().state, 'live');
});

// A token is asked for before it ends, whenever the hub warns, and when the hub refuses it.
const ofPerson = { tenant: undefined, profile: undefined };
await test('token', { ...ofPerson, token: async () => person(3600) }, async () => {
  const renewals = () => calls('PUT').length;
  await pass(3_520_000);
  assert.equal(renewals(), 0);
  for (let i = 0; renewals() < 1 && i < 25; i++) await pass(1000);
  assert.equal(renewals(), 1);
  streams[0].say('hub.expiring', {});
  await settled();
  assert.equal(renewals(), 1); // it has just been renewed
  await pass(6000);
  for (let i = 0; i < 2; i++) {
    streams[0].say('hub.expiring', {});
    await settled();
  }
  assert.equal(renewals(), 2);
  await pass(3_600_000);
  assert.equal(renewals(), 3);
  assert.equal(new Set(asked.map(({ headers }) => headers.Authorization)).size, 4); // each time a new one
});
await test('a token that the hub did not take is not the stream\'s', { ...ofPerson, token: async () => person(3600) }, async ({ is }) => {
  hub.answer = ({ method }) => (method === 'PUT' ? problem(503, { code: 'HubSilent' }) : undefined);
  await pass(3_590_000);
  const tries = calls('PUT').length;
  assert.ok(tries > 1 && tries < 10, `${tries} tries`);
  hub.answer = () => undefined;
  await pass(9000);
  assert.equal(calls('PUT').length, tries + 1);
  await pass(3_500_000); // the next is due as the token that was taken ends
  assert.deepEqual([calls('PUT').length, is().reconnects], [tries + 1, 0]);
});
await test('token of the hub\'s time', { ...ofPerson, token: async () => person(3600) }, async () => { // our clock may be wrong
  streams[0].ready({ connectionId: 'new', connectedAt: new Date(clock() + 1_800_000).toISOString() });
  await pass(1_745_000);
  assert.equal(calls('PUT').length, 1);
});
let refused = 0;
await test('401', { ...ofPerson, token: async () => person(3600, { n: ++refused }) }, async ({ is }) => {
  hub.answer = ({ headers }) => (headers.Authorization === `Bearer ${person(3600, { n: 2 })}` ? undefined : problem(401, { code: 'InvalidCredential' }));
  happens('online');
  await settled();
  assert.equal(is().state, 'live');
  hub.answer = () => problem(401, { code: 'InvalidCredential' });
  happens('online');
  await settled();
  assert.deepEqual([is().state, is().problem.code, refused], ['waiting', 'InvalidCredential', 3]);
});

// A token, or with a cookie the hub itself, that is another person's by now ends the client, whenever that shows.
for (const [name, shows] of [
  ['renewal', () => streams[0].say('hub.expiring', {})],
  ['reconnecting', () => { hub.answer = () => problem(401, { code: 'InvalidCredential' }); happens('online'); }],
]) {
  let n = 0;
  await test(`another person: ${name}`, { ...ofPerson, token: async () => person(3600, { sub: n++ ? 'user:other' : 'user:me' }) }, async ({ is }) => {
    await pass(10_000);
    shows();
    await settled();
    assert.deepEqual([is().state, is().problem.code], ['closed', 'IdentityChanged']);
  });
}
await test('another person: cookie', ofPerson, async ({ is, heard }) => {
  const { greet } = hub;
  hub.greet = (stream) => {
    stream.ready({ profile: { type: 'user', id: 'other' } });
    stream.event({ id: 'x', type: 'a.b', payload: 'of another' });
  };
  happens('online');
  await settled();
  hub.greet = greet;
  assert.deepEqual([is().state, is().problem.code, heard], ['closed', 'IdentityChanged', []]);
});

// In open mode who asks about others says so in a header, in UTF-8, since the query names those others.
await test('who asks', { profile: 'j\u00f8rn' }, async ({ client }) => {
  hub.answer = () => Response.json({ profiles: [] });
  await client.presence.get(many(100, 'a'));
  const questions = asked.filter(({ path }) => path === '/v1/presence');
  assert.deepEqual(questions.map(({ query }) => query.getAll('profile').length), [40, 40, 20]);
  assert.equal(Buffer.from(questions[0].headers['X-Profile-Id'], 'latin1').toString(), 'user:j\u00f8rn');
});

// ---- typing, presence, activity ----

await test('typing', {}, async ({ client }) => {
  const sent = () => calls('POST').map(({ body }) => body.state);
  const typing = client.typing('c');
  const answers = [];
  hub.answer = ({ path }) => (path.endsWith('/typing') ? new Promise((done) => { answers.push(() => done(new Response(null, { status: 202 }))); }) : undefined);
  typing.stop(); // nothing was started
  typing.start();
  await pass(2999);
  typing.start();
  typing.stop();
  await pass(2);
  assert.deepEqual(sent(), ['started']); // one after the other
  answers.shift()();
  await settled();
  assert.deepEqual(sent(), ['started', 'stopped']);
  typing.start(); // and this is out of date when its turn comes
  await pass(3001);
  answers.shift()();
  await settled();
  assert.deepEqual(sent(), ['started', 'stopped']);
  await pass(1);
  typing.start();
  await settled();
  assert.deepEqual(sent(), ['started', 'stopped', 'started']);
  answers.shift()();
});

await test('touch', {}, async () => {
  const touch = () => happens('keydown');
  touch(); // who connects is active
  await pass(20_000);
  for (let i = 0; i < 3; i++) touch();
  await settled();
  assert.equal(calls('POST').length, 1);
  await pass(19_999);
  touch();
  await settled();
  assert.equal(calls('POST').length, 1);
});

const where = (id, status) => ({ profile: { type: 'user', id }, status, lastActiveAt: null });
await test('presence', { presence: 'none' }, async ({ client, heard }) => {
  const questions = () => asked.filter(({ path }) => path === '/v1/presence').length;
  const told = [];
  let answer;
  hub.answer = ({ path }) => (path === '/v1/presence' ? new Promise((done) => { answer = (status) => done(Response.json({ profiles: [where('other', status)] })); }) : undefined);
  const says = (type, payload, id = `${type} ${JSON.stringify(payload)} ${told.length}`) => streams[0].event({ id, type, payload });
  const stop = client.presence.watch(['other'], ({ profile, status }) => told.push(`${profile.id} ${status}`));
  await settled();
  assert.deepEqual(calls('PATCH').at(-1).body.presence, ['user:other']);
  answer('online');
  await settled();
  says('presence.away', where('other', 'away'));
  says('presence.away', where('third', 'away'));
  await settled();
  assert.deepEqual(told, ['other online', 'other away']);
  // A digest, or a gap, is asked about once, a while later: everybody gets them at the same moment.
  for (const say of [() => says('presence.digest', { changed: 1 }, 'd'), () => streams[0].say('hub.gap', { reason: 'slow' })]) {
    const before = questions();
    say();
    await pass(1000);
    assert.equal(questions(), before);
    await pass(2000);
    assert.equal(questions(), before + 1);
    says('presence.online', where('other', 'online')); // newer than the answer that is under way
    await settled();
    answer('offline');
    await settled();
    assert.equal(told.at(-1), 'other online');
  }
  const before = questions();
  streams[0].close();
  await pass(3000);
  assert.equal(questions(), before + 1); // after each connect
  stop();
  answer('offline');
  await settled();
  says('presence.away', where('other', 'away'), 'late');
  await settled();
  assert.equal(told.at(-1), 'other online');
  assert.deepEqual(calls('PATCH').at(-1).body.presence, ['none']);
  assert.deepEqual(heard, ['gap slow']); // who asked for no presence is told of none but by watch
});

// What only this client can know to be wrong is said at once.
for (const options of [
  { types: Array(201).fill('a.b') }, { types: ['a.b', 'a'.repeat(129)] }, { presence: ['user:..'] }, { presence: ['user:\u0007'] },
  { presence: [`user:${'\u20ac'.repeat(86)}`] }, { meta: Object.fromEntries(many(17, 'k').map((key) => [key, ''])) }, { meta: { k: '\u20ac'.repeat(86) } },
]) assert.throws(() => connect({ tenant: 't', profile: 'me', ...options }), TypeError, JSON.stringify(options).slice(0, 60));
