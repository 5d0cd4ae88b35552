// The browser's side of a realtime hub, and Node's: one module, no dependency, no build.
//
//   Client   what an application holds: listeners, typing, presence, activity
//   Watcher  the profiles of one presence.watch
//   Shared   all tabs with one identity on one stream: who leads, who is told
//   Stream   one stream that is kept open: token, filter, reconnecting, acknowledging
//   Line     what came, in order, and how far it has been handled
//   Choice   which transport the network lets through
//   over…    a stream by one transport: what the hub says, as {type, data, cursor}
//   Door     the hub's address and this person's credential

const RETRY_MS = 2000; // until the hub says how long
const RETRY_MOST_MS = 30_000; // and between two times that activity ends a displacement
const LONGEST_MS = 2 ** 31 - 1; // that a timer takes
const ANSWER_MS = 20_000; // until a call, or the first try of a stream that does not begin, is given up
const SILENCE_MS = 15_000; // at least, until a stream is taken for dead
const BEGIN_MS = 8000; // for a stream to begin, until it is asked whether the hub answers at all
const SOON_MS = 10_000; // a stream that is lost within this time after its beginning was cut
const MOST_CUT = 3; // in a row, before another transport is tried
const CHOICE_MS = 86_400_000; // that a choice is remembered
const POLL_MS = 25_000; // that a poll waits; most proxies give up on an answer after 30 s or a minute
const SETTLE_MS = 1000; // after which a poll will have come to the hub
const OWED_MS = 4000; // that the next poll waits for what is to be acknowledged; the hub takes a client for gone after 10 s
const WATCHDOG_MS = 5000;
const PROD_MS = 5000; // for the hub to answer a prod
const RENEWAL_MS = 5000; // between two, whatever the hub says
const TOUCH_MS = 20_000;
const TYPING_MS = 3000; // half of the hub's default TYPING_TTL
const LEADER_MS = 5000; // until a leader that does not answer is deposed
const SIBLINGS_MS = 2000; // until a sibling that does not say how far it is is not waited for
const DIGEST_MS = 3000; // between two questions that digests cause
const MOST_LISTED = 200; // the hub's bound of a filter and of a watch list
const MOST_IN_ADDRESS = 2000; // characters of a list; proxies take 8 KiB of all
const MOST_ASKED = 40; // profiles at once, for the same reason
const REMEMBERED = 2000; // events, to know repeats by
const HELD_MS = 60_000; // an event without a deadline that is not handled, before what follows counts
const LATE_MS = 2000; // after its deadline one with a deadline: the hub may count what is handled until then
const DRIFT = 1.001; // clocks that are kept right may gain or lose 0.05 % each
const TELL_MS = 100; // between two times that a tab says how far it is
const KEPT = 1 << 20; // characters of batches, for a sibling that missed some

/** See realtime.d.ts. */
export function connect(options) {
  const client = new Client(options);
  return Object.freeze({
    get id() { return client.id; },
    get status() { return client.status; },
    get cursor() { return client.cursor; },
    on: (type, fn) => client.on(type, fn),
    onGap: (fn) => {
      checkFunction(fn, 'a listener');
      return client.on('hub.gap', ({ payload }) => fn(payload));
    },
    onStatus: (fn) => client.onStatus(fn),
    onError: (fn) => client.onError(fn),
    typing: (conversation) => client.typing(conversation),
    presence: Object.freeze({
      watch: (profiles, fn) => client.watch(profiles, fn),
      get: (profiles) => client.ask(profiles),
    }),
    touch: () => client.touch(),
    reconnect: () => client.reconnect(),
    close: () => client.close(),
  });
}

// randomUUID is for secure contexts only.
const newID = () => crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');
const textOf = (profile) => (typeof profile === 'string' ? (profile.includes(':') ? profile : `user:${profile}`) : `${profile?.type}:${profile?.id}`);
const matches = (pattern, type) => pattern === type || (pattern.endsWith('*') && type.startsWith(pattern.slice(0, -1)));
const union = (lists) => [...new Set(lists.flat())].sort();
const isHidden = () => globalThis.document?.visibilityState === 'hidden';
const growing = (ms, failures) => Math.min(ms * 2 ** Math.min(failures, 5), Math.max(RETRY_MOST_MS, ms)) * (0.5 + Math.random());

/** An error of the page's own, as if it had not been caught. */
function report(error) {
  if (globalThis.reportError) reportError(error);
  else console.error(error);
}

/** Calls fn; what it throws is the page's to report, and nobody else's. */
function tell(fn, ...values) {
  try { fn(...values); } catch (error) { report(error); }
}

/** A signal that ends after a time, or with another; done lets go of both. */
function within(ms, outer) {
  const controller = new AbortController();
  const end = () => controller.abort();
  const timer = setTimeout(end, ms);
  if (outer?.aborted) end();
  else outer?.addEventListener('abort', end);
  return {
    signal: controller.signal,
    done() {
      clearTimeout(timer);
      outer?.removeEventListener('abort', end);
    },
  };
}

/** Waits, or until signal ends. */
async function pause(ms, outer) {
  const { signal, done } = within(ms, outer);
  if (!signal.aborted) await new Promise((over) => { signal.addEventListener('abort', over); });
  done();
}

// ---- what the hub would refuse is refused before it gets there: a stream that all tabs
// share must not fail for the mistake of one ----

const OPTIONS = ['url', 'token', 'tenant', 'profile', 'types', 'presence', 'meta', 'share', 'cursor', 'transport'];

function checkNames(options) {
  for (const name of Object.keys(options)) {
    if (OPTIONS.includes(name)) continue;
    const lower = name.toLowerCase();
    const near = OPTIONS.find((known) => lower.includes(known) || known.includes(lower));
    throw new TypeError(`realtime: there is no option ${JSON.stringify(name)}${near ? `, ${near}?` : `: ${OPTIONS.join(', ')}`}`);
  }
}

function checkFunction(fn, name) {
  if (typeof fn !== 'function') throw new TypeError(`realtime: ${name} must be a function`);
}

function checkedTypes(types) {
  const isType = (type) => typeof type === 'string' && type.length <= 128 && /^(\*|[A-Za-z][A-Za-z0-9._-]*(\.\*)?)$/.test(type);
  if (!Array.isArray(types) || types.length > MOST_LISTED || !types.every(isType)) {
    throw new TypeError(`realtime: types must be up to ${MOST_LISTED} types, such as "post.created" or "message.*"`);
  }
  return types.includes('*') ? null : union([types]);
}

function checkedProfiles(profiles, name, most = Infinity) {
  const isProfile = (text) => /^[a-z0-9_-]{1,32}:[^\p{Cc}\p{Cs}]+$/u.test(text)
    && !/^[^:]*:\.\.?$/.test(text) && new TextEncoder().encode(text.slice(text.indexOf(':') + 1)).length <= 256;
  const isNamed = (profile) => typeof profile === 'string' || (typeof profile?.type === 'string' && typeof profile.id === 'string');
  const texts = Array.isArray(profiles) && profiles.every(isNamed) ? profiles.map(textOf) : [''];
  if (!texts.every(isProfile)) throw new TypeError(`realtime: ${name} must be profiles, such as "user:42"`);
  if (texts.length > most) throw new TypeError(`realtime: ${name} must be ${most} profiles at most`);
  return union([texts]);
}

function checkedMeta(meta) {
  const isText = (text) => typeof text === 'string' && !/[\p{Cc}\p{Cs}]/u.test(text) && new TextEncoder().encode(text).length <= 256;
  const entries = Object.entries(meta ?? {});
  if (entries.length > 16 || !entries.every(([key, value]) => key && isText(key) && isText(value))) {
    throw new TypeError('realtime: meta must be up to 16 strings of up to 256 bytes');
  }
  return meta ?? {};
}

function parsedURL(text) {
  try { return new URL(text, globalThis.location?.href).href; } catch { return ''; }
}

function parsed(text) {
  try { return JSON.parse(text); } catch { return undefined; }
}

// ---- the hub's address, and who asks ----

class TokenError extends Error {
  get problem() { return { status: 0, title: 'token() failed', code: 'TokenFailed', detail: this.message }; }
}
class PersonError extends Error {} // a token of somebody else than before

class Door {
  #options; #base; #token = ''; #refused = ''; #asking = null; #person = '';
  #failing = new Set(); // what was complained of, and has not gone well since
  skew = 0; // what the hub's clock is ahead of ours, ms: known as a connection begins
  connection = ''; // the last; polls may go on with it, also in another Stream
  id = newID(); // by which the hub knows polls of one client
  deadlines = new Deadlines();

