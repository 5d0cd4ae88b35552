// What a client makes of a no that may be a yes later, of what is slow, and of what fails:
// it ends only where nothing can change, and says what is wrong, but nothing of a token.
import assert from 'node:assert/strict';
import { connect } from 'realtimehub';
import { asked, clock, hub, newPage, pass, publish, settled, streams, timers } from './world.mjs';

const happens = newPage();
const SECOND = 1000;
const problem = (status, code) => new Response(JSON.stringify({ title: 't', code }), { status, headers: { 'Content-Type': 'application/problem+json' } });
const jwt = (claims) => ['{}', JSON.stringify(claims), ''].map((part) => Buffer.from(part).toString('base64url')).join('.');
const person = (more) => jwt({ tenant: 't', sub: 'user:me', exp: Math.round(clock() / 1000) + 36_000, ...more });
const connects = () => asked.filter(({ path }) => path === '/v1/stream').length;
const printed = [];
console.error = (...words) => printed.push(words);
globalThis.reportError = (error) => printed.push(['reported', error]);

async function test(name, options, run) {
  [asked.length, printed.length, hub.history, hub.answer] = [0, 0, [], options.answer ?? (() => undefined)];
  try {
    const client = connect({ share: false, ...options.client });
    await settled();
    await run({ client, is: () => client.status });
    client.close();
    await settled();
    assert.equal(streams.length, 0, 'a closed client has no stream');
  } catch (error) {
    error.message = `${name}: ${error.message}`;
    throw error;
  }
}
const open = { tenant: 't', profile: 'me' };

// ---- a temporary no ----

// A secret that was rotated, a token that is not valid yet, keys that are not there yet.
let n = 0;
const refusing = (status, code, until) => () => (n < until ? problem(status, code) : undefined);
for (const [name, token, answer] of [
  ['the token that is asked for next is taken', async () => person({ n: ++n }), refusing(401, 'InvalidCredential', 5)],
  ['the same token is taken later', async () => { n++; return person({ exp: 1_900_000_000 }); }, refusing(401, 'InvalidCredential', 5)],
  ['what is no token first', async () => (++n < 5 ? '<!DOCTYPE html>' : person()), refusing(401, 'InvalidCredential', 5)],
  ['the hub is asked too often', async () => { n++; return person(); }, (() => { let times = 0; return () => (++times < 5 ? problem(429, 'RateLimited') : undefined); })()],
]) {
  n = 0;
  await test(name, { client: { token }, answer }, async ({ is }) => {
    assert.equal(is().state, 'waiting');
    assert.equal(is().problem.code, name.startsWith('the hub') ? 'RateLimited' : 'InvalidCredential');
    assert.equal(is().reason, name.startsWith('the hub') ? 'unreachable' : 'refused');
    const waits = [];
    while (is().state === 'waiting' && waits.length < 20) {
      waits.push(is().retryMs);
      await pass(is().retryMs);
    }
    assert.equal(is().state, 'live');
    assert.equal(connects(), 5, 'one try each time');
    assert.ok(waits.every((ms) => ms >= SECOND && ms <= 45 * SECOND), `${waits}`);
    assert.ok(n <= 6, `token() was asked ${n} times`);
  });
}
await test('a day of refusals is a few questions a minute', { client: { token: async () => { n++; return person(); } }, answer: () => problem(401, 'InvalidCredential') }, async ({ is }) => {
  n = 0;
  await pass(24 * 3600 * SECOND);
  assert.equal(is().state, 'waiting');
  assert.ok(connects() < 24 * 60 * 4 && n < 24 * 60 * 4, `${connects()} tries, ${n} tokens`);
});
// What the hub answers by a status says when to come back, as hub.closing does.
const full = (seconds = '120', type = 'application/problem+json', body = '{"code":"HubFull"}') => new Response(body, { status: 503, headers: { 'Content-Type': type, 'Retry-After': seconds } });
for (const transport of ['sse', 'poll']) {
  await test(`a full hub, by ${transport}`, { client: { ...open, transport }, answer: () => full() }, async ({ client, is }) => {
    assert.deepEqual([is().state, is().reason, is().problem.code, is().retryMs], ['waiting', 'unreachable', 'HubFull', 120 * SECOND]);
    for (const type of ['online', 'visibilitychange']) happens(type);
    await pass(119 * SECOND);
    assert.equal(asked.length, 1);
    for (const answer of [() => full('1'), () => full('120', 'text/html')]) { // soon, and who stands in between
      hub.answer = answer;
      client.reconnect();
      await settled();
      assert.ok(is().retryMs <= 45 * SECOND);
      const { length } = asked;
      happens('online');
      await settled();
      assert.equal(asked.length, length + 1);
    }
  });
}
await test('a refusal that comes when another try is under way', { client: open }, async ({ is }) => {
  let end;
  const late = full('120', undefined, new ReadableStream({ start: (out) => { end = () => { out.enqueue(Buffer.from('{"code":"HubFull"}')); out.close(); }; } }));
  hub.answer = () => late;
  happens('online');
  await settled();
  hub.answer = () => undefined;
  happens('online');
  await settled();
  end();
  await settled();
  publish(1);
  await settled();
  assert.deepEqual([is().state, connects()], ['live', 3]);
});
// A login in another tab sets the cookie.
let isLoggedIn = false;
await test('a cookie', { client: {}, answer: () => (isLoggedIn ? undefined : problem(401, 'CredentialRequired')) }, async ({ is }) => {
  assert.deepEqual([is().state, is().reason, is().problem.code], ['waiting', 'refused', 'CredentialRequired']);
  isLoggedIn = true;
  await pass(is().retryMs);
  assert.equal(is().state, 'live');
});
// These no token, no time changes.
for (const [status, code, client] of [
  [403, 'ScopeRequired', { token: async () => person() }], [400, 'InvalidField', { token: async () => person() }], [401, 'CredentialRequired', open],
]) {
  await test(`${status} for good`, { client, answer: () => problem(status, code) }, async ({ is }) => {
    assert.deepEqual([is().state, is().reason, is().problem.code], ['closed', 'refused', code]);
  });
}

