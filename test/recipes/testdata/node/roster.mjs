// Whom the console remembers; its folder is the argument. There is no page but what its roster needs of one.
import assert from 'node:assert/strict';
import { join } from 'node:path';

let now = 1_800_000_000_000, timers = [];
globalThis.setTimeout = (fn, ms) => timers.push({ fn, at: now + ms });
performance.now = () => now;
globalThis.IntersectionObserver = class { observe() {} };
const elements = new Map();
const element = () => ({ children: [], dataset: {}, classList: { toggle() {} }, append(...more) { this.children.push(...more); }, replaceChildren(...all) { this.children = all; } });
globalThis.document = {
  addEventListener() {},
  createElement: element,
  getElementById(id) {
    if (!elements.has(id)) elements.set(id, { ...element(), parentElement: element() });
    return elements.get(id);
  },
};
const { startRoster } = await import(join(process.argv[2], 'roster.js'));

async function pass(ms) {
  now += ms;
  const due = timers.filter(({ at }) => at <= now);
  timers = timers.filter((timer) => !due.includes(timer));
  for (const { fn } of due) fn();
  await new Promise(setImmediate);
}
const service = Object.assign(new EventTarget(), { tenant: 't', mayCall: true, path: (rest) => rest, call: async () => ({ ok: true, data: { profiles: [] } }) });
const roster = startRoster(service, () => []);
const shown = () => elements.get('presence').children.map(({ dataset }) => dataset.status ?? 'more');
const says = (id, status) => roster.take({ type: `presence.${status}`, tenantId: 't', payload: { profile: { type: 'user', id }, status, lastActiveAt: null } });

await pass(0);
says('here', 'online');
for (let i = 0; i < 1000; i++) says(`gone-${i}`, 'offline');
await pass(1000);
const all = ['online', ...Array(199).fill('offline'), 'more'];
assert.deepEqual(shown(), all);
await pass(120_000);
says('gone-7', 'offline'); // a moment ago, though it is not shown
await pass(1000);
assert.deepEqual([shown(), elements.get('presence').children.at(-1).children], [all, ['and 1 more']]);
says('gone-7', 'online');
await pass(1000);
assert.deepEqual(roster.known(), ['user:gone-7', 'user:here']);
