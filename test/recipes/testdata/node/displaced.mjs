// A client whose place another took, or that an administrator closed, stays away until
// its person does something there. Each stream that is opened is counted.
import assert from 'node:assert/strict';
import { connect } from 'realtimehub';
import { asked, channels, hub, look, newPage, pass, publish, settled, streams } from './world.mjs';

const SECOND = 1000, LONG = 2 * 3600 * SECOND;
const connects = () => asked.filter(({ path }) => path === '/v1/stream').length;
const tellAway = async (reason) => {
  streams[0].raw('retry: 300000\n'); // for stock clients
  streams[0].say('hub.closing', { reason, retryMs: 300_000 });
  streams[0].close();
  await settled();
};

/** A client, and what it is told. */
async function listen(options) {
  const client = connect({ tenant: 't', profile: 'me', share: false, ...options });
  const heard = [], states = [];
  client.on('a.*', ({ payload }) => heard.push(payload));
  client.onStatus(({ state, reason }) => states.push(`${state} ${reason ?? ''}`.trim()));
  await settled();
  return { client, heard, states, is: () => client.status };
}

async function test(name, run) {
  [asked.length, hub.n, hub.history, hub.answer] = [0, 0, [], () => undefined];
  try {
    await run();
    await settled();
    assert.equal(streams.length + channels.length, 0, 'nothing is left');
  } catch (error) {
    error.message = `${name}: ${error.message}`;
    throw error;
  }
}

// Where there is no page nobody is active: the program says when.
await test('no page', async () => {
  const { client, heard, states, is } = await listen();
  publish(1);
  await settled();
  await tellAway('replaced');
  assert.deepEqual([is().state, is().reason, is().retryMs, is().problem, is().connectionId], ['displaced', 'replaced', null, null, null]);
  publish(2);
  await client.touch();
  await pass(LONG);
  assert.equal(connects(), 1);
  hub.answer = () => new TypeError('no network');
  client.reconnect();
  await settled();
  assert.deepEqual([is().state, is().reason], ['waiting', 'unreachable']);
  assert.ok(is().retryMs < 5 * SECOND, `${is().retryMs}`); // as after any other loss
  [asked.length, states.length] = [1, 3];
  hub.answer = () => undefined;
  client.reconnect();
  client.reconnect(); // a try is under way
  await settled();
  assert.equal(connects(), 2);
  assert.equal(asked.at(-1).headers['Last-Event-ID'], 'c-1');
  assert.deepEqual(heard, [1, 2]);
  assert.deepEqual(states, ['connecting', 'live', 'displaced replaced', 'live']);
  client.reconnect(); // it is live
  client.close();
  client.reconnect();
  await pass(LONG);
  assert.equal(connects(), 2);
});

// For a page's own button: whatever it waits for, it tries now.
await test('reconnect while it waits', async () => {
  const { client, is } = await listen();
  await tellAway('drain');
  assert.deepEqual([is().state, is().retryMs], ['waiting', 300_000]);
  client.reconnect();
  await settled();
  assert.deepEqual([is().state, connects()], ['live', 2]);
  client.close();
});

let happens = newPage(); // from here on there is one
for (const reason of ['replaced', 'kicked']) {
  await test(reason, async () => {
    const { client, is } = await listen();
    await tellAway(reason);
    for (const type of ['online', 'pointermove', 'hashchange']) happens(type, {});
    look(false);
    for (const type of ['visibilitychange', 'focus']) happens(type, {});
    look(true);
    await pass(LONG);
    assert.deepEqual([is().state, is().reason, connects()], ['displaced', reason, 1]);
    // Each of these is somebody who is there.
    const acts = [['keydown'], ['pointerdown'], ['wheel'], ['visibilitychange'], ['focus'], ['pageshow', { persisted: true }]];
    for (const [i, [type, more]] of acts.entries()) {
      happens(type, more);
      await settled();
      assert.deepEqual([is().state, connects()], ['live', i + 2], type);
      await pass(30 * SECOND);
      await tellAway(reason);
      assert.equal(is().state, 'displaced');
    }
    client.close();
  });
}

