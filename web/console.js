// The console of the hub: one stream, seen as a conversation, an event log and a list of people.
// A token goes into a header and nowhere else: no address ever has it.
// Whatever comes from outside reaches the page through textContent and input values only.

import { openEventStream } from './eventstream.js';

const NAMES = ['alice', 'bob', 'carol', 'dan', 'erin', 'frank', 'grace', 'heidi'];
const KEPT = 200; // entries a list keeps, and people it shows
const TYPING_REPEAT_MS = 3000; // half of the hub's default TYPING_TTL
const TYPING_FORGET_MS = 12000; // only if the hub's own typing.stopped is lost
const TOUCH_MS = 20000;
const CLOSING = {
  expired: 'the token expired', drain: 'the hub is restarting', kicked: 'closed by an administrator',
  slow: 'this page read too slowly', capacity: 'the hub is full', replaced: 'replaced by another connection',
};

const state = {
  tenant: '', profile: '', conversation: '', joined: false,
  token: sessionStorage.getItem('token') ?? '',
  source: null, connectionId: '', cursor: '', closing: '',
  people: new Map(), // profile -> {status, lastActiveAt, heardAt}
  typists: new Map(), // profile -> timer
  typingAt: 0, touchedAt: 0, unheard: 0,
};

// ---- small helpers ----
const $ = (id) => document.getElementById(id);
const cut = (value, max) => (String(value).length > max ? `${String(value).slice(0, max)}…` : String(value));
const plural = (count, word) => `${count} ${word}${count === 1 ? '' : 's'}`;

function el(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children); // strings become text nodes
  return node;
}

/** Text of any length, shown up to max until asked for whole. */
function bounded(tag, className, text, max) {
  const node = el(tag, className, cut(text, max));
  if (text.length <= max) return node;
  const more = el('button', 'more', `Show all ${text.length.toLocaleString()} characters`);
  more.type = 'button';
  more.addEventListener('click', () => node.replaceChildren(text));
  node.append(more);
  return node;
}

function parseJSON(text) {
  try { return JSON.parse(text); } catch { return undefined; }
}

function clock(time, precision = {}) {
  const options = { hour: '2-digit', minute: '2-digit', hourCycle: 'h23', ...precision };
  return Number.isNaN(new Date(time).getTime()) ? '' : new Date(time).toLocaleTimeString([], options);
}

/** A profile as the hub writes it, or as a person types it, in its text form; '' for anything else. */
function textForm(profile) {
  if (typeof profile === 'string' && profile) return profile.includes(':') ? profile : `user:${profile}`;
  return typeof profile?.id === 'string' ? `${profile.type || 'user'}:${profile.id}` : '';
}

/** What people call a profile: its id, with the type only where it is not a user. */
const nameOf = (profile) => cut(profile.replace(/^user:/, ''), 48);

/** Many calls in a burst, one run. A timer, because hidden tabs get no frames. */
function soon(run, wait = () => 30) {
  let timer = 0;
  return () => { timer ||= setTimeout(() => { timer = 0; run(); }, wait()); };
}

/** A list that takes bursts in one repaint and forgets its oldest entries. */
function makeFeed(list, render, newestFirst) {
  let queue = [];
  const flush = soon(() => {
    const followed = list.scrollHeight - list.scrollTop - list.clientHeight < 48;
    for (const item of queue) list[newestFirst ? 'prepend' : 'append'](render(item, list.lastElementChild));
    while (list.children.length > KEPT) (newestFirst ? list.lastElementChild : list.firstElementChild).remove();
    if (!newestFirst && followed) list.scrollTop = list.scrollHeight;
    queue = [];
  });
  return {
    push(item) { queue = [...queue.slice(1 - KEPT), item]; flush(); },
    clear() { queue = []; list.replaceChildren(); },
  };
}

// ---- the hub's API ----
const enc = encodeURIComponent;
const tenantPath = (rest) => `/v1/tenants/${enc(state.tenant)}/${rest}`;

