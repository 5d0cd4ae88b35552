// What realtime.js acknowledges, when, and where it resumes: alone, and for all tabs that share a stream.
import assert from 'node:assert/strict';
import { connect } from 'realtimehub';
import { asked, channels, clock, hub, look, newPage, pass, publish, setClock, settled, streams } from './world.mjs';

const SECOND = 1000, AGAIN = 3 * SECOND; // within which a stream that was lost is back
const answer = (status, code) => new Response(JSON.stringify({ code }), { status, headers: { 'Content-Type': 'application/problem+json' } });
const acks = () => asked.filter(({ path }) => path.endsWith('/ack'));
const acked = () => acks().map(({ body }) => body.cursor);
const resumed = () => asked.findLast(({ path }) => path === '/v1/stream').headers['Last-Event-ID'];
globalThis.reportError = () => {}; // where a listener of onError is missing
let tenant = 0, open = [];

/** Something with a deadline, or without. */
async function tells(payload, deadline, type = 'a.b') {
  publish(payload, type, { timestamp: new Date(clock()).toISOString(), ...(deadline && { deadline }) });
  await settled();
}

/** A tab. What it handles is told when its listener is called; a listener of its own may take longer, or fail. */
async function tab(options, listener = () => {}) {
  const happens = newPage();
  const client = connect({ tenant: `t${tenant}`, profile: 'me', ...options });
  const heard = [], failed = [];
  client.on('a.*', (event) => {
    heard.push(event.payload);
    return listener(event);
  });
  client.onError((error, { payload }) => failed.push(`${payload} ${error.message}`));
  await settled();
  const one = { client, heard, failed, happens, channel: channels.at(-1) };
  open.push(one);
  return one;
}
const alone = (listener, options) => tab({ share: false, ...options }, listener);

/** A listener whose work ends when the test says so. */
function slow() {
  const work = new Map();
  const listener = ({ payload }) => new Promise((done, fail) => { work.set(payload, { done, fail: (text) => fail(new Error(text)) }); });
  const ends = async (payload, failure) => {
    if (failure) work.get(payload).fail(failure);
    else work.get(payload).done();
    await pass(SECOND / 10); // in which a tab tells its siblings
  };
  return [listener, ends];
}

async function cut() {
  streams[0].say('hub.closing', { reason: 'unacked', retryMs: SECOND });
  await pass(AGAIN);
}

