// What the tabs that share a stream are told, whoever leads, leaves, stands still or comes back.
import assert from 'node:assert/strict';
import { connect } from 'realtimehub';
import { asked, channels, clock, hub, look, lose, newPage, pass, publish, setClock, settled, stealInSecret, streams } from './world.mjs';

const SECOND = 1000, HOUR = 3600 * SECOND;
const calls = (method) => asked.filter((request) => request.method === method);
const problem = () => new Response('{"code":"x"}', { status: 503 });
const here = () => Response.json({ profiles: [{ profile: { type: 'user', id: 'other' }, status: 'online' }] });
let tenant = 0, open = [];

/** Opens a tab: its client, its channel, what happens to its page, and what it is told. */
async function tab(options) {
  const happens = newPage();
  const client = connect({ tenant: `t${tenant}`, profile: 'me', ...options });
  const heard = [], states = [];
  client.on('a.*', ({ payload }) => heard.push(typeof payload === 'string' ? payload.slice(0, 20) : payload));
  client.onGap(({ reason }) => heard.push(`gap ${reason}`));
  client.onStatus(({ state }) => states.push(state));
  await settled();
  const one = { client, heard, states, channel: channels.at(-1), happens, is: () => client.status };
  open.push(one);
  return one;
}

const leaves = async ({ happens }) => { happens('pagehide', {}); await settled(); };
const comesBack = async (one) => {
  one.happens('pageshow', { persisted: true });
  one.channel = channels.at(-1);
  await settled();
};
const tells = async (...payloads) => {
  for (const payload of payloads) publish(payload);
  await settled();
};

async function test(name, run) {
  tenant++;
  [asked.length, open, hub.n, hub.history, hub.answer] = [0, [], 0, [], () => undefined];
  try {
    await run();
    for (const { client } of open) client.close();
    await settled();
    assert.equal(streams.length + channels.length, 0, 'nothing is left');
  } catch (error) {
    error.message = `${name}: ${error.message}`;
    throw error;
  }
}

await test('who leads next goes on where it is', async () => {
  const [one, two, three] = [await tab(), await tab(), await tab()];
  assert.equal(streams.length, 1);
  await tells(1);
  hub.answer = () => 'silence';
  one.client.close();
  await settled();
  assert.deepEqual([two, three].map(({ is }) => is().state), ['waiting', 'waiting']);
  assert.equal(two.is().leader, true);
  await tells(2);
  assert.equal(streams.length, 1);
  hub.answer = () => undefined;
  hub.greet(streams[0]);
  await settled();
  await tells(3);
  const four = await tab();
  assert.equal(four.client.cursor, 'c-3'); // where an application could go on by itself
  await tells(4);
  assert.deepEqual([two.heard, three.heard, four.heard], [[1, 2, 3, 4], [1, 2, 3, 4], [4]]);
  assert.deepEqual([two, three, four].map(({ is }) => is().state), ['live', 'live', 'live']);
});

await test('a tab that was opened after an event is not told of it, whoever leads next', async () => {
  const [one, two] = [await tab(), await tab()];
  await tells(1);
  await pass(SECOND); // both have handled it
  const three = await tab();
  one.client.close();
  await settled();
  await tells(2);
  two.client.close();
  await settled();
  await tells(3);
  assert.deepEqual([two.heard, three.heard], [[1, 2], [2, 3]]);
});

await test('an idle leader is left alone', async () => {
  const [one] = [await tab(), await tab()];
  await pass(60 * SECOND);
  assert.equal(one.is().leader, true);
  assert.equal(calls('GET').length, 1);
});

await test('a tab is live once the stream has what it wants', async () => {
  const one = await tab({ types: ['a.b'], presence: 'none' });
  hub.answer = ({ method }) => (method === 'PATCH' ? problem() : undefined);
  const two = await tab({ types: ['a.c'], presence: 'none' });
  assert.deepEqual([one.is().state, two.is().state], ['live', 'connecting']);
  hub.answer = () => undefined;
  await pass(3 * SECOND);
  assert.equal(two.is().state, 'live');
  hub.answer = ({ path }) => (path === '/v1/presence' ? here() : undefined);
  const wake = one.channel.stall();
  two.client.presence.watch(['other'], () => {});
  streams[0].close();
  await pass(3 * SECOND);
  assert.equal(two.is().state, 'live'); // for what it wanted before
  const questions = () => asked.filter(({ path }) => path === '/v1/presence').length;
  assert.equal(questions(), 0); // what changed now, nobody would tell
  wake();
  await settled();
  assert.equal(questions(), 1);
});