async function problemOf(response) {
  const body = parseJSON(await response.text());
  return { title: response.statusText || 'Refused', retryAfter: response.headers.get('Retry-After'), ...body };
}

/** Either a token or an API key. */
const credentials = () => (state.token ? { Authorization: `Bearer ${state.token}` } : {});

async function api(method, path, body) {
  const init = { method, cache: 'no-store', headers: credentials(), signal: AbortSignal.timeout(15000) };
  if (body) {
    init.headers['Content-Type'] = 'application/json';
    init.body = JSON.stringify(body);
  }
  try {
    const response = await fetch(path, init);
    if (!response.ok) return { ok: false, status: response.status, problem: await problemOf(response) };
    return { ok: true, status: response.status, data: parseJSON(await response.text()) ?? {} };
  } catch {
    return { ok: false, status: 0, problem: { title: 'The hub did not answer' } };
  }
}

const faultsOf = (problem) => (Array.isArray(problem.errors) ? problem.errors.filter((fault) => fault?.code) : []);

function sentence({ status, problem }) {
  const faults = faultsOf(problem).map((fault) => fault.detail || fault.code).join('; ');
  return cut([status, faults || problem.detail || problem.title].filter(Boolean).join(': '), 300);
}

// What a person does goes out one at a time: two requests in flight may overtake each other.
let lastCall = Promise.resolve();
const inOrder = (call) => (lastCall = lastCall.then(call));
const publish = (fields) => {
  const event = { tenantId: state.tenant, ...fields }; // of the tenant it was written in, however long it waits
  return inOrder(() => api('POST', '/v1/events', event));
};

// ---- who this tab is ----
// A colon may stand in a query, and a person may read the address.
const address = (profile) =>
  `?tenant=${enc(state.tenant)}&profile=${enc(profile)}&conversation=${enc(state.conversation)}`.replaceAll('%3A', ':');

function showIdentity() {
  for (const id of ['tenant', 'profile', 'conversation']) $(id).value = state[id];
  document.title = `${nameOf(state.profile)} · Realtime Hub`; // tells the tabs apart
  history.replaceState(null, '', location.pathname + address(state.profile));
  offerSecond();
}

/** Points the link at somebody who is not here yet, so that a third click brings a third person. */
function offerSecond() {
  const isFree = (profile) => profile !== state.profile && !/online|away/.test(state.people.get(profile)?.status);
  $('second').href = `/${address(NAMES.map(textForm).find(isFree) ?? `user:guest-${state.people.size}`)}`;
}

/** Who this tab is from now on; what somebody else saw is not theirs to see. */
function become(tenant, profile) {
  if (tenant !== state.tenant || profile !== state.profile) {
    Object.assign(state, { tenant, profile, cursor: '', joined: false });
    state.people.clear();
    renderPeople();
    eventFeed.clear();
    messageFeed.clear();
  }
  showIdentity();
}

function connectAs(tenant, profile, token = state.token) {
  state.token = token;
  sessionStorage.setItem('token', token); // of this tab, gone with it
  become(tenant, profile);
  openStream();
}

// ---- the stream ----
function setStatus(name, detail = '') {
  $('status').dataset.state = name;
  $('status').textContent = name;
  $('status-detail').textContent = detail;
  $('disconnect').disabled = name === 'closed';
  if (name === 'live') return;
  state.connectionId = '';
  $('connection-id').textContent = $('resume').textContent = '–';
  forgetTypists(...state.typists.keys());
}

function closeStream() {
  state.source?.close();
  Object.assign(state, { source: null, closing: '', typingAt: 0 });
}

