// A world for realtime.js in which nothing happens by itself: time, the hub, and what a browser's tabs share.

// ---- time passes when it is told to ----

const soon = globalThis.setImmediate;
let now = 1_800_000_000_000, ahead = 0; // what the pages' clock is, ms
export const timers = new Set();
const add = (fn, ms = 0, every = false) => {
  const timer = { fn, at: now + ms, every: every && ms };
  timers.add(timer);
  return timer;
};
globalThis.setTimeout = (fn, ms) => add(fn, ms);
globalThis.setInterval = (fn, ms) => add(fn, ms, true);
globalThis.clearTimeout = globalThis.clearInterval = (timer) => timers.delete(timer);
Date.now = () => now + ahead;
performance.now = () => now;

/** Until all that could happen by now has. */
export async function settled() {
  for (let i = 0; i < 30; i++) await new Promise(soon);
}

export async function pass(ms) {
  const end = now + ms;
  for (;;) {
    await settled();
    const [next] = [...timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
    if (!next) break;
    now = Math.max(now, next.at);
    if (next.every) next.at += next.every;
    else timers.delete(next);
    next.fn();
  }
  now = end;
  await settled();
}

/** The pages' clock is set. The hub's is not, nor does anything else take notice: what waits goes on waiting. */
export function setClock(ms) { ahead += ms; }
export const clock = () => now; // the hub's

// ---- the hub answers what the test has it answer ----

export const asked = []; // all that it was asked
export const streams = []; // those that are open
let ids = 0;
export const hub = { answer: () => undefined, n: 0, history: [], says: {} }; // says: more in hub.ready

/** One that says what the test has it say. */
class FakeStream {
  id = `connection-${++ids}`;
  #out;

  constructor(request, signal) {
    this.request = request;
    this.types = request.query.get('types')?.split(',');
    this.body = new ReadableStream({ start: (out) => { this.#out = out; } });
    signal?.addEventListener('abort', () => this.#end(() => this.#out.error(signal.reason)));
    streams.push(this);
  }

  get response() { return new Response(this.body, { headers: { 'Content-Type': 'text/event-stream' } }); }

  raw(text) { this.bytes(new TextEncoder().encode(text)); }
  bytes(bytes) { this.#out.enqueue(bytes); }
  say(type, data, cursor) { this.raw(`${cursor ? `id: ${cursor}\n` : ''}event: ${type}\ndata: ${JSON.stringify(data)}\n\n`); }
  ready(more, place = hub.n) {
    this.isReady = true;
    const [tenantId, profile] = ['t', { type: 'user', id: 'me' }];
    this.say('hub.ready', { connectionId: this.id, tenantId, profile, connectedAt: new Date(now).toISOString(), resume: 'fresh', heartbeatMs: 0, ...more }, `c-${place}`);
  }
  event(event) { this.say(event.type, event, event.cursor); }
  wants(type) { return !this.types || this.types.includes('*') || this.types.includes(type); }
  close() { this.#end(() => this.#out.close()); }

  #end(how) {
    if (!streams.includes(this)) return;
    streams.splice(streams.indexOf(this), 1);
    how();
  }
}

globalThis.fetch = async (address, { method, headers, body, signal, keepalive }) => {
  const url = new URL(address);
  const request = { method, path: url.pathname, query: url.searchParams, headers, body: body && JSON.parse(body), keepalive };
  asked.push(request);
  await null;
  signal?.throwIfAborted();
  let leave;
  const left = new Promise((_, fail) => { leave = () => fail(signal.reason); });
  signal?.addEventListener('abort', leave);
  const answer = await Promise.race([hub.answer(request), left]);
  signal?.removeEventListener('abort', leave);
  if (answer instanceof Error) throw answer;
  if (answer instanceof Response) return answer;
  const changed = streams.find(({ id }) => method === 'PATCH' && url.pathname.endsWith(id));
  if (changed) changed.types = request.body.types;
  if (request.path !== '/v1/stream') return new Response(null, { status: 204 });
  const stream = new FakeStream(request, signal);
  if (answer !== 'silence') hub.greet(stream);
  return stream.response;
};

/** As the hub does: what was missed since the cursor comes first. */
hub.greet = (stream) => {
  const since = Number(stream.request.headers['Last-Event-ID']?.slice(2) ?? hub.n);
  stream.ready({ resume: stream.request.headers['Last-Event-ID'] ? 'complete' : 'fresh', ...hub.says }, since);
  for (const event of hub.history.slice(since)) if (stream.wants(event.type)) stream.event(event);
};

/** An event to all streams that are open. */
export function publish(payload, type = 'a.b', more = {}) {
  const event = { id: `event-${++hub.n}`, type, payload, timestamp: 'then', cursor: `c-${hub.n}`, ...more };
  hub.history.push(event);
  for (const stream of streams) if (stream.isReady && stream.wants(type)) stream.event(event);
}

// ---- what the tabs of a browser share ----

const held = [], waiting = []; // locks
let untold = null;

/** Who is robbed of a lock learns of it when the function that this gives is called. */
export function stealInSecret() {
  untold = [];
  return () => {
    for (const tell of untold) tell();
    untold = null;
  };
}

/** A lock is lost, as when its page is gone. */
export const lose = (end) => locks.request(held.find(({ name }) => name.endsWith(end)).name, { steal: true }, () => {});

const grant = () => {
  for (const one of [...waiting]) {
    const rivals = [...held, ...waiting.slice(0, waiting.indexOf(one))].filter(({ name, mode }) => name === one.name && (mode === 'exclusive' || one.mode === 'exclusive'));
    if (rivals.length) continue;
    waiting.splice(waiting.indexOf(one), 1);
    hold(one);
  }
};
const hold = async (one) => {
  held.push(one);
  await null;
  const over = () => {
    if (held.includes(one)) held.splice(held.indexOf(one), 1);
    grant();
  };
  Promise.resolve(one.fn({ name: one.name })).then((value) => { over(); one.resolve(value); }, (error) => { over(); one.reject(error); });
};
const locks = {
  request: (name, { mode = 'exclusive', steal = false, signal } = {}, fn) => new Promise((resolve, reject) => {
    const one = { name, mode, fn, resolve, reject };
    if (signal?.aborted) return reject(signal.reason);
    if (steal) {
      for (const other of held.filter((lock) => lock.name === name)) {
        held.splice(held.indexOf(other), 1);
        const tell = () => other.reject(new DOMException('stolen', 'AbortError'));
        if (untold) untold.push(tell);
        else tell();
      }
      return hold(one);
    }
    signal?.addEventListener('abort', () => {
      if (!waiting.includes(one)) return;
      waiting.splice(waiting.indexOf(one), 1);
      reject(signal.reason);
      grant();
    });
    waiting.push(one);
    grant();
  }),
  query: async () => {
    const [some, others] = [held, waiting].map((list) => list.map(({ name, mode }) => ({ name, mode })));
    return { held: some, pending: others };
  },
};

export const channels = []; // in the order in which they were opened
globalThis.BroadcastChannel = class {
  isDeaf = false; // what it is told is lost
  late = null; // what a page that stands still has yet to hear
  constructor(name) {
    this.name = name;
    channels.push(this);
  }

  postMessage(data) {
    for (const other of channels.filter((one) => one !== this && one.name === this.name)) {
      const message = structuredClone(data);
      const deliver = () => soon(() => { if (channels.includes(other)) other.onmessage({ data: message }); });
      if (other.late) other.late.push(deliver);
      else if (!other.isDeaf) deliver();
    }
  }

  close() { channels.splice(channels.indexOf(this), 1); }

  /** This tab hears nothing until the function that it gives is called. */
  stall() {
    this.late = [];
    return () => {
      for (const deliver of this.late) deliver();
      this.late = null;
    };
  }
};

// Node is a browser from here on.
Object.defineProperty(globalThis, 'navigator', { value: { locks } });
globalThis.location = new URL('http://page');
let page, visibilityState = 'visible';
globalThis.addEventListener = (...args) => page.addEventListener(...args);

/** A page of its own for the next client; what it gives has something happen to it. */
export function newPage() {
  const own = page = new EventTarget();
  globalThis.document = { addEventListener: addEventListener.bind(null), get visibilityState() { return visibilityState; } };
  return (type, more) => own.dispatchEvent(Object.assign(new Event(type), more));
}

/** All pages are looked at, or hidden. */
export const look = (at) => { visibilityState = at ? 'visible' : 'hidden'; };