await test('more types than the hub takes are all', async () => {
  const many = (name) => Array.from({ length: 150 }, (_, i) => `${name}.${i}`);
  await tab({ types: many('a'), presence: 'none' });
  await tab({ types: many('b'), presence: 'none' });
  assert.deepEqual(calls('PATCH').at(-1).body.types, ['*']);
});

await test('what was lost on the way is told again', async () => {
  const [one, two] = [await tab({ presence: 'none' }), await tab({ presence: 'none' })];
  await tells(1);
  two.channel.isDeaf = true;
  await tells(2);
  one.client.presence.watch(['other'], () => {}); // all want more meanwhile, and two no less
  await tells(3);
  two.channel.isDeaf = false;
  await tells(4, 5);
  assert.deepEqual(two.heard, [1, 2, 3, 4, 5]);
});

await test('what is no longer kept is a gap', async () => {
  const [, two] = [await tab(), await tab()];
  two.channel.isDeaf = true;
  await tells('a'.repeat(6e5), 'b'.repeat(6e5), 'c'.repeat(6e5));
  two.channel.isDeaf = false;
  await tells(4);
  await tells(5);
  assert.deepEqual(two.heard, ['gap unknown', 5]);
});

await test('places alone are not kept for ever', async () => {
  const [, two] = [await tab(), await tab()];
  two.channel.isDeaf = true;
  for (let i = 0; i < 6000; i++) { // of what nobody here gets
    streams[0].raw(`id: c-${i}-of-others\n\n`);
    if (i % 10 === 9) await settled();
  }
  two.channel.isDeaf = false;
  await tells(1);
  await tells(2);
  assert.deepEqual(two.heard, ['gap unknown', 2]);
});

await test('what came in pieces counts whole', async () => {
  const [, two] = [await tab(), await tab()];
  two.channel.isDeaf = true;
  for (const payload of ['a', 'b', 'c']) {
    const event = { id: payload, type: 'a.b', payload: payload.repeat(6e5), timestamp: 'then' };
    streams[0].raw(`id: c-${payload}\ndata: ${JSON.stringify(event)}`);
    await settled();
    streams[0].raw('\n\n');
    await settled();
  }
  two.channel.isDeaf = false;
  await tells(4);
  await tells(5);
  assert.deepEqual(two.heard, ['gap unknown', 5]);
});

await test('a tab that died is forgotten, one that only blinked is not', async () => {
  await tab({ types: ['a.b'] });
  const two = await tab({ types: ['a.c'] });
  two.happens('pagehide', {});
  two.happens('pageshow', { persisted: true });
  const three = await tab({ types: ['a.d'] });
  assert.deepEqual(streams[0].types, ['a.b', 'a.c', 'a.d']);
  three.channel.close();
  three.channel.close = () => {};
  lose(three.client.id);
  await settled();
  assert.deepEqual(streams[0].types, ['a.b', 'a.c']);
  const four = await tab({ types: ['a.e'] }); // and this dies together with the leader
  four.channel.close();
  four.channel.close = () => {};
  open[0].client.close();
  lose(four.client.id);
  await pass(3 * SECOND);
  assert.deepEqual([two.is().leader, streams[0].types], [true, ['a.c']]);
});

await test('what was not asked for all the while is a gap, told when it is asked for', async () => {
  await tab({ types: ['a.c'] });
  const two = await tab({ types: ['a.b'] });
  await leaves(two);
  assert.deepEqual(streams[0].types, ['a.c']);
  publish('nobody heard', 'a.b');
  publish(1, 'a.c');
  await settled();
  const three = await tab({ types: ['a.b'] });
  assert.deepEqual(streams[0].types, ['a.b', 'a.c']);
  await comesBack(two);
  assert.deepEqual([two.heard, three.heard], [['gap unknown'], []]);
  await leaves(two);
  three.client.close();
  await settled();
  hub.answer = ({ method }) => (method === 'PATCH' ? problem() : undefined);
  await comesBack(two);
  assert.deepEqual([two.heard, two.is().state], [['gap unknown'], 'connecting']);
  hub.answer = () => undefined;
  await pass(3 * SECOND);
  assert.deepEqual(two.heard, ['gap unknown', 'gap unknown']);
  two.channel.isDeaf = true; // now at the same place, and this is lost, too
  await tells('a'.repeat(6e5), 'b'.repeat(6e5));
  two.channel.isDeaf = false;
  await tells('c'.repeat(6e5));
  assert.deepEqual(two.heard, ['gap unknown', 'gap unknown', 'gap unknown']);
});