function openStream() {
  closeStream();
  const query = new URLSearchParams({ tenant: state.tenant, profile: state.profile, named: 'false' });
  setStatus('connecting');
  state.source = openEventStream(`/v1/stream?${query}`, {
    headers: credentials,
    lastEventId: state.cursor,
    onEvent({ type, data, lastEventId }) {
      const body = parseJSON(data) ?? {};
      if (type === 'hub.ready') become(String(body.tenantId), textForm(body.profile)); // with a token it says who
      state.cursor = lastEventId;
      onEvent(type === 'message' ? body : { type, payload: body, timestamp: Date.now() });
    },
    onLost: () => setStatus('reconnecting', state.closing || 'the connection was lost'),
    async onRefused(response) {
      setStatus('closed', sentence({ status: response.status, problem: await problemOf(response) }));
    },
  });
}

function onReady(ready) {
  Object.assign(state, { connectionId: String(ready.connectionId), closing: '', touchedAt: Date.now() });
  setStatus('live');
  $('connection-id').textContent = cut(state.connectionId, 64);
  $('resume').textContent = cut(ready.resume, 32);
  if ($('target-kind').value === 'connection' && $('target-value').value === $('target-value').dataset.suggested) suggestTarget();
  join();
  fetchPeople();
}

/** Every event, in one shape: the hub's own have no envelope and are given one. */
function onEvent(event) {
  const { type, payload } = event;
  if (typeof type !== 'string') return;
  logEvent(event);
  if (type === 'hub.ready') onReady(payload);
  else if (type === 'hub.expiring') setStatus('live', `the token ends at ${clock(payload.expiresAt)}`);
  else if (type === 'hub.closing') setStatus('reconnecting', state.closing = CLOSING[payload.reason] ?? cut(payload.reason, 64));
  else if (type === 'presence.digest') fetchPeopleSoon();
  else if (type.startsWith('presence.')) onPresence(payload);
  else if (type.startsWith('typing.')) onTyping(event);
  else if (type === 'message.received') onMessage(event);
}

// ---- the event log ----
const isQuiet = (type) => /^(presence|typing)\./.test(type);

/** Presence and typing in words, all else as JSON. */
function summaryOf({ type, payload }) {
  const profile = isQuiet(type) && textForm(payload?.profile);
  if (!profile) return cut(JSON.stringify(payload), 240);
  return nameOf(profile) + (payload.conversationId ? ` in ${cut(payload.conversationId, 48)}` : '');
}

function renderEvent(event) {
  const { type, target, timestamp } = event;
  const reach = [target?.kind, target?.conversationId ?? target?.groupId].filter(Boolean).join(' ');
  const details = el('details', '', el('summary', '',
    el('time', '', clock(timestamp, { second: '2-digit', fractionalSecondDigits: 3 })),
    el('span', 'type', cut(type, 128)), el('span', 'target', cut(reach, 60)), el('span', 'payload', summaryOf(event))));
  const open = () => details.append(bounded('pre', '', JSON.stringify(target ? event : event.payload, null, 2), 4000));
  details.addEventListener('toggle', open, { once: true }); // most entries are never opened
  const item = el('li', isQuiet(type) ? 'quiet' : '', details);
  item.dataset.type = type;
  return item;
}

const eventFeed = makeFeed($('events'), renderEvent, true);

// Screen readers hear of events at most once in five seconds, by number.
const announce = soon(() => {
  $('announcer').textContent = plural(state.unheard, 'new event');
  state.unheard = 0;
}, () => 5000);

function logEvent(event) {
  eventFeed.push(event);
  if (isQuiet(event.type)) return;
  state.unheard++;
  announce();
}

// ---- people ----
const RANK = { online: 0, away: 1, offline: 2 };

async function fetchPeople() {
  const { source } = state;
  const askedAt = performance.now();
  let answer = await api('GET', tenantPath('presence'));
  if (answer.status === 403) { // not everybody may ask for all
    const known = [state.profile, ...state.people.keys()].slice(0, 200);
    answer = await api('GET', `/v1/presence?${new URLSearchParams([...new Set(known)].map((profile) => ['profile', profile]))}`);
  }
  if (state.source !== source) return;
  if (!answer.ok) return void ($('people-count').textContent = sentence(answer));
  // What was heard while the question was under way is newer than the answer.
  const people = new Map([...state.people].filter(([, person]) => person.heardAt > askedAt));
  for (const { profile, status, lastActiveAt } of answer.data.profiles ?? []) {
    if (!people.has(textForm(profile))) people.set(textForm(profile), { status, lastActiveAt, heardAt: askedAt });
  }
  state.people = people;
  renderPeople();
}