// Two people who share an account, both at work: not more often than twice a minute each.
await test('activity on both sides', async () => {
  const { client, is } = await listen();
  await tellAway('replaced');
  for (let i = 0; i < 600; i++) { // a minute of keystrokes, each of which is answered by the other
    happens('keydown');
    await settled();
    if (is().state === 'live') await tellAway('replaced');
    await pass(100);
  }
  assert.equal(connects(), 3);
  client.reconnect(); // and who asks for it need not wait
  await settled();
  assert.equal(is().state, 'live');
  client.close();
});

// One connection a profile, two devices.
await test('two devices', async () => {
  const { greet } = hub;
  hub.greet = (stream) => {
    for (const other of streams.filter((one) => one !== stream)) {
      other.say('hub.closing', { reason: 'replaced', retryMs: 300_000 });
      other.close();
    }
    greet(stream);
  };
  const one = await listen(), two = await listen();
  await pass(LONG);
  assert.equal(connects(), 2);
  assert.deepEqual([one.is().state, two.is().state], ['displaced', 'live']);
  publish(1);
  one.client.reconnect();
  await pass(LONG);
  assert.equal(connects(), 3);
  publish(2);
  await settled();
  assert.deepEqual([one.is().state, two.is().state], ['live', 'displaced']);
  assert.deepEqual([one.heard, two.heard], [[1, 2], [1]]);
  hub.greet = greet;
  one.client.close();
  two.client.close();
});

// What stands in between may not say that the stream is over: its last word is enough.
await test('a stream that does not end', async () => {
  const { client, is } = await listen();
  streams[0].say('hub.closing', { reason: 'kicked', retryMs: 300_000 });
  await settled();
  assert.deepEqual([is().state, streams.length], ['displaced', 0]);
  client.close();
});

// ---- all tabs of a person are of one mind ----

async function tab(isSeen = true) {
  look(isSeen);
  happens = newPage();
  const one = { ...await listen({ share: true }), happens };
  look(true);
  return one;
}
const states = (...tabs) => tabs.map(({ is }) => is().state);
const all = (state, n) => Array(n).fill(state);

await test('tabs', async () => {
  const [one, two, three] = [await tab(), await tab(), await tab()];
  publish(1);
  await settled();
  await tellAway('replaced');
  assert.deepEqual(states(one, two, three), all('displaced', 3));
  assert.deepEqual(two.is().reason, 'replaced');
  publish(2);
  await pass(LONG);
  one.client.close(); // who leads next stays away as well
  await pass(LONG);
  assert.deepEqual([two.is().leader, ...states(two, three)], [true, 'displaced', 'displaced']);
  const four = await tab(false); // opened, but not looked at
  await pass(LONG);
  assert.equal(connects(), 1);
  assert.equal(four.is().state, 'displaced');

  for (let i = 0; i < 5; i++) three.happens('keydown'); // in one that does not lead
  await settled();
  assert.equal(connects(), 2);
  assert.deepEqual(states(two, three, four), all('live', 3));
  assert.deepEqual([two.heard, three.heard, four.heard], [[1, 2], [1, 2], [2]]);
  await pass(LONG);
  assert.equal(connects(), 2);

  await tellAway('kicked');
  two.client.reconnect();
  await settled();
  assert.deepEqual([connects(), ...states(two, three, four)], [3, ...all('live', 3)]);
  await pass(30 * SECOND);
  await tellAway('kicked');
  const five = await tab(); // who opens another is there
  assert.deepEqual([connects(), ...states(two, three, four, five)], [4, ...all('live', 4)]);
  for (const { client } of [two, three, four, five]) client.close();
});

await test('a page that comes back, alone', async () => {
  const one = await tab();
  publish(1);
  await settled();
  await tellAway('replaced');
  one.happens('pagehide', {});
  publish(2);
  await pass(LONG);
  assert.equal(connects(), 1);
  one.happens('pageshow', { persisted: true });
  await settled();
  assert.deepEqual([connects(), one.is().state, one.heard], [2, 'live', [1, 2]]);
  one.client.close();
});
