// What a page does with the stock client of SignalR: it hears, it asks, it comes back, it leaves.
import assert from 'node:assert/strict';
import { call, connection, heard, publish } from './world.mjs';

const me = connection('me'), you = connection('you');
await Promise.all([me.start(), you.start()]);
const [[ready, cursor]] = await me.first('hub.ready').then(() => me.told['hub.ready']);
assert.deepEqual(ready.profile, { type: 'user', id: 'me' });
assert.equal(ready.resume, 'fresh');
assert.equal(ready.cursor, cursor);
assert.equal(ready.connectionId.slice(0, -8), me.connectionId.slice(0, -8)); // the rest is of the hub that holds it

// Events come once and in order, with their envelopes and cursors.
for (let n = 1; n <= 30; n++) await publish('me', n);
assert.deepEqual(await heard(me, 'me'), Array.from({ length: 30 }, (_, n) => n + 1));
const [last, lastCursor] = me.told['a.b'].at(-1);
assert.equal(last.tenantId, 'acme');
assert.equal(typeof lastCursor, 'string');

// Verbs, by names without regard to case.
await call('PUT', '/v1/tenants/acme/conversations/7/members', { members: ['user:me', 'user:you'] });
assert.equal(await me.invoke('StartTyping', '7'), undefined);
assert.equal((await you.first('typing.started')).at(0).payload.conversationId, '7');
await me.invoke('stoptyping', '7');
assert.deepEqual((await you.first('typing.stopped')).at(1), null); // it has no place
await me.invoke('Touch');
await me.invoke('Ack', lastCursor);
await me.invoke('Watch', ['user:you', { type: 'user', id: 'them' }]);
await me.invoke('Watch', []);
const people = await me.invoke('GetPresence', ['user:you', 'user:nobody']);
assert.deepEqual(people.map(({ profile, status }) => [profile.id, status]), [['you', 'online'], ['nobody', 'offline']]);
await me.invoke('Filter', ['c.*', 'marker']);
await publish('me', 'kept back');
await publish('me', 'comes', 'c.d');
assert.equal((await heard(me, 'me')).length, 30);
assert.deepEqual(await heard(me, 'me', 'c.d'), ['comes']);
await me.invoke('Filter', ['a.*', 'marker']);

// What cannot be done is an error that says why, and not the end.
const fails = async (pattern, method, ...args) => assert.rejects(me.invoke(method, ...args), pattern, method);
await fails(/target: there is no such method/, 'Nothing');
await fails(/arguments: conversationId is needed/, 'StartTyping');
await fails(/arguments: the method takes none/, 'Touch', 1);
await fails(/conversationId: must be a string/, 'StartTyping', 7);
await fails(/conversationId: /, 'StopTyping', '');
await fails(/NotAMember/, 'StartTyping', 'elsewhere');
await fails(/UnknownCursor/, 'Ack', 'nowhere');
await fails(/cursor: is needed/, 'Ack', null);
await fails(/profiles: must be an array/, 'Watch', 'user:you');
await fails(/profiles: must be an array/, 'Watch', null);
await fails(/profiles\[0\]/, 'GetPresence', ['Bad:x']);
await fails(/profiles: 200 profiles at most/, 'GetPresence', Array.from({ length: 201 }, (_, n) => `user:${n}`));
await fails(/types\[1\]: must be a string|types\[1\]/, 'Filter', ['a.*', 5]);
await assert.rejects(new Promise((complete, error) => me.stream('Touch').subscribe({ next() {}, complete, error })), /streams are neither sent nor taken/);

// Nobody waits for what is only sent, and a client that leaves takes its place along.
await me.send('StartTyping', '7');
await you.first('typing.started', () => you.told['typing.started'].length === 2);
await me.stop();
await publish('me', 31);
const back = connection('me', `&cursor=${lastCursor}`);
await back.start();
assert.deepEqual(await heard(back, 'me'), ['kept back', 31]);
assert.equal(back.told['hub.ready'][0][0].resume, 'complete');

// Who is kicked is told so, and stays away.
await call('DELETE', '/v1/tenants/acme/connections?profile=user:me');
assert.match((await back.closed)?.message ?? '', /kicked/);
assert.equal(back.told['hub.closing'][0][0].reason, 'kicked');
await you.stop();