// A digest reaches everyone at once; their questions should not.
const fetchPeopleSoon = soon(fetchPeople, () => 500 + Math.random() * 1000);

function onPresence(payload) {
  const { status, lastActiveAt } = payload;
  state.people.set(textForm(payload.profile), { status, lastActiveAt, heardAt: performance.now() });
  if (status === 'offline') forgetTypists(textForm(payload.profile));
  renderPeople();
}

function renderPerson([profile, { status, lastActiveAt }]) {
  const name = nameOf(profile);
  const avatar = el('span', 'avatar', [...name.toUpperCase()][0] ?? '');
  avatar.ariaHidden = 'true';
  const item = el('li', '', avatar, el('bdi', 'name', name));
  if (profile === state.profile) item.append(el('span', 'tag', 'you'));
  item.append(el('span', 'meta', status !== 'online' && lastActiveAt ? `${status}, active ${clock(lastActiveAt)}` : status));
  Object.assign(item.dataset, { profile, status });
  return item;
}

const renderPeople = soon(() => {
  const people = [...state.people].sort(([a, one], [b, other]) => RANK[one.status] - RANK[other.status] || a.localeCompare(b));
  const [online, away] = ['online', 'away'].map((status) => people.filter(([, person]) => person.status === status).length);
  $('presence').replaceChildren(...people.slice(0, KEPT).map(renderPerson));
  if (people.length > KEPT) $('presence').append(el('li', 'meta', `and ${people.length - KEPT} more`));
  $('people-count').textContent = `${online} online${away ? `, ${away} away` : ''}`;
  offerSecond();
});

// ---- the conversation ----
async function join() {
  const { source, conversation } = state;
  const path = tenantPath(`conversations/${enc(conversation)}/members/${enc(state.profile)}`);
  const answer = await inOrder(() => api('PUT', path));
  if (state.source !== source || state.conversation !== conversation) return;
  // 409: membership is kept elsewhere, and this profile may well be a member there.
  state.joined = answer.ok || answer.status === 409;
  $('room-note').textContent = answer.ok ? '' : sentence(answer);
}

function switchRoom(conversation) {
  if (conversation !== state.conversation) {
    stopTyping();
    forgetTypists(...state.typists.keys());
    messageFeed.clear();
  }
  Object.assign(state, { conversation, joined: false });
  showIdentity();
  if (state.connectionId) join();
}

function onMessage({ payload, target, timestamp }) {
  if (target?.conversationId !== state.conversation) return;
  const from = textForm(payload?.from);
  forgetTypists(from);
  messageFeed.push({ from, text: typeof payload?.text === 'string' ? payload.text : JSON.stringify(payload), timestamp });
}

function renderMessage({ from, text, timestamp }, previous) {
  const own = from === state.profile;
  const who = el('bdi', 'who', own ? 'You' : nameOf(from) || 'no name given');
  if (own || previous?.dataset.from === from) who.className = 'unseen';
  const bubble = bounded('p', 'bubble', text, 600);
  bubble.dir = 'auto';
  const item = el('li', own ? 'own' : '', who, bubble, el('time', '', clock(timestamp)));
  item.dataset.from = from;
  return item;
}

const messageFeed = makeFeed($('messages'), renderMessage, false);