  constructor(options) {
    this.#options = options;
    const text = String(options.url ?? globalThis.location?.origin ?? ''), address = parsedURL(text);
    if (!text) throw new TypeError('realtime: url is needed outside of a page');
    if (!/^https?:/.test(address)) throw new TypeError('realtime: url must be of http or https');
    if (/[?#]|^[^/]+\/\/[^/]*@/.test(address)) throw new TypeError('realtime: url must have no query, no fragment and no credentials');
    this.#base = address.replace(/\/+$/, ''); // each call's path goes behind it
    if (options.token !== undefined) checkFunction(options.token, 'token');
    if (!['undefined', 'boolean', 'string'].includes(typeof options.share)) throw new TypeError('realtime: share must be true, false or a text');
    if (!options.token && !options.tenant !== !options.profile) throw new TypeError('realtime: tenant and profile go together');
    this.choice = new Choice(parsedURL(this.#base), options.transport);
  }

  get hasToken() { return Boolean(this.#options.token); }
  /** Whether another credential may be had than the one that was refused: the page's next, or a cookie of a later login. */
  get mayChange() { return this.hasToken || !this.#options.tenant; }

  /** Says in the console what goes wrong, once until it goes well again, and never what a token is. */
  complain(about, trouble, ...more) {
    if (this.#failing.has(about)) return;
    this.#failing.add(about);
    console.error(`realtime: ${trouble}`, ...more);
  }

  /** What tells this person from others who use this browser; '' where only the cookie knows. */
  async identity() {
    const { tenant, profile, share } = this.#options;
    if (typeof share === 'string') return share && JSON.stringify([this.#base, share]);
    if (this.hasToken) {
      const claims = claimsOf(await this.token());
      // All of the token but what changes from one to the next: where more changes, nothing is shared.
      for (const name of ['exp', 'iat', 'nbf', 'jti', 'auth_time']) delete claims?.[name];
      return claims ? JSON.stringify([this.#base, Object.entries(claims).sort()]) : '';
    }
    return tenant ? JSON.stringify([this.#base, tenant, textOf(profile)]) : '';
  }

  /** The token, asked for anew where it ends soon or was refused, or where fresh says so. */
  async token(fresh = false) {
    if (!fresh && this.#token && this.#token !== this.#refused && !(this.life() < 5000)) return this.#token;
    this.#asking ??= this.#ask().finally(() => { this.#asking = null; });
    let token;
    try {
      token = await this.#asking;
    } catch (error) {
      if (!fresh && this.#token !== this.#refused && this.life() > 0) return this.#token; // it is still good
      throw error;
    }
    const claims = claimsOf(token);
    if (claims) { // what claims nothing is nobody's: an error page, or not a JWT
      const person = JSON.stringify([claims.sub, claims.tenant]);
      this.#person ||= person;
      if (person !== this.#person) throw new PersonError(CHANGED);
    }
    return (this.#token = token);
  }

  async #ask() {
    const { signal, done } = within(ANSWER_MS);
    const late = new Promise((answer) => { signal.addEventListener('abort', () => answer(signal)); });
    let trouble, thrown = [];
    try {
      const token = await Promise.race([(async () => this.#options.token())(), late]);
      if (token && typeof token === 'string') {
        this.#failing.delete('token');
        return token;
      }
      trouble = token === signal ? 'did not answer' : `gave no text (${token === '' ? 'an empty one' : token === null ? 'null' : typeof token})`;
    } catch (error) {
      trouble = `threw ${error?.name ?? typeof error}`;
      thrown = [error]; // the page's own; nothing of it is said elsewhere
    } finally {
      done();
    }
    this.complain('token', `token() ${trouble}; it is asked again`, ...thrown);
    throw new TokenError(`token() ${trouble}`);
  }

  /** How long the token lives, ms; undefined where it does not say. */
  life() {
    const exp = claimsOf(this.#token)?.exp;
    return typeof exp === 'number' ? exp * 1000 - (Date.now() + this.skew) : undefined;
  }

  /** Asks the hub. Where it refuses a token that was had before, another is asked for. */
  async request(method, path, options = {}) {
    const { query = [], body, headers, signal, keepalive, fresh = false } = options;
    const { tenant, profile } = this.#options, before = this.#token;
    let token = '';
    const search = new URLSearchParams(query);
    const init = { method, cache: 'no-store', headers: { ...headers }, signal, ...(keepalive && { keepalive }) };
    if (body) {
      init.headers['Content-Type'] = 'application/json';
      init.body = JSON.stringify(body);
    }
    if (this.hasToken) {
      token = await this.token(fresh);
      init.headers.Authorization = `Bearer ${token}`;
    } else if (tenant) {
      search.set('tenant', tenant);
      if (!search.has('profile')) search.set('profile', textOf(profile));
      else init.headers['X-Profile-Id'] = String.fromCharCode(...new TextEncoder().encode(textOf(profile))); // the query asks about others
    } else {
      init.credentials = 'include';
    }
    const answer = await fetch([this.#base + path, ...(String(search) ? [search] : [])].join('?'), init);
    if (answer.status !== 401) {
      if (token === this.#refused) this.#refused = '';
      return answer;
    }
    this.#refused = token;
    if (fresh || token !== before || !this.hasToken) return answer;
    answer.body?.cancel().catch(() => {});
    return this.request(method, path, { ...options, fresh: true });
  }

  /** A WebSocket. A page can give it no header, so a token is a subprotocol. */
  async socket(path, query) {
    const { tenant, profile } = this.#options, search = new URLSearchParams(query), protocols = ['realtime.v1'];
    if (this.hasToken) protocols.push(`bearer.${await this.token()}`);
    else if (tenant) for (const [name, value] of [['tenant', tenant], ['profile', textOf(profile)]]) search.set(name, value);
    return new WebSocket(`${this.#base}${path}?${search}`.replace(/^http/, 'ws'), protocols);
  }

  /** Has another token asked for. */
  distrust() { this.#refused = this.#token; }

  /** Whether the hub answers a short call. */
  async answers(signal) {
    const { status } = await this.call('HEAD', '/v1/poll', { signal });
    return status > 0 && status < 500;
  }

  /** A call of the hub: its status, 0 where none came, and the JSON that it answered. */
  async call(method, path, options = {}) {
    const { signal, done } = within(ANSWER_MS, options.signal);
    try {
      const answer = await this.request(method, path, { ...options, signal });
      const { status, ok } = answer, data = parsed(await answer.text()), about = `${method} ${path.split('/').at(-1)}`;
      if (ok) this.#failing.delete(about);
      // Of a credential, a stream that has just ended, and a hub that is away the status tells.
      else if (status < 500 && status !== 401 && status !== 404) this.complain(about, `${method} ${path}: ${status} ${data?.code ?? ''}`);
      return { status, ok, data };
    } catch (error) {
      return { status: 0, ok: false, error };
    } finally {
      done();
    }
  }
}

/** What a JWT claims; undefined for any other token. */
function claimsOf(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/')), (c) => c.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    return claims && typeof claims === 'object' ? claims : undefined;
  } catch { return undefined; }
}

// ---- transports ----
//
// Each is one stream, from its beginning to its end, as {events, size, retry, connectionId}: events are {type, data,
// cursor} with data as text, of which one that only moves the cursor has the type ''; size is the characters that came
// just now, which may be less than an event or more; retry is ms, where the hub says so; connectionId is there where the
// hub may have given the stream another. The same stream is asked for by
//
//   ask      gives the query as it is to be now
//   place    the cursor behind which it begins; '' for now
//   resume   what goes into the query beside it
//   signal   ends it
//   isOwing  waits for what is to be acknowledged, for a while, and says whether it still is
//
// A transport on which a page sees no heartbeat adds prod, which has the hub answer.

/** The hub, or whoever answered in its place, gave no stream but a reason. */
class Refusal extends Error {
  constructor(problem, retryMs = 0) {
    super(problem.title);
    [this.problem, this.retryMs] = [problem, retryMs];
  }
}
class Held extends Error {} // the hub answers, but not by this transport

async function refusalOf(answer) {
  const problem = { status: answer.status, title: answer.statusText || `status ${answer.status}` };
  // Who answers in problem details is the hub; anything else stands in between, and may be gone soon.
  if (isKind(answer, 'application/problem+json')) return new Refusal(Object.assign(problem, await answer.json()), 1000 * answer.headers.get('Retry-After') || 0);
  answer.body?.cancel().catch(() => {});
  return new Refusal(problem);
}
const isKind = (answer, kind) => (answer.headers.get('Content-Type') ?? '').startsWith(kind);

/** Server-Sent Events (HTML standard, section 9.2): what each chunk ends. */
async function* overSSE(door, { ask, place, resume, signal }) {
  const headers = { Accept: 'text/event-stream', ...(place && { 'Last-Event-ID': place }) };
  const answer = await door.request('GET', '/v1/stream', { query: [...ask(), ...resume], headers, signal });
  if (answer.status !== 200 || !isKind(answer, 'text/event-stream')) throw await refusalOf(answer);
  yield { events: [], size: 0 };
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let rest = '', type = '', data = [], id = place, cursor = place, events = [], retry;
  const line = (text) => {
    if (!text) {
      if (data.length) events.push({ type: type || 'message', data: data.join('\n'), cursor: id });
      else if (id !== cursor) events.push({ type: '', data: '', cursor: id });
      cursor = id;
      type = '';
      data = [];
      return;
    }
    const colon = text.indexOf(':');
    const field = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? '' : text.slice(colon + (text[colon + 1] === ' ' ? 2 : 1));
    if (field === 'data') data.push(value);
    else if (field === 'event') type = value;
    else if (field === 'id' && !value.includes('\0')) id = value;
    else if (field === 'retry' && /^\d+$/.test(value)) retry = Math.min(Number(value), LONGEST_MS);
  };
  while (!signal.aborted) { // Node's fetch leaves a read waiting when the body was whole before the abort
    const { done, value } = await reader.read();
    if (done) return; // what is unfinished is dropped
    const text = decoder.decode(value, { stream: true });
    const lines = (rest + text).split(/\r\n|\n|\r(?!$)/); // a CR at the end may be half of a line's end
    rest = lines.pop();
    lines.forEach(line);
    yield { events, size: text.length, retry };
    events = [];
  }
}

/** A WebSocket: each line of a text is {id, event, data}, or the answer to a command. */
async function* overWebSocket(door, stream) {
  const { ask, place, resume, signal } = stream;
  const socket = await door.socket('/v1/socket', [...ask(), ['cursor', place], ...resume]);
  let texts = [], isOpen = false, cursor = place, retry, wake;
  socket.onopen = () => { isOpen = true; };
  socket.onmessage = ({ data }) => {
    texts.push(data);
    wake?.();
  };
  socket.onclose = signal.onabort = () => wake?.();
  stream.prod = () => socket.send('{"n":1,"do":"filter"}'); // which changes nothing
  const eventOf = ({ id, event = '', data }) => {
    if (event === 'hub.ready') retry = data.retryMs;
    if (event === 'hub.closing' && data.reason === 'refused') {
      if (data.problem.status === 401) door.distrust();
      throw new Refusal(data.problem);
    }
    return { type: event, data: event && JSON.stringify(data), cursor: cursor = id ?? cursor };
  };
  try {
    for (;;) {
      signal.throwIfAborted();
      if (texts.length) {
        const lines = texts.join('\n');
        texts = [];
        const events = lines.split('\n').map((line) => JSON.parse(line)).filter(({ n }) => n === undefined).map(eventOf);
        yield { events, size: lines.length, retry };
      } else if (socket.readyState === WebSocket.CLOSED) break;
      else await new Promise((news) => { wake = news; });
    }
    // A page is not told why it was not opened.
    if (!isOpen) throw await door.answers(signal) ? new Held() : new Error('the hub does not answer');
  } finally {
    socket.close();
  }
}

/**
 * Polls, each of which goes on where the answer before it ended. Its cursor acknowledges what comes before it, so what is
 * to be acknowledged is waited for. One that takes too long ends the stream, as the hub ends others.
 */
async function* overPoll(door, { ask, place, resume, signal, isOwing }) {
  let cursor = place, from = resume; // the connection that a poll comes back from: another hub may take the next one
  const poll = async (after, wait) => {
    const query = [...ask(), ...from, ['client', door.id], ['cursor', after], ['wait', `${wait}ms`]];
    const answer = await door.request('GET', '/v1/poll', { query, signal });
    const end = answer.headers.get('Cursor');
    if (answer.status === 204 && end) return { events: [], cursor: end, hub: {}, size: 0 };
    if (answer.status !== 200 || !isKind(answer, 'application/json')) throw await refusalOf(answer);
    const text = await answer.text();
    return { ...JSON.parse(text), size: text.length };
  };
  const event = (type, data, at) => (data ? [{ type, data: JSON.stringify(data), cursor: cursor = at || cursor }] : []);
  const eventsOf = ({ ready, gap, events, cursors, hub, cursor: end }) => [
    ...event('hub.ready', ready, ready?.resume === 'partial' ? '' : ready?.cursor),
    ...event('hub.gap', gap, gap?.cursor),
    ...events.flatMap((envelope, i) => event(envelope.type, envelope, cursors[i])),
    { type: '', data: '', cursor: cursor = end || cursor },
    ...event('hub.expiring', hub.expiring),
    ...event('hub.closing', hub.closing),
  ];
  // Only an answer that has something tells of the connection, or one that is asked for the place now.
  let answer = await poll('', 0), { ready } = answer.hub;
  if (place && !answer.hub.closing) {
    answer = await poll(place, 0);
    ready = answer.hub.ready ?? { ...ready, resume: 'complete', cursor: place };
  }
  yield { events: eventsOf({ ...answer, ready }), size: answer.size };
  for (;;) {
    if (await isOwing()) yield { events: event('hub.closing', { reason: 'unacked', retryMs: 0 }), size: 0 };
    if (answer.hub.ready) from = [['previous', answer.hub.ready.connectionId]];
    answer = await poll(cursor, POLL_MS);
    yield { events: eventsOf(answer), size: answer.size, connectionId: answer.hub.ready?.connectionId };
  }
}

const TRANSPORTS = { sse: overSSE, websocket: overWebSocket, poll: overPoll }; // as they are tried

/** The transport that a page names, or else the first that the network lets through, which all its pages remember. */
class Choice {
  #list; #at = 0; #cut = 0; #key;

  constructor(base, wanted = 'auto') {
    if (wanted !== 'auto' && !Object.hasOwn(TRANSPORTS, wanted)) throw new TypeError('realtime: transport must be auto, sse, websocket or poll');
    if (wanted === 'websocket' && !globalThis.WebSocket) throw new TypeError('realtime: there is no WebSocket here');
    this.#list = Object.keys(TRANSPORTS).filter((name) => wanted === name || (wanted === 'auto' && (name !== 'websocket' || globalThis.WebSocket)));
    this.#key = wanted === 'auto' && globalThis.document && `realtime transport ${base}`;
    const [name, until] = this.#remember((kept) => kept.getItem(this.#key)?.split(' ')) ?? [];
    if (until > Date.now()) this.#at = Math.max(this.#list.indexOf(name), 0);
    else this.#forget();
  }

  get transport() { return this.#list[this.#at]; }
  get hasNext() { return this.#at < this.#list.length - 1; }

  /** A stream has begun. The time that it is remembered begins with the first. */
  begun() {
    if (this.#at === 0) this.#forget();
    else this.#remember((kept) => { if (!kept.getItem(this.#key)) kept.setItem(this.#key, `${this.transport} ${Date.now() + CHOICE_MS}`); });
  }

  /** A stream was lost some time after it had begun. Says whether another transport is next. */
  lost(lived) {
    this.#cut = lived < SOON_MS ? this.#cut + 1 : 0;
    return this.#cut >= MOST_CUT && this.next();
  }

  next() {
    if (this.#list.length === 1) return false;
    this.#at = (this.#at + 1) % this.#list.length;
    this.#cut = 0;
    this.#forget();
    return true;
  }

  #forget() { this.#remember((kept) => kept.removeItem(this.#key)); }

  #remember(fn) {
    if (!this.#key) return undefined;
    try { return fn(localStorage); } catch { return undefined; } // which a frame or a person may refuse
  }
}

// ---- one stream, kept open ----

/**
 * What a tab wants is {types, presence}, of which types null and presence '*' are the hub's own choice. Of tabs that share
 * a stream it has skipped, too: cursors of what was before this tab, and of which it is not told when that comes again.
 */
function merged(wishes) {
  const types = wishes.some((wish) => !wish.types) ? null : union(wishes.map((wish) => wish.types));
  const presence = wishes.some((wish) => wish.presence === '*') ? '*' : union(wishes.map((wish) => wish.presence));
  return {
    types: types && types.length <= MOST_LISTED ? types : null,
    presence: presence.length <= MOST_LISTED ? presence : '*',
  };
}

const IDLE = {
  state: 'connecting', transport: null, connectionId: null, tenantId: null, profile: null, resume: null,
  reason: null, retryMs: null, problem: null,
};
const wants = ({ types }, type) => !types || types.some((pattern) => matches(pattern, type));

/**
 * When events are over, handled or not, by performance.now(): a deadline after they first came to this page. No other
 * clock may bring that forward, since hubs' differ and ours may be set. So it is never early. It is late for what was on
 * its way for long, and where performance.now() stands still while the machine sleeps.
 */
class Deadlines {
  #known = new Map(); // of the last, by their cursors

  /** undefined without a deadline. */
  of({ cursor, data }) {
    if (!data.includes('"deadline"')) return undefined;
    const [, n, unit] = /^(\d+)(h|m|s|ms)$/.exec(parsed(data)?.deadline) ?? [];
    if (n && !this.#known.has(cursor)) {
      this.#known.set(cursor, performance.now() + Number(n) * { h: 3_600_000, m: 60_000, s: 1000, ms: 1 }[unit] * DRIFT + LATE_MS);
      if (this.#known.size > REMEMBERED) this.#known.delete(this.#known.keys().next().value);
    }
    return this.#known.get(cursor);
  }
}

/**
 * Cursors in the order in which they came, of events that may be handled in any. Its place is the last before one
 * that is not over: isOver() of its item says so, or the time has come that is its until.
 */
class Line {
  #items = []; #timer; #late;
  place;

  /** late is called when a time has come that lets the place move. */
  constructor(place, late) {
    this.place = place;
    this.#late = late;
  }

  get items() { return this.#items; }

  begin(place) {
    this.close();
    this.#items = [];
    this.place = place || this.place;
  }

  /** What is not kept, such as typing, has no place of its own. */
  isPlace(cursor) { return Boolean(cursor) && cursor !== (this.#items.at(-1)?.cursor ?? this.place); }

  add(cursor, item) {
    if (this.isPlace(cursor)) this.#items.push(Object.assign(item, { cursor }));
  }

  /** Moves the place, and gives what it went past. */
  advance() {
    const now = performance.now(), end = this.#items.findIndex((item) => !item.isOver() && !(item.until <= now));
    const passed = this.#items.splice(0, end < 0 ? Infinity : end);
    if (passed.length) this.place = passed.at(-1).cursor;
    this.close();
    if (this.#items.length) this.#timer = setTimeout(this.#late, Math.min(this.#items[0].until - now, LONGEST_MS));
    return passed;
  }

  close() { clearTimeout(this.#timer); }
}

const AWAY = ['replaced', 'kicked']; // of who is told this, none comes back by itself
const PASSING = [401, 408, 425, 429]; // what may be answered otherwise next time, as 500 and more may
const CHANGED = 'the token is of another person than before';
const ANOTHER = { ...IDLE, state: 'closed', reason: 'refused', problem: { status: 0, title: CHANGED, code: 'IdentityChanged' } };
const whoIs = ({ tenantId, profile }) => (tenantId ? JSON.stringify([tenantId, textOf(profile)]) : '');

class Stream {
  #door; #meta; #sink; #wishes; #wish; #applied = ''; #who; #previous;
  #attempt = null; #over = null; #timer; #watchdog; #renewal; #renewing = false; #renewedAt = 0; #ends; #settling = false; #closed = false;
  #retry = RETRY_MS; #failures = 0; #late = 0; #closing = null; #heardAt = 0; #proddedAt = 0; #heartbeat = 0;
  #status;
  #line; #still = new Set(); #ackMs = 0; #ackedAt = -Infinity; #isOwed = false; #isActive = false; #acking = false;
  #isWide = false; // the hub was asked for more types than are wanted, as the list was too long for an address

  /**
   * sink has events(list) and status(status), which is live once the stream has what was wanted last; and may have cede(),
   * which is awaited before another try. failures are those of before.
   */
  constructor(door, { meta = {}, wishes, cursor, who = '', status = IDLE, failures = 0 }, sink) {
    this.#door = door;
    this.#meta = Object.entries(meta).map(([key, value]) => [`meta.${key}`, value]);
    this.#line = new Line(cursor ?? '', () => this.#advance());
    this.#wishes = wishes;
    this.#wish = merged([...wishes.values()]);
    this.#who = who;
    this.#sink = sink;
    this.#failures = failures;
    this.#status = { ...status };
    this.#watchdog = setInterval(() => this.#watch(), WATCHDOG_MS);
    if (status.state === 'displaced') this.#closing = status;
    else this.#open();
  }

  /** Of one tab, which is called ''. */
  want(wish) { this.wantAll(new Map([['', wish]])); }

  /** wishes are those of tabs, by their ids. */
  wantAll(wishes) {
    this.#wishes = new Map(wishes);
    this.#wish = merged([...wishes.values()]);
    for (const [id, { skipped }] of wishes) { // said before the tab says that it is past them
      if (skipped?.size) for (const { cursor, missing } of this.#line.items) if (skipped.has(cursor)) missing.delete(id);
    }
    this.#advance();
    this.#settle();
  }

  // ---- how far all are who want what came ----
  //
  // What a tab wants is over once that tab has handled it. A tab that stands still is not waited for, nor one that is
  // gone or came after it; but none of them has handled anything, so an event with a deadline is over only once some
  // tab has handled it. If none does, it and what follows stay owed until the deadline, when the service is told:
  // better once too often than never. The place is where the next stream begins too, so what was not handled comes again.

  /** The last that is over, with all before it. */
  get place() { return this.#line.place; }

  /** Tabs that are waited for. */
  get awaited() { return new Set(this.#line.items.flatMap(({ missing }) => [...missing]).filter((id) => !this.#still.has(id))); }

  /** A tab has handled all up to a cursor. */
  handled(cursor, id = '') {
    const { items } = this.#line;
    for (const item of items.slice(0, items.findLastIndex((one) => one.cursor === cursor) + 1)) {
      if (item.missing.delete(id)) item.isHandled = true;
    }
    this.#advance();
  }

  /** A tab has missed what it has not handled yet. */
  excuse(id) {
    for (const { missing } of this.#line.items) missing.delete(id);
    this.#advance();
  }

  /** A tab stands still, or is gone; or moves again. */
  stands(id, isStill) {
    if (isStill === this.#still.has(id)) return;
    if (isStill) this.#still.add(id);
    else this.#still.delete(id);
    this.#advance();
  }

  #add({ type, cursor }, until) {
    const wishes = [...this.#wishes].filter(([, wish]) => type && !type.startsWith('hub.') && wants(wish, type));
    const missing = new Set(wishes.filter(([, { skipped }]) => !skipped?.has(cursor)).map(([id]) => id));
    const isHandled = !wishes.length && this.#isWide; // it came as the hub did not know all of the filter, and has no listener
    const item = { missing, isHandled, hasDeadline: until !== undefined, until: until ?? performance.now() + HELD_MS };
    item.isOver = () => (item.isHandled || !item.hasDeadline) && [...missing].every((id) => this.#still.has(id));
    this.#line.add(cursor, item);
  }

  #advance() {
    if (this.#closed) return;
    if (this.#line.advance().some(({ hasDeadline, isHandled }) => hasDeadline && isHandled)) this.#isOwed = true;
    this.#acknowledge();
  }

  /** Says how far all are, where an event with a deadline is among it; at once, but not twice within ackMs. */
  async #acknowledge() {
    if (this.#acking || !this.#isOwed || !this.#ackMs) return;
    this.#acking = true;
    const { connectionId } = this.#status, { signal } = this.#attempt;
    const isOver = () => this.#status.connectionId !== connectionId;
    for (let failures = 0; (this.#isOwed || this.#isActive) && !isOver();) {
      const wait = this.#ackedAt + this.#ackMs - performance.now();
      if (wait > 0) {
        await pause(wait, signal);
        continue;
      }
      const isActive = this.#isActive;
      const { status, ok } = await this.#sendPlace({ signal });
      if (ok) failures = 0;
      else if (!status || status >= 500 || PASSING.includes(status)) {
        this.#isOwed = true;
        this.#isActive ||= isActive;
        await pause(growing(this.#ackMs, failures++), signal);
      } // any other answer will be the same next time
    }
    this.#acking = this.#isActive = false;
    this.#acknowledge(); // of the next connection
  }

  #sendPlace(options) {
    const body = { cursor: this.place, ...(this.#isActive && { active: true }) };
    this.#isOwed = this.#isActive = false;
    this.#ackedAt = performance.now();
    return this.#door.call('POST', `/v1/connections/${this.#status.connectionId}/ack`, { body, ...options });
  }

  /** The person is active. Says whether an acknowledgement that is due tells the hub so. */
  active() { return this.#isActive = this.#acking; }

  /** The page, or its connection, may be gone in a moment: what waits to be acknowledged, or is on its way, is sent so that it outlives the page. */
  async suspend() {
    if (this.#ackMs && (this.#isOwed || this.#acking)) await this.#sendPlace({ keepalive: true });
  }

  /** Tries at once, unless the hub itself said when, or a try is under way. */
  wake() {
    if (this.#status.state === 'waiting' && !this.#closing && !this.#attempt) this.#open();
  }

  /** Begins anew at the same place: the network may have changed under the stream. */
  restart() {
    if (!this.#closing) this.#open();
  }

  resume() { this.restart(); }

  /** Tries at once, whatever the hub said. */
  back() {
    if (!this.#attempt) this.#open();
  }

  close() {
    const attempt = this.#attempt;
    this.suspend().then(() => attempt?.abort()); // of a stream that has ended nothing is acknowledged
    this.#attempt = null;
    this.#closed = true;
    this.#stop();
    this.#line.close();
    clearInterval(this.#watchdog);
  }

  /**
   * Not even a heartbeat came for three of them; or a stream does not begin, for which a hub is given longer each time.
   * On a transport on which a page sees no heartbeat, the hub has not answered a prod either.
   */
  isSilent() {
    if (!this.#attempt) return false;
    const now = Date.now();
    if (!this.#status.connectionId) return now - this.#heardAt > ANSWER_MS * 2 ** Math.min(this.#late, 3);
    const isUnanswered = this.#proddedAt > this.#heardAt && now - this.#proddedAt >= PROD_MS;
    return now - this.#heardAt > this.#silenceMs && (!this.#over.prod || isUnanswered);
  }

  get #silenceMs() { return Math.max(3 * (this.#heartbeat || Infinity), SILENCE_MS); }

  /** Ends a stream that is silent. In a hidden page this may come once a minute, so that the first it does may be to prod. */
  #watch() {
    if (this.isSilent()) return this.#attempt.abort('silent');
    const { prod } = this.#over ?? {}, now = Date.now();
    if (!prod || !this.#status.connectionId || this.#proddedAt > this.#heardAt || now - this.#heardAt <= this.#silenceMs / 2) return;
    this.#proddedAt = now;
    prod();
  }

  #stop() {
    const attempt = this.#attempt;
    this.#attempt = null;
    this.#status = { ...this.#status, connectionId: null };
    this.#applied = '';
    [this.#ackMs, this.#isOwed, this.#isActive] = [0, false, false]; // the next stream begins at the place, and so acknowledges it
    attempt?.abort();
    clearTimeout(this.#timer);
    clearTimeout(this.#renewal);
  }

  #say(change) {
    this.#status = { ...this.#status, transport: this.#door.choice.transport, ...change };
    this.#sink.status(this.#status);
  }

  #refuse(status) {
    this.close();
    this.#say(status);
  }

  async #open() {
    if (this.#closed) return;
    this.#stop();
    const attempt = this.#attempt = new AbortController();
    const isOver = () => this.#attempt !== attempt;
    const { state, reason: away } = this.#status;
    this.#closing = null;
    this.#heardAt = Date.now();
    if (state === 'live' || state === 'displaced') this.#say({ state: 'waiting', reason: away ?? 'lost', retryMs: 0 });
    if (isOver()) return;
    let reason = 'unreachable', problem = null, begunAt;
    const { choice } = this.#door, { signal } = attempt;
    const probe = setTimeout(() => { if (choice.hasNext) this.#probe(attempt); }, BEGIN_MS);
    const resume = this.place && this.#previous ? [['previous', this.#previous]] : [];
    this.#over = { ask: () => this.#ask(), place: this.place, resume, signal, isOwing: () => this.#isOwing(signal) };
    try {
      for await (const { events, size, retry = this.#retry, connectionId } of TRANSPORTS[choice.transport](this.#door, this.#over)) {
        if (isOver()) return;
        this.#heardAt = Date.now();
        this.#retry = retry;
        if (connectionId) this.#moved(connectionId);
        if (size) clearTimeout(probe); // somebody is at work
        if (!events.length) continue;
        reason = 'lost';
        begunAt ??= this.#heardAt;
        this.#take(events);
        if (this.#closing) break; // it was the last, also where what is in between does not end
      }
    } catch (error) {
      if (signal.reason === 'silent') {
        reason = 'silent';
        if (!this.#status.connectionId) this.#late++;
      } else if (error instanceof Held || signal.reason === 'held') reason = 'held';
      else if (error instanceof TokenError) [reason, problem] = ['token', error.problem];
      else if (error instanceof PersonError && !isOver()) this.#refuse(ANOTHER);
      else if (error instanceof Refusal) {
        ({ problem } = error);
        // A second, the least that it says, means soon.
        if (error.retryMs > this.#retry && !isOver()) this.#closing = { retryMs: Math.max(error.retryMs, growing(this.#retry, this.#failures++)) };
        const { status, code } = problem;
        const mayPass = status >= 500 || (PASSING.includes(status) && (status !== 401 || this.#door.mayChange));
        if (!code && status < 500 && choice.transport !== 'sse') choice.next(); // who stands in between knows no such call
        if (code && !mayPass && !isOver()) this.#refuse({ ...IDLE, state: 'closed', reason: 'refused', problem });
        reason = status === 401 ? 'refused' : 'unreachable';
      }
    }
    clearTimeout(probe);
    if (!isOver()) this.#wait(reason, problem, this.#isHampered(reason, begunAt));
  }

  /** A stream that does not begin, while the hub answers, is held back on its way. */
  async #probe(attempt) {
    const isWaiting = () => this.#attempt === attempt && !this.#status.connectionId;
    if (isWaiting() && await this.#door.answers(attempt.signal) && isWaiting()) attempt.abort('held');
  }

  /** Whether another transport is to be tried, now that one has ended. */
  #isHampered(reason, begunAt) {
    const { choice } = this.#door;
    if (reason === 'held') return choice.next();
    return begunAt !== undefined && !this.#closing && choice.lost(reason === 'silent' ? 0 : Date.now() - begunAt);
  }

  /** Waits for what is to be acknowledged, for a while. */
  async #isOwing(signal) {
    const isOwed = ({ hasDeadline, isOver, until }) => hasDeadline && !isOver() && until > performance.now();
    for (const end = performance.now() + OWED_MS; this.#ackMs && this.#line.items.some(isOwed);) {
      if (performance.now() >= end) return true; // which a hidden page's timers are late for
      await pause(TELL_MS, signal);
      signal.throwIfAborted();
    }
    return false;
  }

  /** The query of a stream, or of a poll: a long list is said afterwards, by PATCH, and until then one that takes in more. */
  #ask() {
    const { types, presence } = this.#wish;
    const isShort = (list) => list.map(encodeURIComponent).join().length <= MOST_IN_ADDRESS;
    const families = types && union([types.map((type) => type.replace(/\..*/, '.*'))]);
    const said = {
      types: types && ([types, families].find(isShort) ?? null),
      presence: presence === '*' || isShort(presence) ? presence : [],
    };
    const wanted = said.types?.join() || 'hub.*'; // an empty list is read as all, and the hub's own come anyway
    const watched = said.presence === '*' ? [] : said.presence.length ? said.presence : ['none'];
    this.#applied = JSON.stringify(said);
    this.#isWide = JSON.stringify(said.types) !== JSON.stringify(types);
    if (this.#status.connectionId && this.#applied !== JSON.stringify(this.#wish)) setTimeout(() => this.#settle(), SETTLE_MS);
    return [['ack', 'true'], ...this.#meta, ...(said.types ? [['types', wanted]] : []), ...watched.map((profile) => ['presence', profile])];
  }

  #wait(reason, problem, isHampered) {
    const said = this.#closing?.reason;
    if (said) this.suspend(); // it may be long until a stream acknowledges that by beginning
    this.#stop();
    if (AWAY.includes(said)) {
      this.#retry = RETRY_MS; // what came with that is for clients who come back by themselves
      return this.#say({ state: 'displaced', reason: said, retryMs: null, problem: null });
    }
    const retryMs = isHampered ? 0 : Math.min(Math.round(this.#closing?.retryMs ?? growing(this.#retry, this.#failures++)), LONGEST_MS);
    this.#timer = setTimeout(async () => {
      await this.#sink.cede?.();
      this.back();
    }, retryMs);
    this.#say({ state: 'waiting', reason: said ?? reason, retryMs, problem });
  }

  #take(events) {
    for (const event of events) {
      const { type, data, cursor } = event;
      if (!type.startsWith('hub.')) {
        this.#add(event, this.#door.deadlines.of(event));
        continue;
      }
      const word = parsed(data) ?? {};
      if (type === 'hub.ready') {
        if (!this.#ready(word)) return;
        this.#line.begin(cursor);
      }
      this.#add(event);
      if (type === 'hub.closing') this.#closing = { reason: String(word.reason), retryMs: Number(word.retryMs) || 0 };
      // It answers each renewal with a token that ends soon, too.
      if (type === 'hub.expiring' && Date.now() - this.#renewedAt > RENEWAL_MS) this.#renew();
    }
    this.#sink.events(events);
    this.#advance();
    if (this.#status.state !== 'live') this.#settle();
  }

  #ready(ready) {
    const { connectionId, tenantId, profile, connectedAt, resume, heartbeatMs, ackMs } = ready;
    const who = whoIs(ready);
    if (this.#who && who !== this.#who) { // the token is another person's by now
      this.#refuse(ANOTHER);
      return false;
    }
    this.#who = who;
    this.#failures = this.#late = 0;
    this.#door.choice.begun();
    this.#heartbeat = Number(heartbeatMs) || 0; // without any, silence means nothing
    if (this.#door.choice.transport === 'poll') this.#heartbeat = Math.max(this.#heartbeat, POLL_MS);
    this.#ackMs = Number(ackMs) || 0; // an older hub wants none
    if (connectionId !== this.#door.connection) this.#door.skew = Date.parse(connectedAt) - Date.now() || 0;
    this.#status = { ...this.#status, connectionId, tenantId, profile, resume };
    this.#previous = this.#door.connection = connectionId;
    this.#plan();
    return true;
  }

  /** Polls go on by another connection, where another hub took the last one, or the hub had taken this client for gone. */
  #moved(connectionId) {
    if (connectionId === this.#status.connectionId) return;
    this.#status = { ...this.#status, connectionId };
    this.#previous = this.#door.connection = connectionId;
    this.#settle();
  }

  // What the tabs want may have changed while the stream was opened, and changes while it is open.
  async #settle() {
    if (this.#settling || !this.#status.connectionId) return;
    this.#settling = true;
    let failures = 0;
    while (this.#status.connectionId && this.#applied !== JSON.stringify(this.#wish)) {
      const { connectionId } = this.#status;
      const { signal } = this.#attempt;
      const { types, presence } = this.#wish;
      const applied = JSON.stringify(this.#wish);
      const body = { types: types ?? ['*'], presence: presence === '*' ? ['*'] : presence.length ? presence : ['none'] };
      const { ok } = await this.#door.call('PATCH', `/v1/connections/${connectionId}`, { body, signal });
      if (connectionId !== this.#status.connectionId) continue;
      if (ok) [this.#applied, this.#isWide, failures] = [applied, false, 0];
      else await pause(growing(1000, failures++), signal);
    }
    this.#settling = false;
    if (this.#status.connectionId) this.#say({ state: 'live', reason: null, retryMs: null, problem: null });
  }

  // ---- a stream lives as long as its token ----

  /** isTaken: the hub has the token that the door has. */
  #plan(isTaken = true) {
    const now = performance.now();
    if (isTaken) this.#ends = now + this.#door.life();
    const life = this.#ends - now;
    clearTimeout(this.#renewal);
    if (Number.isNaN(life)) return; // it does not say
    const wait = life > 150_000 ? life - 60_000 - Math.random() * 15_000 : life / 2;
    this.#renewal = setTimeout(() => this.#renew(), Math.min(Math.max(wait, 1000), LONGEST_MS));
  }

  async #renew() {
    const { connectionId } = this.#status;
    if (this.#renewing || !connectionId || !this.#door.hasToken) return;
    this.#renewing = true;
    const { ok, error } = await this.#door.call('PUT', `/v1/connections/${connectionId}/token`, { fresh: true, signal: this.#attempt.signal });
    this.#renewing = false;
    this.#renewedAt = Date.now();
    if (error instanceof PersonError && connectionId === this.#status.connectionId) return this.#refuse(ANOTHER);
    // A token that was no newer, or a call that failed: again at half of what is left.
    if (this.#status.connectionId) this.#plan(ok);
  }
}

// ---- one stream for all tabs ----

async function canShare() {
  if (!globalThis.location) return false;
  try { // both may be missing, and may be refused, as in a sandboxed frame
    new BroadcastChannel('realtime').close();
    await navigator.locks.query();
    return true;
  } catch { return false; }
}

const isAfter = ([term, n], [otherTerm, otherN]) => term > otherTerm || (term === otherTerm && n > otherN);
const NOWHERE = [0, 0]; // of a tab that has been told nothing
const sizeOf = (events) => events.reduce((sum, { type, data, cursor }) => sum + type.length + data.length + cursor.length, 200); // and the batch itself

/**
 * The tab that holds the lock leads: it has the stream, and hands each batch of events
 * to the others on a channel, under a place [term, n]. Each tab knows what all want and
 * how far it is itself, so that whoever leads next goes on from there.
 */
class Shared {
  #door; #meta; #sink; #name; #id;
  #channel = null; #life = null; // its abort ends what this tab holds and waits for
  #own; #wishes = new Map(); #minded = new Set(); // ids of tabs
  #wanted = ''; #changed = NOWHERE; // all wishes together, and since where they are
  #joined = false; #at = NOWHERE; #term = 0; #cursor; #place; #since = []; #who = ''; // how far this tab is; the newest term it heard of
  #kept = []; #size = 0; #base = NOWHERE; // the last batches, and the place before them
  #stream = null; #after = null; #queue = null; #resign = null; #furthest = null; #unheard = new Set();
  #status = { ...IDLE }; #covered = new Map(); // whose wishes the stream serves, by their versions
  #handled; #saidAt = -Infinity; #saying; #isStill = false; #questioned = new Set(); // tabs that have not answered yet
  #failures = 0; // how often this tab ceded the lead
  #wasServed = false; #owesGap = false; #hellos = 0; #toldAt = 0; #heardAt = 0; #asked = 0; #pulse;
  leads = false;

  /** sink is a stream's, but that status comes with whether it serves what this tab wanted last, and it has skip(cursors), a set of what was before this tab. */
  constructor(name, id, door, { meta, wish }, sink) {
    this.#name = `realtime 5 ${name}`; // 5: what tabs tell each other; another version does not join
    this.#id = id;
    this.#door = door;
    this.#meta = meta;
    this.#sink = sink;
    this.#own = { ...wish, version: 1 };
    this.resume();
  }

  want(wish) {
    this.#own = { ...this.#own, ...wish, version: this.#own.version + 1 };
    this.#post({ kind: 'wish', wish: this.#own });
    this.#learn(this.#id, this.#own);
  }

  wake() {
    if (this.leads) this.#stream.wake();
    else this.#post({ kind: 'wake' });
    this.#check();
  }

  restart() { this.#stream?.restart(); }

  /** This tab's person is there: whoever leads tries at once, and so does this tab if it leads next. */
  back() {
    this.#stream?.back();
    if (this.leads) return;
    if (this.#status.state === 'displaced') this.#status = { ...this.#status, state: 'waiting' };
    this.#post({ kind: 'back' });
  }

  close() { this.suspend(); }

  active() { return this.leads && this.#stream.active(); }

  /** This tab has handled all up to a cursor. It says so also where it was no further before: it is there. */
  handled(cursor) {
    this.#handled = cursor;
    if (!this.#channel) return;
    if (this.leads) return this.#stream?.handled(cursor, this.#id);
    if (this.#saying) return;
    const wait = this.#saidAt + TELL_MS - performance.now();
    if (wait > 0) this.#saying = setTimeout(() => this.#sayHandled(), wait);
    else this.#sayHandled();
  }

  #sayHandled() {
    clearTimeout(this.#saying);
    this.#saying = undefined;
    this.#saidAt = performance.now();
    if (!this.#isStill) this.#post({ kind: 'handled', cursor: this.#handled });
  }

  /** The browser has this page stand still, where it may hear its siblings all the same; or has it move again. */
  #freeze(isStill) {
    this.#isStill = isStill;
    this.#post({ kind: 'handled', cursor: isStill ? null : this.#handled });
  }

  /** Asks the tabs that are waited for whether they are there, and waits no longer for those that did not answer last time. */
  #question() {
    for (const id of this.#stream?.awaited ?? []) {
      if (id === this.#id) continue;
      if (this.#questioned.has(id)) this.#stream.stands(id, true);
      this.#questioned.add(id);
      this.#post({ kind: 'there?', to: id });
    }
  }

  /** Leaves the others, as a page must that the browser puts aside. */
  suspend() {
    if (!this.#channel) return;
    if (!this.leads) this.#sayHandled();
    this.#post({ kind: 'bye' });
    this.#stepDown();
    this.#life.abort();
    clearInterval(this.#pulse);
    clearTimeout(this.#saying);
    this.#saying = undefined;
    this.#channel.close();
    this.#channel = null;
    this.#joined = this.#wasServed = false;
  }

  resume() {
    if (this.#channel) return;
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#life = new AbortController();
    for (const type of ['freeze', 'resume']) globalThis.document?.addEventListener(type, () => this.#freeze(type === 'freeze'), { signal: this.#life.signal });
    this.#minded.clear();
    this.#own = { ...this.#own, version: this.#own.version + 1 };
    this.#wishes = new Map();
    this.#learn(this.#id, this.#own);
    this.#heardAt = Date.now();
    this.#pulse = setInterval(() => {
      this.#check();
      this.#question();
    }, LEADER_MS);
    // Others learn that this tab is gone by this lock's being free. It is taken from one that stands still with it.
    this.#hold(this.#lockOf(this.#id), 'steal', (signal) => {
      this.#hello();
      return new Promise((done) => { signal.addEventListener('abort', done); });
    });
    this.#stand();
  }

  #post(message) { this.#channel?.postMessage({ from: this.#id, at: this.#at, isStill: this.#isStill, ...message }); }

  #hello() { this.#post({ kind: 'hello', n: ++this.#hellos, wish: this.#own, cursor: this.#cursor, place: this.#place, since: this.#since, joined: this.#joined }); }

  #lockOf(id) { return `${this.#name} ${id}`; }

  #hold(name, mode, held) {
    const { signal } = this.#life;
    const options = mode === 'steal' ? { steal: true } : { mode, signal };
    navigator.locks.request(name, options, () => (signal.aborted ? undefined : held(signal))).catch(() => { /* given up */ });
  }

  // ---- what all want ----

  #learn(id, wish) {
    if (wish) this.#wishes.set(id, wish);
    else this.#wishes.delete(id);
    const wanted = JSON.stringify(merged([...this.#wishes.values()]));
    if (wanted !== this.#wanted) [this.#wanted, this.#changed] = [wanted, this.#at];
    this.#stream?.wantAll(this.#wishes);
  }

  /** Forgets a sibling once its lock is free. */
  #mind(id) {
    if (id === this.#id || this.#minded.has(id)) return;
    this.#minded.add(id);
    this.#hold(this.#lockOf(id), 'shared', () => {
      this.#post({ kind: 'bye', who: id });
      this.#forget(id);
    });
  }

  #forget(id) {
    this.#minded.delete(id);
    this.#stream?.stands(id, true); // its last word may come after its lock is free
    if (this.#wishes.has(id)) this.#learn(id);
  }

  // ---- who leads ----

  async #stand(steal = false) {
    const { signal } = this.#life;
    this.#queue?.abort();
    const queue = this.#queue = new AbortController();
    const leave = () => queue.abort();
    signal.addEventListener('abort', leave);
    try {
      await navigator.locks.request(this.#name, steal ? { steal } : { signal: queue.signal }, () => (queue.signal.aborted ? undefined : this.#lead(queue.signal)));
    } catch (error) {
      if (error?.name !== 'AbortError') {
        this.#door.complain('lock', 'the lock of the tabs\' one stream is not to be had; it is asked for again', error);
        this.#stepDown();
        await pause(LEADER_MS, queue.signal);
      }
    }
    signal.removeEventListener('abort', leave);
    if (queue.signal.aborted) return;
    this.#stepDown(); // deposed, by a sibling that got no answer from here
    this.#hello();
    this.#stand();
  }

  async #lead(signal) {
    if (!this.#joined) await this.#catchUp();
    if (signal.aborted) return;
    const at = [this.#term = Math.max(this.#term + 1, this.#at[0] + 1, Date.now()), 0]; // a clock may have gone back
    if (!this.#at[0]) this.#base = this.#at = at; // nothing is known of what was before
    this.#after = this.#at;
    this.#at = at;
    this.leads = this.#joined = true;
    for (const id of this.#wishes.keys()) this.#mind(id);
    this.#post({ kind: 'who' });
    if (this.#status.state === 'live') this.#announce({ ...this.#status, state: 'waiting', connectionId: null, reason: 'lost', retryMs: 0 });
    if (signal.aborted) return;
    const { state } = this.#status;
    this.#stream = new Stream(this.#door, {
      meta: this.#meta, wishes: new Map(this.#wishes), cursor: this.#place || this.#cursor, who: this.#who, status: state === 'displaced' ? this.#status : IDLE, failures: this.#failures,
    }, {
      events: (events) => {
        const batch = { kind: 'batch', at: [this.#at[0], this.#at[1] + 1], after: this.#at[1] ? this.#at : this.#after, events, size: sizeOf(events), place: this.#stream.place };
        this.#post(batch);
        this.#take(batch);
      },
      status: (status) => this.#announce(status),
      cede: () => this.#cede(),
    });
    if (state === 'displaced') this.#announce(this.#status);
    await new Promise((done) => { this.#resign = done; });
  }

  /** One that leads before it follows asks the others where they are, and begins at the furthest, or they would be told twice. */
  async #catchUp() {
    this.#furthest = null;
    const { signal } = this.#life, until = performance.now() + SIBLINGS_MS;
    const { held } = await navigator.locks.query();
    this.#unheard = new Set(held.map(({ name }) => name).filter((name) => name.startsWith(this.#lockOf('')) && name !== this.#lockOf(this.#id)));
    this.#post({ kind: 'who' });
    while (this.#unheard.size && performance.now() < until && !signal.aborted) await pause(20, signal);
    if (!this.#furthest) return;
    const { at, cursor, place, since } = this.#furthest;
    if (!isAfter(at, this.#at)) return;
    this.#join({ at, cursor, place, since, isNew: !this.#at[0], reaches: false, missed: [], wishes: this.#wishes, status: this.#status, covered: this.#covered });
  }

  #stepDown() {
    if (this.#stream) this.#reach(this.#stream.place);
    this.#questioned.clear();
    this.#stream?.close();
    this.#stream = null;
    this.leads = false;
    this.#term = 0; // whoever leads meanwhile is believed, also if its clock is behind
    this.#resign?.();
    this.#resign = null;
  }

  /** A token that fails, or is refused, is this tab's own: whoever waits to lead may have a better one. */
  async #cede() {
    if (!['token', 'refused'].includes(this.#status.reason)) return;
    const { pending } = await navigator.locks.query().catch(() => ({ pending: [] })); // as in a page that goes
    if (!this.leads || !pending.some(({ name }) => name === this.#name)) return;
    this.#failures++;
    this.#stepDown();
  }

  /** A leader that stands still, as in a page that the system put to sleep, is deposed by a tab that is looked at. */
  #check() {
    const now = Date.now();
    if (this.leads || !this.#channel || isHidden() || now - this.#heardAt < LEADER_MS) {
      this.#asked = 0;
    } else if (!this.#asked) {
      this.#asked = now;
      this.#post({ kind: 'ping' });
      setTimeout(() => this.#check(), LEADER_MS);
    } else if (now - this.#asked >= LEADER_MS) {
      this.#asked = 0;
      this.#heardAt = now;
      this.#stand(true);
    }
  }

  // ---- what tabs tell each other ----

  #hear({ kind, from, to, ...message }) {
    if (to && to !== this.#id) return;
    const { at, wish, isStill } = message;
    this.#questioned.delete(from);
    this.#stream?.stands(from, isStill);
    switch (kind) {
      case 'hello': {
        this.#unheard.delete(this.#lockOf(from));
        if (!this.#furthest || isAfter(at, this.#furthest.at)) this.#furthest = message;
        // Whether all that this tab wants was wanted all the while since it left.
        const all = [...this.#wishes.values(), wish];
        const wasServed = (message.joined && this.#wishes.has(from)) || (JSON.stringify(merged(all)) === this.#wanted && isAfter(at, this.#changed));
        if (this.leads) {
          this.#mind(from);
          this.#welcome(from, message, wasServed);
        }
        return this.#learn(from, wish);
      }
      case 'wish': return this.#learn(from, wish);
      case 'bye': return message.who === this.#id ? this.#hello() : this.#forget(message.who ?? from); // I am back
      case 'who': return this.#hello();
      case 'wake': return this.#stream?.wake();
      case 'back': return void this.#cede().then(() => this.#stream?.back());
      case 'handled': return void (message.cursor && this.#stream?.handled(message.cursor, from));
      case 'there?': return this.#sayHandled();
      // In a page that stands still this may be answered all the same, while its stream is not read.
      case 'ping': return void (this.leads && !this.#stream.isSilent() && this.#post({ kind: 'pong', to: from }));
    }
    if (this.leads || at[0] < this.#term) return; // of a leader that does not know yet that it was deposed
    this.#term = at[0];
    this.#heardAt = Date.now();
    this.#asked = 0;
    if (kind === 'batch') this.#receive(message);
    else if (kind === 'welcome') this.#join(message);
    else if (kind === 'status') {
      this.#status = message.status;
      this.#covered = message.covered;
      this.#show();
    }
  }

  /** Tells a tab where the stream is, and what it missed of it. Its place is as all know it, since whoever leads next begins there. */
  #welcome(to, { n, at }, wasServed) {
    const isNew = at[0] === 0;
    const reaches = wasServed && !isAfter(this.#base, at) && !isAfter(at, this.#at);
    if (!reaches) this.#stream.excuse(to);
    this.#post({
      kind: 'welcome', to, n, isNew, reaches, missed: reaches ? this.#kept.filter((batch) => isAfter(batch.at, at)) : [],
      wishes: this.#wishes, cursor: this.#cursor, place: this.#place, since: this.#since, status: this.#status, covered: this.#covered,
    });
  }

  #join({ n, at, isNew, reaches, missed, wishes, cursor, place, since, status, covered }) {
    if (this.#joined && !reaches && n <= this.#toldAt) return; // told before, in answer to an earlier hello
    this.#joined = true;
    if (!reaches) {
      this.#toldAt = this.#hellos;
      [this.#kept, this.#size, this.#base] = [[], 0, at];
      this.#move(at, cursor);
      [this.#place, this.#since] = [place, since];
      this.#skip(new Set(since)); // it may come again for those who were there
      if (isNew) this.#sink.events([{ type: '', data: '', cursor }]);
      else this.#owesGap = true;
    }
    for (const batch of missed) if (isAfter(batch.at, this.#at)) this.#take(batch);
    if (isAfter(at, this.#at)) this.#move(at, cursor);
    this.#wishes = wishes;
    this.#learn(this.#id, this.#own);
    this.#status = status;
    this.#covered = covered;
    this.#show();
  }

  /** This tab is not told of these cursors, and so does not handle them: whoever leads is not to wait for it, nor to take it for one that has. */
  #skip(cursors) {
    this.#sink.skip(cursors);
    this.#own = { ...this.#own, skipped: cursors };
    this.#post({ kind: 'wish', wish: this.#own });
  }

  #receive(batch) {
    if (!this.#joined || !isAfter(batch.at, this.#at)) return; // its welcome is under way, or it was told before
    if (isAfter(batch.after, this.#at)) return this.#hello(); // some are missing
    this.#take(batch);
  }

  #take(batch) {
    this.#kept.push(batch);
    for (this.#size += batch.size; this.#size > KEPT && this.#kept.length > 1;) {
      const { at, size } = this.#kept.shift();
      this.#base = at;
      this.#size -= size;
    }
    this.#move(batch.at, batch.events.at(-1)?.cursor ?? this.#cursor);
    for (const { type, cursor } of batch.events) {
      if (type === 'hub.ready') this.#since = [];
      if (cursor !== this.#since.at(-1)) this.#since.push(cursor);
    }
    this.#reach(batch.place);
    this.#sink.events(batch.events);
  }

  /** All are at a place; what came since may come again. */
  #reach(place) {
    this.#place = place;
    this.#since.splice(0, this.#since.lastIndexOf(place) + 1);
  }

  #move(at, cursor) {
    this.#at = at;
    this.#cursor = cursor;
  }

  #announce(status) {
    if (status.state === 'closed') return this.#sink.status(status, true); // this tab's own end
    this.#status = status;
    if (status.state === 'live') [this.#failures, this.#covered] = [0, new Map([...this.#wishes].map(([id, { version }]) => [id, version]))];
    this.#post({ kind: 'status', status, covered: this.#covered });
    this.#show();
  }

  #show() {
    const who = whoIs(this.#status);
    if (this.#who && who && who !== this.#who) return this.#sink.status(ANOTHER, true);
    this.#who ||= who;
    const isServed = this.#covered.get(this.#id) === this.#own.version;
    this.#wasServed ||= isServed;
    // Not before: what is missed until the stream has this tab's wishes would be missed after its gap.
    if (this.#owesGap && isServed && this.#status.state === 'live') {
      this.#owesGap = false;
      const cursor = this.#cursor;
      this.#sink.events([{ type: 'hub.gap', data: JSON.stringify({ reason: 'unknown', cursor }), cursor }]);
    }
    this.#sink.status(this.#status.state === 'live' && !this.#wasServed ? { ...this.#status, state: 'connecting' } : this.#status, isServed);
  }
}

// ---- what an application holds ----

class Client {
  id = newID();
  status = Object.freeze({ ...IDLE, leader: false, shared: false, reconnects: 0 });
  #options; #door; #link = null; #closed = false; #life = new AbortController();
  #listeners = new Map(); #onStatus = new Set(); #onError = new Set(); #watchers = new Set(); #asked = null;
  #known = new Map(); // the last events, and what came of them
  #skipped = new Set(); // cursors that came before this tab
  #isTaking = false;
  #line;
  #hurry = null; // ends the pause before the first token is asked for again
  #connected = null; #reconnects = -1; #touchedAt = performance.now(); #backAt = -Infinity; #typing = Promise.resolve();

  constructor(options) {
    checkNames(options);
    const { types, presence, meta, cursor = null } = options;
    if (cursor !== null && !/^[A-Za-z0-9._~-]{0,128}$/.test(cursor)) throw new TypeError('realtime: cursor must be one that a client had');
    this.#door = new Door(options);
    this.#options = {
      ...options,
      meta: checkedMeta(meta),
      types: types === undefined ? null : checkedTypes(types),
      presence: presence === undefined ? '*' : presence === 'none' ? [] : checkedProfiles(presence, 'presence', MOST_LISTED),
    };
    // Who names profiles wants to hear of them, whatever the types.
    const { types: listed, presence: watched } = this.#options;
    if (listed && watched !== '*' && watched.length) this.#options.types = union([listed, ['presence.*']]);
    this.#line = new Line(cursor ?? '', () => this.#advance());
    this.#start();
    if (globalThis.document) this.#attend();
  }

  get cursor() { return this.#line.place || null; }

  async #start() {
    const { share = true, cursor, meta } = this.#options;
    const mayShare = share && !cursor && await canShare();
    let identity = '';
    for (let failures = 0; mayShare && !this.#closed; failures++) {
      try {
        identity = await this.#door.identity();
        break;
      } catch ({ problem }) { // the page's own token() failed
        const retryMs = Math.round(growing(RETRY_MS, failures));
        this.#show({ ...IDLE, state: 'waiting', reason: 'token', retryMs, problem });
        this.#hurry = new AbortController();
        await pause(retryMs, this.#hurry.signal);
      }
    }
    if (this.#closed) return;
    const sink = {
      events: (events) => this.#take(events),
      skip: (cursors) => { this.#skipped = cursors; },
      status: (status, isServed = true) => this.#show(status, isServed),
    };
    this.#link = identity
      ? new Shared(identity, this.id, this.#door, { meta, wish: this.#wish() }, sink)
      : new Stream(this.#door, { meta, wishes: new Map([['', this.#wish()]]), cursor }, sink);
  }

  /** What makes a page's person active, and its network another. */
  #attend() {
    const { signal } = this.#life;
    const touch = () => {
      if (performance.now() - this.#touchedAt < TOUCH_MS) return;
      if (this.#link?.active()) this.#touchedAt = performance.now();
      else this.touch();
    };
    const act = () => {
      this.#return();
      touch();
    };
    document.addEventListener('pointermove', touch, { signal, passive: true, capture: true }); // it may only pass
    for (const type of ['pointerdown', 'keydown', 'wheel']) {
      document.addEventListener(type, act, { signal, passive: true, capture: true });
    }
    document.addEventListener('visibilitychange', () => {
      if (isHidden()) return;
      this.#again('wake');
      act();
    }, { signal });
    addEventListener('focus', act, { signal });
    addEventListener('online', () => this.#again('restart'), { signal });
    addEventListener('pagehide', () => this.#link?.suspend(), { signal });
    addEventListener('pageshow', ({ persisted }) => {
      if (!persisted) return;
      this.#link?.resume();
      this.#return();
    }, { signal });
  }

  /** Activity ends a displacement; not again and again, where somebody is active at the other end, too. */
  #return() {
    if (this.status.state === 'displaced' && !isHidden() && performance.now() - this.#backAt >= RETRY_MOST_MS) this.reconnect();
  }

  reconnect() { this.#again('back'); }

  /** Tries again, as how says: wake, restart or back. */
  #again(how) {
    this.#hurry?.abort();
    this.#link?.[how]();
  }

  // ---- events ----

  on(pattern, fn) {
    if (typeof pattern !== 'string') throw new TypeError('realtime: on takes a type, such as "post.created" or "message.*"');
    checkFunction(fn, 'a listener');
    const listener = (event) => fn(event); // one for each call, also of the same function
    if (!this.#listeners.has(pattern)) this.#listeners.set(pattern, new Set());
    this.#listeners.get(pattern).add(listener);
    return () => {
      this.#listeners.get(pattern)?.delete(listener);
      if (!this.#listeners.get(pattern)?.size) this.#listeners.delete(pattern);
    };
  }

  onError(fn) {
    checkFunction(fn, 'a listener');
    const listener = (error, event) => fn(error, event);
    this.#onError.add(listener);
    return () => this.#onError.delete(listener);
  }

  *#listenersOf(type) {
    for (const [pattern, listeners] of [...this.#listeners]) { // those that there were
      // The hub's own are asked for by name.
      if (matches(pattern, type) && (pattern !== '*' || !type.startsWith('hub.'))) yield* [...listeners];
    }
  }

  /** Tells listeners of an event, and gives the work, which is over when they have handled it. */
  #tell(event, work, listeners) {
    for (const listener of listeners) {
      work.left.add(listener);
      const done = () => work.left.delete(listener);
      const fail = (error) => {
        if (!event.id) done(); // the hub's own does not come again
        if (!this.#onError.size) report(error);
        for (const told of [...this.#onError]) tell(told, error, event);
      };
      try {
        const answer = listener(event);
        if (typeof answer?.then !== 'function') done();
        else {
          work.busy++;
          Promise.resolve(answer).then(done, fail).then(() => {
            work.busy--;
            this.#advance();
          });
        }
      } catch (error) { fail(error); }
    }
    return work;
  }

  #take(events) {
    this.#isTaking = true;
    if (this.status.transport === 'poll') this.#askSoon(); // what is not kept may be missed between two polls
    for (const event of events) {
      const { type, data, cursor } = event;
      if (this.#closed) break;
      if (type === 'hub.ready') this.#line.begin(cursor);
      if (type === 'hub.gap') this.#askSoon();
      const body = type && parsed(data);
      let work = new Work(this.#door.deadlines.of(event));
      if (type && !(type.startsWith('hub.') ? body : body?.type)) this.#door.complain('event', 'an event came that is none of the hub\'s; such are left out');
      else if (type.startsWith('hub.')) this.#tell({ type, payload: body }, work, this.#listenersOf(type));
      else if (type && !(this.#skipped.has(cursor) && this.#line.isPlace(cursor))) work = this.#receive(body, work);
      this.#line.add(cursor, { until: work.until, isOver: () => !work.left.size });
      this.#line.advance();
    }
    this.#isTaking = false;
    this.#advance();
    if (this.#closed) this.#link?.close(); // once it knows of what a listener that closed the client had handled
  }

  /** Says how far this tab is. */
  #advance() {
    this.#line.advance();
    if (this.cursor) this.#link?.handled(this.cursor);
    if (this.#closed) this.#line.close();
  }

  /** Tells of an event, but not twice, except those who failed. A shared stream brings what the siblings want, too. */
  #receive(event, work) {
    const key = `${event.id} ${event.timestamp}`; // an id may be used again, later: then it is another event
    const known = this.#known.get(key);
    if (known) return known.left.size && !known.busy ? this.#tell(event, known, known.again(this.#listenersOf(event.type))) : known;
    this.#known.set(key, work);
    if (this.#known.size > REMEMBERED) this.#known.delete(this.#known.keys().next().value);
    const { type, payload, correlationId } = event;
    const isPresence = type.startsWith('presence.'), isDigest = type === 'presence.digest';
    if (isDigest) this.#askSoon();
    else if (isPresence) for (const watcher of this.#watchers) watcher.hear(payload);
    if (correlationId === this.id) return work; // its own echo
    if (!wants(this.#options, type)) return work;
    const { presence } = this.#options;
    if (isPresence && presence !== '*' && !(isDigest ? presence.length : presence.includes(textOf(payload?.profile)))) return work;
    return this.#tell(event, work, this.#listenersOf(type));
  }

  /** What the application asked for, and what presence.watch needs. */
  #wish() {
    const { types, presence } = this.#options;
    const watched = [...this.#watchers].map((watcher) => watcher.profiles);
    return {
      types: types && watched.length ? union([types, ['presence.*']]) : types,
      presence: presence === '*' ? '*' : union([presence, ...watched]),
    };
  }

  // ---- status ----

  onStatus(fn) {
    checkFunction(fn, 'a listener');
    const listener = (status) => fn(status);
    this.#onStatus.add(listener);
    tell(listener, this.status);
    return () => this.#onStatus.delete(listener);
  }

  #show(status, isServed) {
    if (this.#closed) return;
    this.#closed = status.state === 'closed';
    const isLive = status.state === 'live', isMoved = isLive && this.status.state === 'live' && status.transport === 'poll';
    if (isLive && status.connectionId !== this.#connected) {
      this.#connected = status.connectionId;
      if (!isMoved) this.#begun();
    }
    const wasAway = this.status.state === 'displaced', isAway = status.state === 'displaced';
    if (wasAway && !isAway) this.#backAt = performance.now();
    const shared = this.#link instanceof Shared, before = JSON.stringify(this.status);
    this.status = Object.freeze({ ...status, shared, leader: shared && this.#link.leads, reconnects: Math.max(this.#reconnects, 0) });
    // Only once the stream tells of them: a change in between would be lost.
    if (isLive && isServed) for (const watcher of this.#watchers) watcher.ask();
    if (JSON.stringify(this.status) !== before) for (const listener of [...this.#onStatus]) tell(listener, this.status);
    if (isAway && !this.#connected) this.#return(); // its siblings were away already: who opens a tab is there
    if (!this.#closed) return;
    if (!this.#isTaking) this.#link?.close();
    this.#life.abort();
    this.#hurry?.abort();
    this.#listeners.clear();
    this.#onStatus.clear();
    this.#onError.clear();
    this.#line.close();
    for (const watcher of this.#watchers) watcher.stop();
    this.#watchers.clear();
  }

  #begun() {
    this.#reconnects++;
    this.#touchedAt = performance.now(); // who connects is active
    for (const watcher of this.#watchers) watcher.isDue = true;
  }

  close() { this.#show({ ...IDLE, state: 'closed', reason: 'closed' }); }

  // ---- typing, presence, activity ----

  typing(conversation) {
    const path = `/v1/conversations/${encodeURIComponent(conversation)}/typing`;
    let sentAt = -Infinity, last = Promise.resolve(true);
    const send = (state) => {
      const wantedAt = performance.now();
      last = this.#typing.then(async () => { // in order; one that comes late is better not said
        if (this.#closed || (state === 'started' && performance.now() - wantedAt > TYPING_MS)) return false;
        return (await this.#door.call('POST', path, { body: { state } })).ok;
      });
      this.#typing = last;
      return last;
    };
    return {
      start: () => {
        if (performance.now() - sentAt < TYPING_MS) return last;
        sentAt = performance.now();
        return send('started');
      },
      stop: () => {
        if (sentAt < 0) return last;
        sentAt = -Infinity;
        return send('stopped');
      },
    };
  }

  async ask(profiles) {
    const texts = checkedProfiles(profiles, 'profiles'), known = new Map();
    for (let i = 0; i < texts.length; i += MOST_ASKED) {
      const query = texts.slice(i, i + MOST_ASKED).map((text) => ['profile', text]);
      const { ok, status, data } = await this.#door.call('GET', '/v1/presence', { query, signal: this.#life.signal });
      if (!ok) throw new Error(`realtime: presence: ${status} ${data?.code ?? ''}`);
      for (const presence of data.profiles) known.set(textOf(presence.profile), presence);
    }
    return profiles.map((profile) => known.get(textOf(profile)));
  }

  /** After what everybody gets at once, and often. */
  #askSoon() {
    const wait = DIGEST_MS * (0.5 + Math.random() / 2);
    for (const watcher of this.#watchers) watcher.askSoon(wait);
  }

  /** Is ask for all watchers that want to know now: a page may have one for each person that it shows. */
  async #askTogether(profiles) {
    const texts = profiles.map(textOf);
    const round = this.#asked ??= {
      texts: new Set(),
      answer: Promise.resolve().then(async () => {
        this.#asked = null;
        const all = [...round.texts], found = await this.ask(all);
        return new Map(all.map((text, i) => [text, found[i]]));
      }),
    };
    for (const text of texts) round.texts.add(text);
    const known = await round.answer;
    return texts.map((text) => known.get(text));
  }

  watch(profiles, fn) {
    checkFunction(fn, 'a listener');
    const watcher = new Watcher(checkedProfiles(profiles, 'profiles'), fn, (list) => this.#askTogether(list));
    if (this.#closed) return () => {};
    this.#watchers.add(watcher);
    this.#link?.want(this.#wish());
    return () => {
      watcher.stop();
      if (this.#watchers.delete(watcher)) this.#link?.want(this.#wish());
    };
  }

  async touch() {
    const { connectionId } = this.status;
    this.#touchedAt = performance.now();
    return Boolean(connectionId) && (await this.#door.call('POST', `/v1/connections/${connectionId}/touch`)).ok;
  }
}

/** What an event asks of listeners. */
class Work {
  left = new Set(); // who have not handled it: they are at it, or failed
  busy = 0;
  until;

  constructor(until = performance.now() + HELD_MS) { this.until = until; }

  /** Those who failed and listen still. */
  again(listeners) {
    const list = [...listeners].filter((listener) => this.left.has(listener));
    this.left = new Set();
    return list;
  }
}

/** The profiles of one presence.watch: asked for after each connect, then told as they change. */
class Watcher {
  #fn; #question; #life = new AbortController(); #heardAt = new Map(); #asking = false; #soon = false;
  isDue = true;

  constructor(profiles, fn, question) {
    this.profiles = profiles;
    this.#fn = fn;
    this.#question = question;
  }

  stop() { this.#life.abort(); }

  hear({ profile, status, lastActiveAt }) {
    if (this.#life.signal.aborted || !this.profiles.includes(textOf(profile))) return;
    this.#heardAt.set(textOf(profile), performance.now());
    tell(this.#fn, { profile, status, lastActiveAt });
  }

  async askSoon(wait) {
    if (this.#soon) return;
    this.#soon = true;
    await pause(wait, this.#life.signal);
    this.#soon = false;
    this.isDue = true;
    this.ask();
  }

  async ask() {
    if (this.#asking) return;
    this.#asking = true;
    for (let failures = 0; this.isDue && !this.#life.signal.aborted; failures++) {
      this.isDue = false;
      const askedAt = performance.now();
      try {
        const found = await this.#question(this.profiles);
        // What was heard while the question was under way is newer than its answer.
        for (const presence of found) {
          if (!this.#life.signal.aborted && !(this.#heardAt.get(textOf(presence.profile)) > askedAt)) tell(this.#fn, presence);
        }
        failures = 0;
      } catch {
        this.isDue = true;
        await pause(growing(RETRY_MS, failures), this.#life.signal);
      }
    }
    this.#asking = false;
  }
}