// ---- what is slow ----

const after = (ms) => new Promise((done) => { setTimeout(done, ms); });
for (const seconds of [24, 100]) {
  await test(`a hub that takes ${seconds} s for a resume`, { client: open }, async ({ is }) => {
    publish(1);
    await settled();
    hub.answer = () => after(seconds * SECOND);
    streams[0].close();
    await pass(600 * SECOND);
    assert.equal(is().state, 'live');
    assert.ok(connects() <= 6, `${connects()} tries`);
  });
}
// The head is there, and somebody who is at work: that is no silence.
await test('a stream that begins with comments', { client: open }, async ({ is }) => {
  hub.answer = () => 'silence';
  streams[0].close();
  await pass(3 * SECOND);
  for (let i = 0; i < 10; i++) {
    streams[0].raw(':\n\n');
    await pass(15 * SECOND);
  }
  assert.deepEqual([connects(), is().state], [2, 'waiting']);
  hub.greet(streams[0]);
  await settled();
  assert.equal(is().state, 'live');
});
await test('a hub that never says anything', { client: { ...open, transport: 'sse' } }, async ({ is }) => {
  hub.answer = () => 'silence';
  streams[0].close();
  await pass(3600 * SECOND);
  assert.equal(is().reason, 'silent');
  assert.ok(connects() > 10 && connects() < 40, `${connects()} tries`);
  hub.answer = () => undefined;
  await pass(200 * SECOND);
  assert.equal(is().state, 'live');
});

// ---- what fails is said ----

const SECRET = 'eyJ.a-secret.of-mine';
for (const [token, detail] of [
  [() => { throw new RangeError(SECRET); }, /threw RangeError/],
  [async () => { throw new Error(SECRET); }, /threw Error/],
  [async () => Promise.reject(SECRET), /threw/],
  [async () => undefined, /no text \(undefined\)/], [async () => null, /no text \(null\)/], [async () => '', /empty/], [async () => ({ token: SECRET }), /no text \(object\)/],
  [() => new Promise(() => {}), /did not answer/],
]) {
  for (const share of [false, true]) {
    let works = false;
    await test(`token() ${detail}`, { client: { share, token: () => (works ? person() : token()) } }, async ({ is }) => {
      await pass(21 * SECOND);
      await pass(600 * SECOND);
      assert.deepEqual([is().state, is().reason, is().problem?.code, is().problem?.status], ['waiting', 'token', 'TokenFailed', 0]);
      assert.match(is().problem.detail, detail);
      assert.ok(!JSON.stringify(is()).includes('secret'));
      assert.equal(printed.length, 1, `once for all that failed in a row: ${printed}`);
      assert.match(printed[0][0], detail);
      assert.ok(!printed[0][0].includes('secret'));
      works = true;
      await pass(100 * SECOND);
      assert.deepEqual([is().state, is().problem], ['live', null]);
      works = false;
      streams[0].say('hub.expiring', {});
      await pass(21 * SECOND);
      assert.equal(printed.length, 2, 'and anew after a success');
      assert.equal(is().state, 'live'); // its stream has time yet
    });
  }
}

for (const share of [false, true]) {
  for (const [what, again] of [['reconnect()', ({ reconnect }) => reconnect()], ...['online', 'visibilitychange'].map((type) => [type, () => happens(type)])]) {
    let works = false;
    await test(`the first token() fails, then ${what}, sharing ${share}`, { client: { share, token: () => (works ? person() : '') } }, async ({ client, is }) => {
      await pass(600 * SECOND);
      works = true;
      again(client);
      await settled();
      assert.equal(is().state, 'live');
    });
  }
}
await test('a client that is closed as its first token() fails', { client: { share: true, token: () => '' } }, async ({ client }) => {
  client.close();
  await settled();
  assert.equal(timers.size, 0);
});