async function test(name, run) {
  tenant++;
  [asked.length, open, hub.n, hub.history, hub.answer, hub.says] = [0, [], 0, [], () => undefined, { ackMs: SECOND }];
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

await test('at once for the first with a deadline, then once a second, and nothing for others', async () => {
  const { client } = await alone();
  assert.equal(asked[0].query.get('ack'), 'true');
  await tells(1);
  await pass(5 * SECOND);
  assert.deepEqual(acked(), []);
  await tells(2, '30s');
  assert.deepEqual(acked(), ['c-2']);
  assert.equal(acks()[0].path, `/v1/connections/${client.status.connectionId}/ack`);
  await tells(3, '1m');
  await tells(4, '1m');
  await tells(5);
  await pass(999);
  assert.deepEqual(acked(), ['c-2']);
  await pass(1);
  assert.deepEqual(acked(), ['c-2', 'c-5']);
  await pass(SECOND);
  await tells(6);
  await pass(60 * SECOND);
  assert.deepEqual(acked(), ['c-2', 'c-5']);
  await tells(7, '1s');
  assert.deepEqual(acked(), ['c-2', 'c-5', 'c-7']);
});

await test('what came only because the hub did not know a long list yet is in nobody\'s way', async () => {
  hub.answer = ({ method }) => (method === 'PATCH' ? new Promise(() => {}) : undefined);
  const { client, heard } = await alone(undefined, { types: Array.from({ length: 200 }, (_, i) => `family-of-types-${i}`) });
  await tells(1, '5m');
  assert.deepEqual([client.cursor, heard, acked()], ['c-1', [], ['c-1']]);
});

await test('a hub that knows none of it is sent none', async () => {
  hub.says = {};
  const { heard } = await alone();
  await tells(1, '30s');
  await pass(5 * SECOND);
  assert.deepEqual([heard, acked()], [[1], []]);
});

await test('once its promises are settled, and in order', async () => {
  const [listener, ends] = slow();
  const { client, heard } = await alone(listener);
  await tells(1, '30s');
  await tells(2, '30s');
  await ends(2);
  assert.deepEqual([acked(), client.cursor], [[], 'c-0']);
  // The stream is lost meanwhile: what is under way is not begun again.
  streams[0].close();
  await pass(AGAIN);
  assert.equal(resumed(), 'c-0');
  assert.deepEqual([heard, acked()], [[1, 2], []]);
  await ends(1);
  assert.deepEqual([acked(), client.cursor], [['c-2'], 'c-2']);
  await tells(3, '30s');
  streams[0].close();
  await settled();
  await ends(3); // while there is no stream
  await pass(AGAIN);
  assert.deepEqual([resumed(), acked()], ['c-3', ['c-2']]);
});

await test('what failed comes again to whom it failed, and is acknowledged then', async () => {
  let fails = true;
  const { client, heard, failed } = await alone(({ payload }) => {
    if (payload === 1 && fails) throw new Error('thrown');
  });
  let others = 0;
  client.on('a.b', async () => { others++; });
  await tells(1, '30s');
  await tells(2, '30s');
  assert.deepEqual([failed, acked(), client.cursor], [['1 thrown'], [], 'c-0']);
  await cut();
  assert.equal(resumed(), 'c-0');
  assert.deepEqual([heard, failed, acked()], [[1, 2, 1], ['1 thrown', '1 thrown'], []]);
  fails = false;
  await cut();
  assert.deepEqual([heard, others, acked().at(-1)], [[1, 2, 1, 1], 2, 'c-2']);
});

await test('what fails for ever is owed until its deadline, and in the way of nothing else', async () => {
  const { heard, failed } = await alone(({ payload }) => (payload === 1 ? Promise.reject(new Error('no')) : undefined));
  await tells(1, '40s');
  await tells(2, '2m');
  for (let i = 0; i < 3; i++) await cut();
  assert.deepEqual([heard, failed.length, acked()], [[1, 2, 1, 1, 1], 4, []]);
  await tells(3);
  assert.equal(heard.at(-1), 3);
  await pass(40 * SECOND);
  assert.deepEqual(acked(), ['c-3']); // the service has been told of 1
  await tells(4, '10s');
  assert.deepEqual(acked(), ['c-3', 'c-4']);
  // Without a deadline what comes after waits for a minute.
  const { client, heard: again } = await alone(({ payload }) => { if (payload === 5) throw new Error('no'); });
  await tells(5);
  await tells(6);
  assert.deepEqual([again, client.cursor], [[5, 6], 'c-4']);
  await pass(60 * SECOND);
  assert.equal(client.cursor, 'c-6');
});

// No clock tells how old an event is: hubs' differ, and a page's may be set.
await test('a deadline is over by no clock', async () => {
  const [listener, ends] = slow();
  hub.says = { ackMs: SECOND, connectedAt: new Date(clock() + 60 * SECOND).toISOString() }; // by another hub than takes the events
  await alone(listener);
  await tells(1, '30s');
  await ends(1, 'failed');
  await tells(2, '2m');
  await ends(2);
  setClock(60 * SECOND);
  await pass(32 * SECOND - SECOND / 5); // of which the first deadline is not over for as long as an acknowledgement may count
  assert.deepEqual(acked(), []);
  await pass(SECOND);
  assert.deepEqual(acked(), ['c-2']);
  setClock(-3600 * SECOND);
  await tells(3, '5s');
  await ends(3, 'failed');
  await pass(8 * SECOND); // nor is it longer
  assert.deepEqual(acked(), ['c-2', 'c-3']);
  setClock(3540 * SECOND);
});

await test('a clock may run a little fast for hours', async () => {
  await alone(() => Promise.reject(new Error('no')));
  await tells(1, '10h');
  await pass(36_017 * SECOND); // by a clock that gains 0.05 %
  assert.deepEqual(acked(), []);
  await pass(60 * SECOND);
  assert.deepEqual(acked(), ['c-1']);
});

await test('what comes again has no longer, also where another tab leads by then', async () => {
  const [one] = [await tab({}, () => Promise.reject(new Error('no'))), await tab({}, () => Promise.reject(new Error('no')))];
  await tells(1, '30s');
  await tells(2, '2m');
  for (let i = 0; i < 6; i++) await cut();
  one.client.close();
  await pass(SECOND);
  for (let i = 0; i < 4; i++) await cut();
  assert.deepEqual(acked(), []);
  await pass(3 * SECOND);
  assert.deepEqual(acked().at(-1), 'c-1');
});

await test('an acknowledgement that was refused for now is sent again, another is not', async () => {
  await alone();
  let refusals = [() => answer(429, 'RateLimited'), () => answer(503, 'HubSilent'), () => new TypeError('no network')];
  hub.answer = ({ path }) => (path.endsWith('/ack') ? refusals.shift()?.() : undefined);
  await tells(1, '5m');
  assert.equal(acks().length, 1);
  await pass(60 * SECOND);
  assert.deepEqual(acked(), ['c-1', 'c-1', 'c-1', 'c-1']);
  for (const [status, code] of [[409, 'UnknownCursor'], [404, 'ConnectionNotFound'], [400, 'InvalidField']]) {
    asked.length = 0;
    refusals = [() => answer(status, code)];
    await tells(status, '5m');
    await pass(60 * SECOND);
    assert.deepEqual(acked(), [`c-${hub.n}`]);
  }
});

await test('a page that goes sends what waits, so that it outlives the page', async () => {
  const { happens, client } = await alone();
  await tells(1, '30s');
  await tells(2, '30s');
  happens('pagehide', {});
  await settled();
  assert.deepEqual(acks().map(({ body, keepalive }) => [body.cursor, Boolean(keepalive)]), [['c-1', false], ['c-2', true]]);
  await pass(5 * SECOND);
  assert.equal(acks().length, 2);
  await tells(3, '30s');
  await tells(4, '30s');
  client.close();
  await settled();
  assert.deepEqual(acked().slice(2), ['c-3', 'c-4']);
  const { client: once } = await alone(() => once.close()); // within the listener
  let isOpen;
  hub.answer = () => { isOpen = streams.length > 0; };
  await tells(5, '30s');
  assert.deepEqual([acked().at(-1), isOpen], ['c-5', true]); // of a stream that has ended nothing is acknowledged
});

// Whoever was displaced does not come back by itself, and after a drain only later: no resume acknowledges it in time.
for (const reason of ['replaced', 'drain']) {
  await test(`what waits to be acknowledged is sent as the hub ends the stream: ${reason}`, async () => {
    await alone();
    await tells(1, '30s');
    await tells(2, '30s');
    streams[0].say('hub.closing', { reason, retryMs: 60 * SECOND });
    await pass(5 * SECOND);
    assert.deepEqual([acked(), open[0].client.status.reason], [['c-1', 'c-2'], reason]);
  });
}

await test('an acknowledgement that is under way as the page goes is sent once more', async () => {
  const { happens } = await alone();
  hub.answer = ({ path, keepalive }) => (path.endsWith('/ack') && !keepalive ? new Promise(() => {}) : undefined);
  await tells(1, '30s');
  happens('pagehide', {});
  await settled();
  assert.deepEqual(acked(), ['c-1', 'c-1']);
});

await test('the hub\'s own does not come again, so it is in nobody\'s way', async () => {
  const { client } = await alone();
  client.onGap(async () => { throw new Error('cannot fetch'); });
  streams[0].say('hub.gap', { reason: 'slow' }, 'c-gap');
  await tells(1, '30s');
  assert.deepEqual(acked(), ['c-1']);
});

// ---- tabs ----

await test('tabs acknowledge what all have handled that want it', async () => {
  const [listener, ends] = slow();
  const [, two] = [await tab(), await tab({}, listener), await tab({ types: ['a.c'] }, () => new Promise(() => {}))];
  await tells(1, '30s');
  await pass(20 * SECOND); // it is slow, but there
  assert.deepEqual([two.heard, acked()], [[1], []]);
  await ends(1);
  assert.deepEqual(acked(), ['c-1']);
  await tells(2, '30s');
  await ends(2, 'failed');
  await pass(20 * SECOND);
  assert.deepEqual([two.failed, acked()], [['2 failed'], ['c-1']]);
  await cut();
  assert.deepEqual(open.map(({ heard }) => heard), [[1, 2], [1, 2, 2], []]);
  await ends(2);
  assert.deepEqual(acked(), ['c-1', 'c-2']);
});

await test('a tab that stands still is not waited for, nor has it handled anything', async () => {
  const [, two] = [await tab({ types: ['a.b'] }), await tab()];
  const wake = two.channel.stall();
  look(false); // so that it does not look for its leader
  await tells(1, '2m');
  await pass(4 * SECOND);
  assert.deepEqual(acked(), []);
  await pass(6 * SECOND);
  assert.deepEqual(acked(), ['c-1']);
  await tells(2, '2m', 'a.c'); // this none but that tab wants
  await tells(3, '2m');
  await pass(60 * SECOND);
  assert.deepEqual(acked(), ['c-1']);
  wake();
  await pass(SECOND);
  assert.deepEqual([two.heard, acked()], [[1, 2, 3], ['c-1', 'c-3']]);
  // It is waited for again; but not once the browser has said that it is frozen, where it may hear its siblings, and run.
  const wakeAgain = two.channel.stall();
  await tells(4, '2m');
  await pass(2 * SECOND);
  assert.deepEqual(acked(), ['c-1', 'c-3']);
  two.happens('freeze', {});
  await settled();
  assert.deepEqual(acked(), ['c-1', 'c-3', 'c-4']);
  wakeAgain();
  await tells(5, '2m', 'a.c');
  await pass(60 * SECOND);
  assert.deepEqual([two.heard.at(-1), acked().at(-1)], [5, 'c-4']);
  two.happens('resume', {});
  await pass(SECOND);
  assert.deepEqual(acked().at(-1), 'c-5');
});

await test('a tab that is gone has handled nothing', async () => {
  const never = () => new Promise(() => {});
  const [, two] = [await tab({ types: ['a.b'] }), await tab({}, never)];
  await tells(1, '30s');
  await tells(2, '30s', 'a.c');
  await tells(3, '2m');
  assert.deepEqual(acked(), []);
  two.client.close();
  await settled();
  assert.deepEqual(acked(), ['c-1']);
  await pass(20 * SECOND);
  assert.deepEqual(acked(), ['c-1']);
  await pass(20 * SECOND);
  assert.deepEqual(acked(), ['c-1', 'c-3']); // the service has been told of 2
});

await test('what a tab that is gone wanted, and nobody else wants, is handled by nobody', async () => {
  await tab({ types: ['b.c'] });
  const gone = await tab({ types: ['a.b'] });
  hub.answer = ({ method }) => (method === 'PATCH' ? new Promise(() => {}) : undefined); // the hub sends it still
  gone.client.close();
  await settled();
  await tells(1, '30s');
  await pass(2 * SECOND);
  assert.deepEqual(acked(), []);
});

await test('a tab that came after an event has not handled it, whoever leads', async () => {
  const never = () => new Promise(() => {});
  const [one] = [await tab({}, never)];
  await tells(1, '30s');
  const two = await tab(); // after it
  await tells(2, '2m');
  one.client.close();
  await settled();
  assert.equal(resumed(), 'c-0');
  await pass(20 * SECOND);
  assert.deepEqual([two.heard, acked()], [[2], []]);
  for (let i = 0; i < 4; i++) await cut(); // it comes again, and is owed no longer
  await pass(SECOND);
  assert.deepEqual(acked(), ['c-2']); // the service has been told of 1
});

await test('a tab that came after an event has not handled it, if the stream is resumed', async () => {
  const [one] = [await tab({}, () => new Promise(() => {}))];
  await tells(1, '2m');
  const two = await tab({ types: ['a.b'] });
  await cut();
  one.client.close();
  await pass(60 * SECOND);
  assert.deepEqual([two.heard, acked()], [[], []]);
});

await test('one that leads before it follows has not handled what came before it', async () => {
  const [one] = [await tab({}, () => new Promise(() => {})), await tab({ types: ['a.c'] })];
  await tells(1, '2m');
  one.channel.stall(); // it welcomes nobody
  await pass(2 * SECOND); // so that two is the next to look for its leader
  const two = await tab();
  await tells(2, '2m', 'a.c');
  look(true);
  await pass(12 * SECOND);
  assert.equal(two.client.status.leader, true);
  one.client.close();
  await pass(60 * SECOND);
  assert.deepEqual([resumed(), two.heard, acked()], ['c-0', [], []]);
});

await test('a tab says how far it is before it goes', async () => {
  const [, two] = [await tab({ types: ['a.c'] }), await tab({ types: ['a.b'] })];
  await tells(1, '30s');
  await tells(2, '30s');
  two.client.close();
  await pass(SECOND);
  assert.deepEqual(acked(), ['c-2']);
});

await test('who leads next resumes where all are', async () => {
  const [listener, ends] = slow();
  const [one, two] = [await tab(), await tab({}, listener)];
  await tells(1, '2m');
  const three = await tab(); // after it
  streams[0].event({ id: 'ephemeral', type: 'a.b', payload: 'no place', timestamp: 'then' });
  await tells(2, '2m');
  await ends(2);
  one.client.close();
  await settled();
  assert.equal(resumed(), 'c-0');
  assert.deepEqual([two.heard, three.heard, acked()], [[1, 'no place', 2], ['no place', 2], []]);
  await ends(1);
  await pass(SECOND); // three, which is not waited for with 1, says that it has handled 2
  assert.deepEqual(acked(), ['c-1', 'c-2']);
  await tells(3);
  await ends(3);
  two.client.close();
  await settled();
  await tells(4, '30s');
  await pass(SECOND);
  assert.deepEqual([three.heard, acked().at(-1)], [['no place', 2, 3, 4], 'c-4']);
});

await test('a tab that missed some has not handled them', async () => {
  const [, two] = [await tab({ types: ['a.b'] }), await tab()];
  two.channel.isDeaf = true;
  await tells('x'.repeat(6e5), '2m', 'a.c');
  await tells('x'.repeat(6e5), '2m');
  await tells('x'.repeat(6e5), '2m');
  two.channel.isDeaf = false;
  await tells(4, '2m');
  await tells(5, '2m');
  await pass(30 * SECOND);
  assert.deepEqual([two.heard, acked()], [[5], []]); // after a gap
});
