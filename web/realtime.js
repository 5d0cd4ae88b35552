// The browser's side of a realtime hub, and Node's: one module, no dependency, no build.
//
//   Client   what an application holds: listeners, typing, presence, activity
//   Shared   all tabs with one identity on one stream: who leads, who is told
//   Stream   one stream that is kept open: token, filter, reconnecting
//   Door     the hub's address and this person's credential
//   read     the bytes of a stream (HTML standard, section 9.2)

const RETRY_MS = 2000; // until the hub says how long
const RETRY_MOST_MS = 30_000;
const ANSWER_MS = 20_000; // until a call, or the beginning of a stream, is given up
const SILENCE_MS = 45_000; // three of the hub's default heartbeats
const TOUCH_MS = 20_000;
const RENEWED_MS = 5000; // after a renewal, until hub.expiring asks for another
const TYPING_MS = 3000; // half of the hub's default TYPING_TTL
const LEADER_MS = 5000; // until a leader that does not answer is deposed
const MOST_LISTED = 200; // the hub's bound of a filter and of a watch list
const MOST_IN_ADDRESS = 40; // watched profiles; proxies take 8 KiB of it
const REMEMBERED = 2000; // ids, to know repeats by
const KEPT_BATCHES = 500; // for a sibling that missed some

/** See realtime.d.ts. */
export function connect(options) {
  const client = new Client(options);
  return Object.freeze({
    get id() { return client.id; },
    get status() { return client.status; },
    get cursor() { return client.cursor; },
    on: (type, fn) => client.on(type, fn),
    onGap: (fn) => client.on('hub.gap', ({ payload }) => fn(payload)),
    onStatus: (fn) => client.onStatus(fn),
    typing: (conversation) => client.typing(conversation),
    presence: Object.freeze({
      watch: (profiles, fn) => client.watch(profiles, fn),
      get: (profiles) => client.ask(profiles),
    }),
    touch: () => client.touch(),
    close: () => client.close(),
  });
}

const pause = (ms, signal) => new Promise((done) => {
  const timer = setTimeout(done, ms);
  signal?.addEventListener('abort', () => { clearTimeout(timer); done(); }, { once: true });
});
// randomUUID is for secure contexts only.
const newID = () => crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');
const textOf = (profile) => (typeof profile === 'string' ? (profile.includes(':') ? profile : `user:${profile}`) : `${profile.type}:${profile.id}`);
const matches = (pattern, type) => pattern === type || (pattern.endsWith('*') && type.startsWith(pattern.slice(0, -1)));
const union = (lists) => [...new Set(lists.flat())].sort();
const isHidden = () => globalThis.document?.visibilityState === 'hidden';

/** Calls fn; what it throws is the page's to report, and nobody else's. */
function tell(fn, value) {
  try { fn(value); } catch (error) {
    if (globalThis.reportError) reportError(error);
    else console.error(error);
  }
}

// ---- reading ----

/**
 * Reads an event stream to its end. take is called with the events of each chunk,
 * {type, data, cursor}, of which data is parsed JSON; a frame that only moves the
 * cursor has the type ''. alive is called for each chunk, with whether it was a comment.
 */
async function read(body, cursor, { take, retry, alive }) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = '', type = '', data = [], id = cursor, events = [], commented = false;
  const line = (text) => {
    if (!text) {
      let parsed;
      try { parsed = data.length ? JSON.parse(data.join('\n')) : undefined; } catch { /* nothing of ours */ }
      if (parsed !== undefined) events.push({ type: type || 'message', data: parsed, cursor: id });
      else if (id !== cursor) events.push({ type: '', data: null, cursor: id });
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
    else if (field === 'retry' && /^\d+$/.test(value)) retry(Number(value));
    else if (field === '') commented = true;
  };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return; // what is unfinished is dropped
    rest += decoder.decode(value, { stream: true });
    const lines = rest.split(/\r\n|\n|\r(?!$)/); // a CR at the end may be half of a line's end
    rest = lines.pop();
    lines.forEach(line);
    alive(commented);
    if (events.length) take(events);
    events = [];
    commented = false;
  }
}

// ---- the hub's address, and who asks ----

class TokenError extends Error {}