await test('calls that the hub refuses', { client: { ...open, presence: 'none' } }, async ({ client }) => {
  hub.answer = ({ path }) => (path.endsWith('/typing') ? problem(403, 'NotAMember') : undefined);
  const typing = client.typing('c');
  for (let i = 0; i < 3; i++) {
    assert.equal(await typing.start(), false);
    await pass(3 * SECOND);
  }
  assert.deepEqual(printed, [['realtime: POST /v1/conversations/c/typing: 403 NotAMember']]);
  hub.answer = ({ method }) => (method === 'PATCH' ? problem(400, 'InvalidField') : undefined);
  client.presence.watch(['other'], () => {});
  await pass(600 * SECOND);
  assert.equal(printed.length, 2);
  assert.match(printed[1][0], /^realtime: PATCH \/v1\/connections\/[^ ]+: 400 InvalidField$/);
  hub.answer = ({ method }) => (method === 'POST' ? problem(404, 'NotFound') : method === 'PATCH' ? undefined : new TypeError('no network'));
  await client.touch(); // of a stream that has just ended: nothing is wrong
  assert.equal(printed.length, 2);
});

await test('events that are none', { client: open }, async ({ client, is }) => {
  const heard = [];
  for (const type of ['*', 'hub.*']) client.on(type, (event) => heard.push(event));
  client.onGap(({ reason }) => heard.push(reason));
  for (const data of ['<html>', '7', 'null', '{"payload":1}']) streams[0].raw(`event: a.b\ndata: ${data}\n\n`);
  streams[0].raw('event: hub.gap\ndata: oops\n\n');
  await settled();
  assert.deepEqual(heard, []);
  assert.equal(printed.length, 1);
  assert.ok(!/oops|html/.test(printed[0]));
  assert.equal(is().state, 'live');
});

// Listeners that throw are the page's, each time, and in nobody's way.
await test('listeners that throw', { client: open }, async ({ client }) => {
  const heard = [];
  client.on('a.b', () => { throw new Error('on'); });
  client.onGap(() => { throw new Error('onGap'); });
  client.onStatus(() => { throw new Error('onStatus'); });
  client.on('a.b', ({ payload }) => heard.push(payload));
  publish(1);
  streams[0].say('hub.gap', { reason: 'slow' });
  await settled();
  assert.deepEqual(heard, [1]);
  assert.deepEqual(printed.map(([, { message }]) => message), ['onStatus', 'on', 'onGap']);
});

// ---- mistakes are said where they are made ----

for (const [options, says] of [
  [{ type: ['a.b'] }, /"type".*types\?/], [{ Token: () => '' }, /"Token".*token\?/], [{ lastEventId: 'c-1' }, /"lastEventId".*cursor/], [{ metadata: {} }, /"metadata".*meta\?/],
  [{ share: false, heartbeat: 1 }, /"heartbeat"/], [{ url: 'localhost:8080' }, /url/], [{ url: 'ftp://x' }, /url/], [{ share: 1 }, /share/],
  ...['http://x/?tenant=t', 'http://x?', 'http://x/#top', 'http://me:secret@x/'].map((url) => [{ url }, /url must have no query, no fragment and no credentials/]),
]) assert.throws(() => connect({ ...open, ...options }), (error) => error instanceof TypeError && says.test(error.message), JSON.stringify(options));
await test('a url with a path', { client: { ...open, url: ' http://page/@/hub/ ' } }, async () => assert.equal(asked[0].path, '/@/hub/v1/stream'));
const client = connect(open);
for (const wrong of [() => client.on('a.b'), () => client.on(undefined, () => {}), () => client.onStatus(), () => client.onGap('x'), () => client.presence.watch(['me'])]) {
  assert.throws(wrong, TypeError);
}
client.close();

// A browser that has locks and channels, and refuses them, is one without.
await settled();
const { BroadcastChannel } = globalThis;
globalThis.BroadcastChannel = class { constructor() { throw new DOMException('no', 'SecurityError'); } };
await test('channels are refused', { client: { ...open, share: true } }, async ({ is }) => assert.deepEqual([is().state, is().shared], ['live', false]));
globalThis.BroadcastChannel = BroadcastChannel;
const { request } = navigator.locks;
navigator.locks.request = async () => { throw new DOMException('no', 'SecurityError'); };
await test('locks are refused', { client: { ...open, share: true } }, async () => {
  await pass(60 * SECOND);
  assert.equal(printed.length, 1);
  assert.match(printed[0][0], /lock/);
});
navigator.locks.request = request;