async function say() {
  const box = $('message');
  const payload = { text: box.value.trim(), from: state.profile };
  if (!payload.text) return;
  box.value = '';
  const target = { kind: 'conversation', conversationId: state.conversation };
  const sent = publish({ type: 'message.received', payload, target });
  stopTyping(); // after the message, which is what people wait for
  const answer = await sent;
  $('room-note').textContent = answer.ok ? '' : `Not sent. ${sentence(answer)}`;
  if (!answer.ok) box.value ||= payload.text;
}

function tellTyping(typing) {
  const path = `/v1/conversations/${enc(state.conversation)}/typing?tenant=${enc(state.tenant)}&profile=${enc(state.profile)}`;
  inOrder(() => api('POST', path, { state: typing }));
}

function onCompose() {
  if (!$('message').value.trim()) return stopTyping();
  if (!state.joined || !state.connectionId || Date.now() - state.typingAt < TYPING_REPEAT_MS) return;
  state.typingAt = Date.now();
  tellTyping('started');
}

function stopTyping() {
  if (state.typingAt) tellTyping('stopped');
  state.typingAt = 0;
}

function onTyping({ type, payload }) {
  const profile = textForm(payload?.profile);
  if (!profile || profile === state.profile || payload.conversationId !== state.conversation) return;
  forgetTypists(profile);
  if (type === 'typing.started') state.typists.set(profile, setTimeout(forgetTypists, TYPING_FORGET_MS, profile));
  renderTypists();
}

function forgetTypists(...profiles) {
  profiles.forEach((profile) => clearTimeout(state.typists.get(profile)));
  profiles.forEach((profile) => state.typists.delete(profile));
  renderTypists();
}

function renderTypists() {
  const names = [...state.typists.keys()].map(nameOf);
  const shown = names.length > 3 ? [...names.slice(0, 2), `${names.length - 2} more`] : names;
  const list = new Intl.ListFormat('en').format(shown);
  $('typing').textContent = names.length ? `${list} ${names.length > 1 ? 'are' : 'is'} typing…` : '';
}

// ---- publishing ----
const splitList = (text) => text.split(/[,\n]/).map((part) => part.trim()).filter(Boolean);

// Of each kind of target: how its value is labelled, what is suggested, and what it becomes on the wire.
const TARGETS = {
  tenant: ['Everyone in the tenant', () => '', () => ({})],
  profile: ['Profile', () => somebodyElse(), (value) => ({ profiles: value ? [value] : [] })],
  profiles: ['Profiles, by comma or line', () => `${state.profile}, ${somebodyElse()}`, (value) => ({ profiles: splitList(value) })],
  conversation: ['Conversation id', () => state.conversation, (value) => ({ conversationId: value })],
  group: ['Group id', () => 'staff', (value) => ({ groupId: value })],
  connection: ['Connection id', () => state.connectionId, (value) => ({ connectionId: value })],
};

const somebodyElse = () => [...state.people.keys()].find((profile) => profile !== state.profile) ?? 'user:bob';

/** A value that works as it stands, so that trying a target takes one click. */
function suggestTarget() {
  const [label, suggest] = TARGETS[$('target-kind').value];
  const box = $('target-value');
  box.value = box.dataset.suggested = suggest();
  box.disabled = $('target-kind').value === 'tenant';
  $('target-label').textContent = label;
}

function chosenTarget() {
  const kind = $('target-kind').value;
  const target = { kind, ...TARGETS[kind][2]($('target-value').value.trim()) };
  if ($('exclude-self').checked && state.connectionId) target.exclude = { connectionIds: [state.connectionId] };
  return target;
}

function checkPayload() {
  let fault = '';
  try {
    if (JSON.parse($('payload').value) === null) fault = 'null counts as no payload';
  } catch (error) {
    fault = cut(error.message, 200);
  }
  $('payload-error').textContent = fault;
  $('payload').ariaInvalid = String(Boolean(fault));
  return !fault;
}

async function sendEvent() {
  if (!checkPayload()) return $('payload').focus();
  showReceipt(await publish({
    type: $('type').value.trim(), payload: JSON.parse($('payload').value),
    target: chosenTarget(), ephemeral: $('ephemeral').checked,
  }));
}