class Door {
  #options; #base; #token = ''; #asking = null;
  skew = 0; // what the hub's clock is ahead of ours, ms

  constructor(options) {
    this.#options = options;
    this.#base = String(options.url ?? globalThis.location?.origin ?? '').replace(/\/+$/, '');
    if (!this.#base) throw new TypeError('connect: url is needed outside of a page');
    if (options.token !== undefined && typeof options.token !== 'function') throw new TypeError('connect: token must be a function');
    if (!options.token && !options.tenant !== !options.profile) throw new TypeError('connect: tenant and profile go together');
  }

  get hasToken() { return Boolean(this.#options.token); }

  /** What tells this person from others who use this browser; '' where only the cookie knows. */
  async identity() {
    const { tenant, profile, share } = this.#options;
    if (typeof share === 'string') return JSON.stringify([this.#base, share]);
    if (tenant) return JSON.stringify([this.#base, tenant, textOf(profile)]);
    if (!this.hasToken) return '';
    const claims = claimsOf(await this.token());
    // All of the token but what changes from one to the next: where more changes, nothing is shared.
    for (const name of ['exp', 'iat', 'nbf', 'jti', 'auth_time']) delete claims?.[name];
    return claims ? JSON.stringify([this.#base, Object.entries(claims).sort()]) : '';
  }

  /** The token, asked for anew where it ends soon, or where fresh says so. */
  async token(fresh = false) {
    if (!fresh && this.#token && !(this.life() < 5000)) return this.#token;
    this.#asking ??= (async () => String(await this.#options.token()))()
      .catch((cause) => { throw new TokenError('connect: token() failed', { cause }); })
      .finally(() => { this.#asking = null; });
    return (this.#token = await this.#asking);
  }

  /** How long the token lives, ms; undefined where it does not say. */
  life() {
    const exp = claimsOf(this.#token)?.exp;
    return typeof exp === 'number' ? exp * 1000 - (Date.now() + this.skew) : undefined;
  }

  /** A call of the hub. A token that it refuses is asked for anew, once. */
  async call(method, path, { query = [], body, headers, signal, fresh = false } = {}) {
    const { tenant, profile } = this.#options;
    const search = new URLSearchParams(query);
    const init = { method, cache: 'no-store', headers: { ...headers }, signal: signal ?? AbortSignal.timeout(ANSWER_MS) };
    if (body) {
      init.headers['Content-Type'] = 'application/json';
      init.body = JSON.stringify(body);
    }
    if (!this.hasToken && tenant) {
      search.set('tenant', tenant);
      if (!search.has('profile')) search.set('profile', textOf(profile));
      else init.headers['X-Profile-Id'] = String.fromCharCode(...new TextEncoder().encode(textOf(profile))); // the query asks about others
    }
    if (this.hasToken) init.headers.Authorization = `Bearer ${await this.token(fresh)}`;
    else if (!tenant) init.credentials = 'include';
    const address = [this.#base + path, ...(String(search) ? [search] : [])].join('?');
    const answer = await fetch(address, init);
    if (answer.status !== 401 || fresh || !this.hasToken) return answer;
    await answer.body?.cancel();
    return this.call(method, path, { query, body, headers, signal, fresh: true });
  }

  /** The same, for those who need no more than whether it was done. */
  async do(method, path, options) {
    try {
      const answer = await this.call(method, path, options);
      await answer.body?.cancel();
      return answer.ok;
    } catch { return false; }
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

// ---- one stream, kept open ----

/** What a tab wants is {types, presence}, of which types null and presence '*' are the hub's own choice. */
const merged = (wishes) => {
  const all = [...wishes];
  const types = all.some((wish) => !wish.types) ? null : union(all.map((wish) => wish.types));
  const presence = all.some((wish) => wish.presence === '*') ? '*' : union(all.map((wish) => wish.presence));
  return {
    types: types && types.length <= MOST_LISTED ? types : null,
    presence: presence.length <= MOST_LISTED ? presence : '*',
  };
};

const IDLE = {
  state: 'connecting', connectionId: null, tenantId: null, profile: null, resume: null,
  reason: null, retryMs: null, problem: null,
};

class Stream {
  #door; #meta; #sink; #wish; #applied = ''; #cursor;
  #attempt = null; #timer; #watchdog; #renewal; #renewing = false; #renewedAt = 0; #settling = false;
  #retry = RETRY_MS; #failures = 0; #closing = null; #heardAt = 0; #longest = 0; #beats = false;
  #status = { ...IDLE };

  /** sink has events(list) and status(status), and wants what wish says. */
  constructor(door, { meta, wish, cursor }, sink) {
    this.#door = door;
    this.#meta = Object.entries(meta ?? {}).map(([key, value]) => [`meta.${key}`, value]);
    this.#wish = wish;
    this.#cursor = cursor ?? '';
    this.#sink = sink;
    this.#watchdog = setInterval(() => this.#watch(), 5000);
    this.#open();
  }

  want(wish) {
    this.#wish = wish;
    this.#settle();
  }

  /** Tries at once, unless the hub itself said when. */
  wake() {
    if (this.#status.state === 'waiting' && !this.#closing) this.#open();
  }

  /** Begins anew at the same place: the network may have changed under the stream. */
  restart() {
    if (!this.#closing) this.#open();
  }

  close() {
    this.#stop();
    clearInterval(this.#watchdog);
  }

  #stop() {
    const attempt = this.#attempt;
    this.#attempt = null;
    attempt?.abort();
    clearTimeout(this.#timer);
    clearTimeout(this.#renewal);
    this.#applied = '';
  }

  #say(change) {
    this.#status = { ...this.#status, ...change };
    this.#sink.status(this.#status);
  }

  async #open() {
    this.#stop();
    const attempt = this.#attempt = new AbortController();
    const isOver = () => this.#attempt !== attempt;
    if (this.#status.state === 'live') this.#say({ state: 'waiting', connectionId: null, reason: 'lost', retryMs: 0 });
    this.#closing = null;
    const tooLate = setTimeout(() => attempt.abort(), ANSWER_MS);
    let reason = 'unreachable', problem = null;
    try {
      const { types, presence } = this.#wish;
      const inAddress = presence === '*' || presence.length <= MOST_IN_ADDRESS;
      const watched = presence === '*' ? [] : presence.length && inAddress ? presence : ['none'];
      const applied = JSON.stringify({ types, presence: inAddress ? presence : [] });
      const answer = await this.#door.call('GET', '/v1/stream', {
        query: [...this.#meta, ...(types ? [['types', types.join()]] : []), ...watched.map((profile) => ['presence', profile])],
        headers: { Accept: 'text/event-stream', ...(this.#cursor && { 'Last-Event-ID': this.#cursor }) },
        signal: attempt.signal,
      });
      clearTimeout(tooLate);
      if (isOver()) return void answer.body?.cancel();
      const kind = answer.headers.get('Content-Type') ?? '';
      if (answer.status === 200 && kind.startsWith('text/event-stream')) {
        reason = 'lost';
        this.#heardAt = Date.now();
        await read(answer.body, this.#cursor, {
          retry: (ms) => { this.#retry = ms; },
          alive: (commented) => this.#hear(commented),
          take: (events) => { if (!isOver()) this.#take(events, applied); },
        });
      } else {
        problem = { status: answer.status, title: answer.statusText || `status ${answer.status}` };
        // Who answers in problem details is the hub; anything else stands in between, and may be gone soon.
        if (kind.startsWith('application/problem+json')) Object.assign(problem, await answer.json());
        else await answer.body?.cancel();
        if (problem.code && answer.status < 500) {
          if (isOver()) return;
          this.close();
          return void this.#say({ ...IDLE, state: 'closed', reason: 'refused', problem });
        }
      }
    } catch (error) {
      if (attempt.signal.aborted && attempt.signal.reason === 'silent') reason = 'silent';
      else if (error instanceof TokenError) reason = 'token';
    }
    clearTimeout(tooLate);
    if (!isOver()) this.#wait(reason, problem);
  }

  #wait(reason, problem) {
    this.#stop();
    const growing = Math.min(this.#retry * 2 ** Math.min(this.#failures++, 5), Math.max(RETRY_MOST_MS, this.#retry));
    const retryMs = Math.round(this.#closing?.retryMs ?? growing * (0.5 + Math.random()));
    this.#say({ state: 'waiting', connectionId: null, reason: this.#closing?.reason ?? reason, retryMs, problem });
    this.#timer = setTimeout(() => this.#open(), retryMs);
  }

  #take(events, applied) {
    for (const { type, data, cursor } of events) {
      this.#cursor = cursor;
      if (type === 'hub.ready') this.#ready(data, applied);
      else if (type === 'hub.closing') this.#closing = { reason: String(data.reason), retryMs: Number(data.retryMs) || 0 };
      // A token that lives for less than 30 s is answered with it at once: that is no news.
      else if (type === 'hub.expiring' && Date.now() - this.#renewedAt > RENEWED_MS) this.#renew();
    }
    this.#sink.events(events);
    if (this.#status.state !== 'live') this.#settle();
  }

  #ready({ connectionId, tenantId, profile, connectedAt, resume }, applied) {
    this.#failures = 0;
    this.#applied = applied;
    this.#door.skew = Date.parse(connectedAt) - Date.now() || 0;
    this.#status = { ...this.#status, connectionId, tenantId, profile, resume };
    this.#plan();
  }

  // What the tabs want may have changed while the stream was opened, and changes while it is open.
  async #settle() {
    if (this.#settling) return;
    this.#settling = true;
    let { connectionId } = this.#status;
    while (connectionId && this.#applied !== JSON.stringify(this.#wish)) {
      const { types, presence } = this.#wish;
      const applied = JSON.stringify(this.#wish);
      const body = { types: types ?? ['*'], presence: presence === '*' ? ['*'] : presence.length ? presence : ['none'] };
      const done = await this.#door.do('PATCH', `/v1/connections/${connectionId}`, { body });
      if (!done) await pause(1000 + Math.random() * 1000, this.#attempt?.signal);
      else if (connectionId === this.#status.connectionId) this.#applied = applied;
      ({ connectionId } = this.#status);
    }
    this.#settling = false;
    if (connectionId && this.#attempt) this.#say({ state: 'live', reason: null, retryMs: null, problem: null });
  }

  // ---- a stream lives as long as its token ----

  #plan() {
    const life = this.#door.life();
    clearTimeout(this.#renewal);
    if (life === undefined || !this.#door.hasToken) return;
    const wait = life > 150_000 ? life - 60_000 - Math.random() * 15_000 : life / 2;
    this.#renewal = setTimeout(() => this.#renew(), Math.min(Math.max(wait, 1000), 2 ** 31 - 1));
  }

  async #renew() {
    const { connectionId } = this.#status;
    if (this.#renewing || !connectionId || !this.#door.hasToken) return;
    this.#renewing = true;
    if (await this.#door.do('PUT', `/v1/connections/${connectionId}/token`, { fresh: true })) this.#renewedAt = Date.now();
    this.#renewing = false;
    // A token that was no newer, or a call that failed: again at half of what is left.
    if (connectionId === this.#status.connectionId) this.#plan();
  }

  // ---- a stream that says nothing, not even that it lives ----

  #hear(commented) {
    const now = Date.now();
    if (this.#beats) this.#longest = Math.max(this.#longest, now - this.#heardAt);
    this.#beats ||= commented; // where heartbeats are off, silence means nothing
    this.#heardAt = now;
  }

  #watch() {
    if (this.isSilent()) this.#attempt?.abort('silent');
  }

  isSilent() {
    const limit = Math.max(SILENCE_MS, 3 * this.#longest);
    return Boolean(this.#status.connectionId) && this.#beats && Date.now() - this.#heardAt > limit;
  }
}

// ---- one stream for all tabs ----

const canShare = () => Boolean(globalThis.navigator?.locks && globalThis.BroadcastChannel && globalThis.location);
const isAfter = ([term, n], [otherTerm, otherN]) => term > otherTerm || (term === otherTerm && n > otherN);

/**
 * The tab that holds the lock leads: it has the stream, and hands each batch of events
 * to the others on a channel, under a number [term, n]. Each tab knows what all want and
 * how far it is itself, so that whoever leads next goes on from there.
 */
class Shared {
  #door; #options; #sink; #name; #id;
  #channel = null; #life = null; // its abort ends what this tab holds and waits for
  #wishes = new Map(); #minded = new Set();
  #joined = false; #at = [0, 0]; #term = 0; #cursor; // how far this tab is; the newest term it heard of
  #kept = []; #base = [0, 0]; // the last batches, and what came before them
  #stream = null; #after = null; #queue = null; #resign = null;
  #status = { ...IDLE }; #covered = []; // the tabs whose wishes the stream serves
  #heardAt = 0; #asked = 0; #pulse;
  leads = false;

  constructor(name, id, door, { meta, wish }, sink) {
    this.#name = `realtime 1 ${name}`; // 1: what tabs tell each other; another version does not join
    this.#id = id;
    this.#door = door;
    this.#options = { meta };
    this.#sink = sink;
    this.#wishes.set(id, wish);
    this.resume();
  }

  want(wish) {
    this.#wishes.set(this.#id, wish);
    if (this.#channel) this.#post({ kind: 'wish', wish });
    this.#stream?.want(merged(this.#wishes.values()));
  }

  wake() {
    this.#stream?.wake();
    this.#check();
  }

  restart() { this.#stream?.restart(); }

  close() { this.suspend(); }

  /** Leaves the others, as a page must that the browser puts aside. */
  suspend() {
    if (!this.#channel) return;
    this.#post({ kind: 'bye' });
    this.#stepDown();
    this.#life.abort();
    clearInterval(this.#pulse);
    this.#channel.close();
    this.#channel = null;
    this.#joined = false;
  }

  resume() {
    if (this.#channel) return;
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#life = new AbortController();
    this.#heardAt = Date.now();
    this.#pulse = setInterval(() => this.#check(), LEADER_MS);
    // Others learn that this tab is gone by this lock's being free.
    this.#hold(`${this.#name} ${this.#id}`, { mode: 'exclusive' }, () => {
      this.#hello();
      return new Promise((done) => { this.#life.signal.addEventListener('abort', done); });
    });
    this.#stand();
  }

  #post(message) { this.#channel?.postMessage({ from: this.#id, ...message }); }

  #hello() { this.#post({ kind: 'hello', wish: this.#wishes.get(this.#id), at: this.#at }); }

  #hold(name, options, held) {
    const { signal } = this.#life;
    return navigator.locks.request(name, options.steal ? options : { ...options, signal }, () => (signal.aborted ? undefined : held()))
      .catch(() => { /* given up, or deposed */ });
  }

  // ---- who leads ----

  async #stand(steal = false) {
    const { signal } = this.#life;
    this.#queue?.abort();
    const queue = this.#queue = new AbortController();
    signal.addEventListener('abort', () => queue.abort(), { once: true });
    const options = steal ? { steal: true } : { signal: queue.signal };
    await navigator.locks.request(this.#name, options, () => (queue.signal.aborted ? undefined : this.#lead())).catch(() => {});
    if (queue.signal.aborted) return;
    this.#stepDown(); // deposed, by a sibling that got no answer from here
    this.#hello();
    this.#stand();
  }

  #lead() {
    return new Promise((done) => {
      this.#resign = done;
      this.leads = this.#joined = true;
      this.#after = this.#at;
      this.#at = [this.#term = Math.max(this.#term, this.#at[0]) + 1, 0];
      for (const id of this.#wishes.keys()) this.#mind(id);
      this.#post({ kind: 'who' });
      this.#stream = new Stream(this.#door, { ...this.#options, wish: merged(this.#wishes.values()), cursor: this.#cursor }, {
        events: (events) => {
          const batch = { kind: 'batch', at: [this.#at[0], this.#at[1] + 1], after: this.#at[1] ? this.#at : this.#after, events };
          this.#post(batch);
          this.#take(batch);
        },
        status: (status) => this.#announce(status),
      });
    });
  }

  #stepDown() {
    this.#stream?.close();
    this.#stream = null;
    this.leads = false;
    this.#resign?.();
    this.#resign = null;
  }

  #announce(status) {
    this.#status = status;
    this.#covered = [...this.#wishes.keys()];
    if (status.state !== 'closed') this.#post({ kind: 'status', status, covered: this.#covered });
    this.#show();
  }

  #show() {
    const covered = this.#covered.includes(this.#id);
    this.#sink.status(this.#status.state === 'live' && !covered ? { ...this.#status, state: 'connecting' } : this.#status);
  }

  /** Forgets a sibling once its lock is free. */
  #mind(id) {
    if (id === this.#id || this.#minded.has(id)) return;
    this.#minded.add(id);
    this.#hold(`${this.#name} ${id}`, { mode: 'shared' }, () => {
      this.#post({ kind: 'bye', who: id });
      this.#forget(id);
    });
  }

  #forget(id) {
    this.#minded.delete(id);
    if (this.#wishes.delete(id)) this.#stream?.want(merged(this.#wishes.values()));
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
    this.#term = Math.max(this.#term, message.at?.[0] ?? 0);
    switch (kind) {
      case 'hello':
        this.#wishes.set(from, message.wish);
        if (!this.leads) return;
        this.#mind(from);
        this.#welcome(from, message.at);
        return this.#stream.want(merged(this.#wishes.values()));
      case 'wish':
        this.#wishes.set(from, message.wish);
        return this.#stream?.want(merged(this.#wishes.values()));
      case 'bye': return this.#forget(message.who ?? from);
      case 'who': return this.#hello();
      // In a page that stands still this may be answered all the same, while its stream is not read.
      case 'ping': return void (this.leads && !this.#stream.isSilent() && this.#post({ kind: 'pong', to: from }));
    }
    if (this.leads) return; // of a leader that does not know yet that it was deposed
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

  /** Tells a tab where the stream is, and what it missed of it. */
  #welcome(to, at) {
    const isNew = at[0] === 0;
    const reaches = isNew || !isAfter(this.#base, at);
    const missed = isNew ? [] : this.#kept.filter((batch) => isAfter(batch.at, at));
    this.#post({
      kind: 'welcome', to, wishes: [...this.#wishes], status: this.#status, covered: this.#covered.filter((id) => id !== to),
      at: this.#at, cursor: this.#cursor, missed, isNew, reaches,
    });
  }

  #join({ wishes, status, covered, at, cursor, missed, isNew, reaches }) {
    for (const [id, wish] of wishes) if (id !== this.#id) this.#wishes.set(id, wish);
    this.#joined = true;
    if (!reaches) this.#sink.events([{ type: 'hub.gap', data: { reason: 'unknown', cursor }, cursor }]);
    for (const batch of missed) if (isAfter(batch.at, this.#at)) this.#take(batch);
    if (isNew || !reaches) [this.#kept, this.#base] = [[], at];
    if (isAfter(at, this.#at)) this.#move(at, cursor);
    this.#status = status;
    this.#covered = covered;
    this.#show();
  }

  #move(at, cursor) {
    this.#at = at;
    this.#cursor = cursor;
  }

  #receive(batch) {
    if (!this.#joined || !isAfter(batch.at, this.#at)) return; // its welcome is under way, or it was told before
    if (isAfter(batch.after, this.#at)) return this.#hello(); // some are missing
    this.#take(batch);
  }

  #take(batch) {
    this.#kept.push(batch);
    if (this.#kept.length > KEPT_BATCHES) this.#base = this.#kept.shift().at;
    this.#move(batch.at, batch.events.at(-1)?.cursor ?? this.#cursor);
    this.#sink.events(batch.events);
  }
}

// ---- what an application holds ----

class Client {
  id = newID();
  cursor = null;
  status = { ...IDLE, leader: false, shared: false, reconnects: 0 };
  #options; #door; #link = null; #closed = false; #life = new AbortController();
  #listeners = new Map(); #onStatus = new Set(); #watchers = new Set();
  #known = new Set(); // ids of the last events
  #connected = null; #reconnects = -1; #touchedAt = Date.now(); #typing = Promise.resolve(true);

  constructor(options) {
    this.#options = { ...options };
    this.#door = new Door(this.#options);
    this.cursor = options.cursor ?? null;
    this.#start();
    if (globalThis.document) this.#attend();
  }

  async #start() {
    const { share = true, cursor } = this.#options;
    let identity = '';
    for (let failures = 0; share && !cursor && canShare() && !this.#closed; failures++) {
      try {
        identity = await this.#door.identity();
        break;
      } catch { // the page's own token() failed
        const retryMs = Math.round(Math.min(RETRY_MS * 2 ** failures, RETRY_MOST_MS) * (0.5 + Math.random()));
        this.#show({ ...IDLE, state: 'waiting', reason: 'token', retryMs });
        await pause(retryMs, this.#life.signal);
      }
    }
    if (this.#closed) return;
    const { meta } = this.#options;
    const sink = { events: (events) => this.#take(events), status: (status) => this.#show(status) };
    this.#link = identity
      ? new Shared(identity, this.id, this.#door, { meta, wish: this.#wish() }, sink)
      : new Stream(this.#door, { meta, wish: merged([this.#wish()]), cursor }, sink);
  }

  /** What makes a page's person active, and its network another. */
  #attend() {
    const { signal } = this.#life;
    const touch = () => {
      if (Date.now() - this.#touchedAt >= TOUCH_MS) this.touch();
    };
    for (const type of ['pointerdown', 'pointermove', 'keydown', 'wheel', 'touchstart']) {
      document.addEventListener(type, touch, { signal, passive: true, capture: true });
    }
    document.addEventListener('visibilitychange', () => {
      if (isHidden()) return;
      this.#link?.wake();
      touch();
    }, { signal });
    addEventListener('online', () => this.#link?.restart(), { signal });
    addEventListener('pagehide', () => this.#link?.suspend?.(), { signal });
    addEventListener('pageshow', ({ persisted }) => {
      if (persisted) this.#link?.resume?.();
    }, { signal });
  }

  // ---- events ----

  on(pattern, fn) {
    if (!this.#listeners.has(pattern)) this.#listeners.set(pattern, new Set());
    const listener = (event) => fn(event); // one for each call, also of the same function
    this.#listeners.get(pattern).add(listener);
    return () => this.#listeners.get(pattern)?.delete(listener);
  }

  #tell(event) {
    for (const [pattern, listeners] of [...this.#listeners]) {
      // The hub's own are asked for by name.
      if (!matches(pattern, event.type) || (pattern === '*' && event.type.startsWith('hub.'))) continue;
      for (const listener of [...listeners]) tell(listener, event);
    }
  }

  #take(events) {
    for (const { type, data, cursor } of events) {
      if (this.#closed) return;
      if (cursor) this.cursor = cursor;
      if (type.startsWith('hub.')) this.#tell({ type, payload: data });
      else if (type && data?.type && !this.#isRepeat(data.id)) this.#receive(data);
    }
  }

  #isRepeat(id) {
    if (this.#known.has(id)) return true;
    this.#known.add(id);
    if (this.#known.size > REMEMBERED) this.#known.delete(this.#known.values().next().value);
    return false;
  }

  /** A shared stream brings what the siblings want, too. */
  #receive(event) {
    const { type, payload } = event;
    if (type === 'presence.digest') for (const watcher of this.#watchers) watcher.ask(Math.random() * 1000);
    else if (type.startsWith('presence.')) for (const watcher of this.#watchers) watcher.hear(payload);
    if (event.correlationId === this.id) return; // its own echo
    const { types, presence } = this.#own();
    if (types && !types.some((pattern) => matches(pattern, type))) return;
    const isOfOne = type.startsWith('presence.') && type !== 'presence.digest';
    if (presence !== '*' && type.startsWith('presence.') && !(isOfOne && presence.includes(textOf(payload.profile)))) return;
    this.#tell(event);
  }

  /** What the application asked for; who names profiles to watch wants to hear of them, whatever the types. */
  #own() {
    const { types, presence } = this.#options;
    const list = presence === undefined ? '*' : presence === 'none' ? [] : union([presence.map(textOf)]);
    return { types: types ? union([types, Array.isArray(presence) && presence.length ? ['presence.*'] : []]) : null, presence: list };
  }

  /** The same, with what presence.watch needs. */
  #wish() {
    const { types, presence } = this.#own();
    const watched = [...this.#watchers].map((watcher) => watcher.profiles);
    return {
      types: types && watched.length ? union([types, ['presence.*']]) : types,
      presence: presence === '*' ? '*' : union([presence, ...watched]),
    };
  }

  // ---- status ----

  onStatus(fn) {
    const listener = (status) => fn(status);
    this.#onStatus.add(listener);
    tell(listener, this.status);
    return () => this.#onStatus.delete(listener);
  }

  #show(status) {
    if (this.#closed) return;
    const isNew = status.state === 'live' && status.connectionId !== this.#connected;
    if (isNew) {
      this.#connected = status.connectionId;
      this.#reconnects++;
      this.#touchedAt = Date.now(); // who connects is active
    }
    const shared = this.#link instanceof Shared;
    this.status = Object.freeze({ ...status, shared, leader: shared && this.#link.leads, reconnects: Math.max(this.#reconnects, 0) });
    if (isNew) for (const watcher of this.#watchers) watcher.ask(0);
    for (const listener of [...this.#onStatus]) tell(listener, this.status);
    if (status.state === 'closed') this.#end();
  }

  // ---- typing, presence, activity ----

  typing(conversation) {
    const send = (state) => (this.#typing = this.#typing.then(() => // in order
      this.#door.do('POST', `/v1/conversations/${encodeURIComponent(conversation)}/typing`, { body: { state } })));
    let sentAt = 0;
    return {
      start: async () => {
        if (Date.now() - sentAt < TYPING_MS) return true;
        sentAt = Date.now();
        return send('started');
      },
      stop: async () => {
        if (!sentAt) return true;
        sentAt = 0;
        return send('stopped');
      },
    };
  }

  async ask(profiles) {
    const found = [];
    for (let i = 0; i < profiles.length; i += MOST_LISTED) {
      const query = profiles.slice(i, i + MOST_LISTED).map((profile) => ['profile', textOf(profile)]);
      const answer = await this.#door.call('GET', '/v1/presence', { query });
      if (!answer.ok) throw new Error(`presence: ${answer.status} ${await answer.text()}`);
      found.push(...(await answer.json()).profiles);
    }
    return found;
  }

  watch(profiles, fn) {
    const watcher = new Watcher(profiles.map(textOf), fn, (list) => this.ask(list), this.#life.signal);
    this.#watchers.add(watcher);
    this.#link?.want(this.#wished());
    if (this.status.state === 'live') watcher.ask(0);
    return () => {
      watcher.stop();
      this.#watchers.delete(watcher);
      this.#link?.want(this.#wished());
    };
  }

  #wished() {
    return this.#link instanceof Shared ? this.#wish() : merged([this.#wish()]);
  }

  async touch() {
    const { connectionId } = this.status;
    this.#touchedAt = Date.now();
    return Boolean(connectionId) && this.#door.do('POST', `/v1/connections/${connectionId}/touch`);
  }

  close() {
    if (this.#closed) return;
    this.#show({ ...IDLE, state: 'closed', reason: 'closed' });
  }

  #end() {
    this.#closed = true;
    this.#link?.close();
    this.#life.abort();
    this.#listeners.clear();
    this.#onStatus.clear();
    this.#watchers.clear();
  }
}

/** The profiles of one presence.watch: asked for after each connect, then as they change. */
class Watcher {
  #fn; #ask; #signal; #heardAt = new Map(); #stopped = false; #turn = 0;

  constructor(profiles, fn, ask, signal) {
    this.profiles = profiles;
    this.#fn = fn;
    this.#ask = ask;
    this.#signal = signal;
  }

  hear(presence) {
    const profile = textOf(presence.profile);
    if (this.#stopped || !this.profiles.includes(profile)) return;
    this.#heardAt.set(profile, performance.now());
    const { status, lastActiveAt } = presence;
    tell(this.#fn, { profile: presence.profile, status, lastActiveAt });
  }

  async ask(after) {
    const turn = ++this.#turn;
    const isOver = () => this.#stopped || this.#signal.aborted || turn !== this.#turn;
    for (let failures = 0; !isOver(); failures++) {
      if (after) await pause(after, this.#signal);
      const askedAt = performance.now();
      try {
        const found = await this.#ask(this.profiles);
        if (isOver()) return;
        // What was heard while the question was under way is newer than its answer.
        for (const presence of found) {
          if (!(this.#heardAt.get(textOf(presence.profile)) > askedAt)) tell(this.#fn, presence);
        }
        return;
      } catch {
        after = Math.min(RETRY_MS * 2 ** failures, RETRY_MOST_MS) * (0.5 + Math.random());
      }
    }
  }

  stop() { this.#stopped = true; }
}