await test('who comes back was served all the while', async () => {
  await tab();
  const two = await tab();
  await leaves(two);
  await tells(1, 2);
  await comesBack(two);
  await tells(3);
  assert.deepEqual(two.heard, [1, 2, 3]);
});

// One leads and stands still, so that its siblings do not hear of it, nor it of them. Of three more
// two stand still as well, one a little longer than the other; the new one is the only tab that is looked at.
await test('a new tab deposes, and goes on where its siblings are', async () => {
  const [one, two, three] = [await tab({ types: ['a.b'] }), await tab({ types: ['a.b'] }), await tab({ types: ['a.c'] })];
  await tells(1);
  await pass(2500);
  const [wakeOne, tellOne] = [one.channel.stall(), stealInSecret()];
  const four = await tab({ types: ['a.b'] });
  const lookedAt = async (what, ms) => {
    look(what);
    await pass(ms);
  };
  await lookedAt(true, 2000);
  await lookedAt(false, 2000); // the others' turn to look for their leader
  const [wakeTwo, wakeThree] = [two.channel.stall(), three.channel.stall()];
  await lookedAt(true, 2000);
  await lookedAt(false, 3000);
  await lookedAt(true, 1500);
  assert.equal(four.is().leader, false); // it is to lead, and asks where the others are
  wakeTwo();
  await pass(2000);
  assert.deepEqual([four.is().leader, four.is().state], [true, 'live']);
  await tells(2);
  publish('nobody heard', 'a.c');
  await settled();
  assert.deepEqual([two.heard, four.heard], [[1, 2], [2]]);
  // The one that does not know says on what it hears, and that its stream ended.
  streams[0].close();
  await settled();
  assert.deepEqual([one, two, four].map(({ is }) => is().state), ['waiting', 'live', 'live']);
  tellOne();
  wakeOne();
  wakeThree();
  await settled();
  await tells(3);
  publish('after', 'a.c');
  await settled();
  assert.deepEqual([one, two, three, four].map(({ heard }) => heard), [[1, 2, 3], [1, 2, 3], ['gap unknown', 'after'], [2, 3]]);
  assert.equal(streams.length, 1);
  assert.equal(four.is().leader, true);
});

// A clock that was set back makes terms older than those that a tab knows.
await test('the clock is set back, a tab comes back', async () => {
  const one = await tab();
  await tells(1);
  await leaves(one);
  setClock(-HOUR);
  const two = await tab();
  await tells(2);
  await comesBack(one);
  assert.deepEqual([one.is().state, one.is().leader, two.is().leader], ['live', false, true]);
  await tells(3);
  assert.deepEqual([one.heard, two.heard], [[1, 'gap unknown', 3], [2, 3]]);
  two.client.close();
  await settled();
  await tells(4);
  assert.deepEqual(one.heard, [1, 'gap unknown', 3, 4]);
  setClock(HOUR);
});
await test('the clock is set back, and all tabs come back', async () => {
  const [one, two] = [await tab(), await tab()];
  await tells(1);
  await leaves(two);
  await leaves(one);
  setClock(-HOUR);
  await comesBack(one);
  await tells(2);
  await comesBack(two);
  assert.deepEqual([one.heard, two.heard], [[1, 2], [1, 2]]);
  await leaves(two);
  await leaves(one);
  await tells(3);
  for (const { happens } of [one, two]) happens('pageshow', { persisted: true });
  await pass(100); // they ask each other, and wait no longer than for the answer
  await tells(4);
  assert.deepEqual([one.heard, two.heard], [[1, 2, 3, 4], [1, 2, 3, 4]]);
  setClock(HOUR);
});