const BOXES = { type: /^type/, payload: /^payload/, 'target-value': /^(target|profile|conversation|group|connection)/i };

function renderFault({ code, field, index, detail }) {
  const place = `${field ?? 'event'}${Number.isInteger(index) ? ` [${index}]` : ''}`;
  return el('li', '', el('code', '', cut(place, 80)), el('code', 'meta', cut(code, 64)), el('span', '', cut(detail ?? '', 300)));
}

function showReceipt({ ok, status, data, problem }) {
  const faults = ok ? [] : faultsOf(problem);
  for (const [id, pattern] of Object.entries(BOXES)) $(id).ariaInvalid = String(faults.some(({ field }) => pattern.test(field)));
  $('receipt').dataset.ok = ok;
  const line = (text) => el('p', 'meta', cut(text, 300));
  const rest = [];
  if (ok) rest.push(line(data.id));
  else if (faults.length) rest.push(el('ul', '', ...faults.slice(0, 20).map(renderFault)));
  else if (problem.detail) rest.push(line(problem.detail));
  if (problem?.retryAfter) rest.push(line(`Try again in ${problem.retryAfter} s`));
  if (problem?.id) rest.push(line(`It may have been stored as ${problem.id}`));
  const outcome = ok ? `reached ${plural(data.connections, 'connection')}` : problem.title;
  $('receipt').replaceChildren(el('p', 'outcome', cut([status, outcome].filter(Boolean).join(' – '), 200)), ...rest);
}

// ---- what the person does ----
/** Tells the hub that somebody is really here, seldom enough to cost nothing. */
function touch() {
  if (!state.connectionId || document.hidden || Date.now() - state.touchedAt < TOUCH_MS) return;
  state.touchedAt = Date.now();
  api('POST', `/v1/connections/${enc(state.connectionId)}/touch`);
}

function onFormKey(event) {
  const oneLine = event.target.id === 'target-value' && $('target-kind').value !== 'profiles';
  if (event.key !== 'Enter' || event.isComposing || !(event.ctrlKey || event.metaKey || oneLine)) return;
  event.preventDefault();
  $('publish').requestSubmit();
}

function onPageKey(event) {
  if (event.key !== '/' || event.ctrlKey || event.metaKey || event.target.closest('input, textarea, select')) return;
  event.preventDefault();
  $('message').focus();
}

const on = (id, type, handle) => $(id).addEventListener(type, handle);

document.addEventListener('submit', (event) => event.preventDefault());
document.addEventListener('keydown', onPageKey);
for (const type of ['pointerdown', 'pointermove', 'keydown', 'visibilitychange']) document.addEventListener(type, touch);
// A page taken back from the browser's cache has lost its stream.
addEventListener('pageshow', (event) => { if (event.persisted && state.source) openStream(); });
on('identity', 'submit', () => connectAs($('tenant').value.trim(), textForm($('profile').value.trim()), $('token').value.trim()));
on('disconnect', 'click', () => { closeStream(); setStatus('closed', 'by you'); });
on('room', 'submit', () => switchRoom($('conversation').value.trim()));
on('composer', 'submit', say);
on('message', 'input', onCompose);
on('message', 'blur', stopTyping);
on('clear', 'click', () => eventFeed.clear());
on('show-quiet', 'change', () => $('events').classList.toggle('no-quiet', !$('show-quiet').checked));
on('target-kind', 'change', suggestTarget);
on('payload', 'input', checkPayload);
on('publish', 'submit', sendEvent);
on('publish', 'keydown', onFormKey);

const query = new URLSearchParams(location.search);
const somebody = NAMES[Math.floor(Math.random() * NAMES.length)];
state.conversation = query.get('conversation') || 'lobby';
$('token').value = state.token;
suggestTarget();
connectAs(query.get('tenant') || 'demo', textForm(query.get('profile') || somebody));