// A leader is deposed while a new tab waits for its word; it still hears the others, and does not know yet.
await test('a leader that does not know', async () => {
  const [one, two] = [await tab(), await tab()];
  await tells(1);
  const tellOne = stealInSecret();
  one.channel.isDeaf = true;
  const three = await tab();
  assert.equal(three.is().state, 'connecting');
  await pass(16 * SECOND);
  one.channel.isDeaf = false;
  assert.deepEqual([one, two, three].map(({ is }) => is().leader), [true, true, false]);
  assert.equal(three.is().state, 'live');
  await tells(2);
  await tells(3);
  tellOne();
  await settled();
  await tells(4);
  assert.deepEqual([one, two, three].map(({ heard }) => heard), [[1, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4]]);
});

await test('a leader that is refused ends alone; who looks at a tab has the leader try at once', async () => {
  const [one, two, three] = [await tab(), await tab(), await tab()];
  hub.answer = () => new Response('{"code":"ScopeRequired"}', { status: 403, headers: { 'Content-Type': 'application/problem+json' } });
  one.happens('online');
  await null;
  hub.answer = () => new TypeError('no network');
  await settled();
  assert.deepEqual([one, two, three].map(({ is }) => is().state), ['closed', 'waiting', 'waiting']);
  hub.answer = () => undefined;
  three.happens('visibilitychange');
  await settled();
  assert.deepEqual([two, three].map(({ is }) => is().state), ['live', 'live']);
});

// Each has a token() of its own: that of a page whose session is over fails, or gives one that is refused.
const jwt = (claims) => ['{}', JSON.stringify(claims), ''].map((part) => Buffer.from(part).toString('base64url')).join('.');
const person = (more) => jwt({ tenant: 't', sub: 'user:me', exp: clock() / 1000 + 3600, ...more });
const withToken = (token) => tab({ tenant: undefined, profile: undefined, token });
console.error = () => {};
for (const [reason, next] of [['token', () => { throw new Error('logged out'); }], ['refused', () => person({ jti: 'revoked' })]]) {
  await test(`a leader that waits for its own token: ${reason}`, async () => {
    let isOver = false;
    const one = await withToken(() => (isOver ? next() : person({ exp: clock() / 1000 + 10 })));
    const two = await withToken(() => person());
    await tells(1);
    isOver = true;
    await pass(10 * SECOND);
    hub.answer = ({ headers }) => (Buffer.from(headers.Authorization.split('.')[1], 'base64').includes('revoked') ? new Response('{"code":"InvalidCredential"}', { status: 401, headers: { 'Content-Type': 'application/problem+json' } }) : undefined);
    streams[0].say('hub.closing', { reason: 'expired', retryMs: 0 });
    await pass(1);
    assert.deepEqual([one, two].map(({ is }) => is().reason), [reason, reason]);
    await pass(4 * SECOND);
    await tells(2);
    assert.deepEqual([one, two].map(({ is, heard }) => [is().state, is().leader, heard]), [['live', false, [1, 2]], ['live', true, [1, 2]]]);
  });
}

await test('tabs whose tokens fail wait longer each time, and for nobody', async () => {
  let n = 0, isOver = false;
  const token = () => {
    if (isOver && ++n) throw new Error('logged out');
    return person({ exp: clock() / 1000 + 10 });
  };
  const [one, two] = [await withToken(token), await withToken(() => token())];
  isOver = true;
  await pass(11 * SECOND);
  n = 0;
  streams[0].say('hub.closing', { reason: 'expired', retryMs: 0 });
  await pass(3600 * SECOND);
  assert.ok(n > 60 && n < 250, `${n} tokens were asked for`);
  isOver = false; // after a login
  const follower = [one, two].find(({ is }) => !is().leader);
  follower.client.reconnect();
  await settled();
  assert.deepEqual([one, two, follower].map(({ is }) => [is().state, is().leader]), [['live', one === follower], ['live', two === follower], ['live', true]]);
});

await test('a cursor is one tab\'s', async () => {
  await tab();
  await tells(1, 2);
  const two = await tab({ cursor: 'c-1' });
  assert.deepEqual([two.heard, two.is().shared], [[2], false]);
});

// With a cookie only the hub knows who it is.
await test('another person', async () => {
  const { greet } = hub, options = { tenant: undefined, profile: undefined, share: 'the same' };
  const one = await tab(options);
  await leaves(one);
  hub.greet = (stream) => stream.ready({ profile: { type: 'user', id: 'other' } });
  const two = await tab(options);
  await comesBack(one);
  await tells('of the other');
  hub.greet = greet;
  assert.deepEqual([one.is().problem?.code, one.heard, two.heard], ['IdentityChanged', [], ['of the other']]);
});
