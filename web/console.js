// The console of the hub: up to four people side by side, and what a service sees and does.
// Credentials are kept in memory: no address, no storage ever has one.

import { $, plural, shortForm, soon, textForm } from './dom.js';
import { startConnections } from './connections.js';
import { startGraphs } from './graph.js';
import { Pane } from './pane.js';
import { startPublishing } from './publish.js';
import { startRoster } from './roster.js';
import { enc, Service } from './service.js';

const NAMES = ['alice', 'bob', 'carol', 'dan', 'erin', 'frank', 'grace', 'heidi'];
const MOST = 4; // streams, of the six connections that a browser opens to a host over HTTP/1.1
const ASK_AGAIN_MS = 2000;

const query = new URLSearchParams(location.search);
const service = new Service(query.get('tenant') || 'demo');
const conversation = query.get('conversation') || 'lobby';
const panes = [];
let unheard = 0;

// What the page shows depends on whether the hub wants credentials.
while (!await service.probe()) {
  $('notice').textContent = 'The hub does not answer. Asking again every two seconds.';
  await new Promise((done) => { setTimeout(done, ASK_AGAIN_MS); });
}
$('notice').textContent = '';

const roster = startRoster(service, () => panes);
const connections = startConnections(service);
startGraphs(service);
const suggestAnew = startPublishing(service, () => ({
  profiles: panes.map(({ profile }) => profile).filter(Boolean),
  conversation: panes[0]?.conversation ?? conversation,
  connectionId: panes.find(({ isLive }) => isLive)?.connectionId,
}));

// ---- panes ----

const page = {
  service,
  onEvent(event) {
    if (event.type.startsWith('presence.')) {
      roster.take(event);
      return connections.refreshSoon();
    }
    if (event.type.startsWith('typing.')) return;
    unheard++;
    announce();
  },
  onReady(pane, isFirst) {
    if (isFirst) setTenant(pane.client.status.tenantId); // a token says where it belongs
    roster.refresh();
    connections.refreshSoon();
  },
  onChange: soon(() => {
    suggestAnew();
    roster.render();
    connections.refreshSoon();
    showAddress();
  }),
  onRemove(pane) {
    panes.splice(panes.indexOf(pane), 1);
    ($('panes').querySelector('.remove') ?? $('add')).focus();
    onPanes();
  },
};

// Screen readers hear of events at most once in five seconds, by number.
const announce = soon(() => {
  $('announcer').textContent = plural(unheard, 'new event');
  unheard = 0;
}, () => 5000);

function addPane(profile) {
  const pane = new Pane(page, profile, conversation);
  panes.push(pane);
  $('panes').append(pane.element);
  onPanes();
  return pane;
}

function onPanes() {
  $('add').disabled = panes.length >= MOST;
  $('most').hidden = panes.length < MOST;
  $('panes').dataset.count = panes.length;
  page.onChange();
}

/** Somebody who is not here yet. */
function addNext() {
  const taken = [...panes.map(({ profile }) => profile), ...roster.known()];
  const name = NAMES.find((one) => !taken.includes(textForm(one))) ?? `guest-${taken.length}`;
  const pane = addPane(textForm(name));
  if (service.isOpen) pane.connect();
  pane.element.scrollIntoView({ block: 'nearest' });
  pane.element.querySelector(service.isOpen ? '.message' : '.token').focus({ preventScroll: true });
}

// ---- where and as what ----

function setTenant(tenant) {
  $('tenant').value = tenant;
  if (tenant !== service.tenant) service.tenant = tenant;
  page.onChange();
}

/** The address says who is here, in open mode: a second tab, or a bookmark, brings the same. */
function showAddress() {
  const people = service.isOpen ? panes.map(({ profile }) => `&profile=${enc(shortForm(profile))}`).join('') : '';
  const address = `${location.pathname}?tenant=${enc(service.tenant)}${people}${conversation === 'lobby' ? '' : `&conversation=${enc(conversation)}`}`.replaceAll('%3A', ':');
  $('twin').href = address;
  history.replaceState(null, '', address);
}

function onScene() {
  const tenant = $('tenant').value.trim() || service.tenant;
  if ($('credential').value.trim()) service.credential = $('credential').value.trim();
  $('credential').value = ''; // kept in memory, no longer in the page
  if (tenant === service.tenant) return;
  setTenant(tenant);
  if (service.isOpen) for (const pane of panes) pane.connect();
}

service.addEventListener('change', () => {
  $('forget').hidden = !service.hasCredential;
  $('credential').placeholder = service.hasCredential ? 'in use until reload' : 'API key or token';
  for (const pane of panes) if (pane.isLive) pane.join();
});

document.addEventListener('submit', (event) => event.preventDefault());
$('scene').addEventListener('submit', onScene);
$('tenant').addEventListener('change', onScene);
$('forget').addEventListener('click', () => { service.credential = ''; });
$('add').addEventListener('click', addNext);

$('tenant').value = service.tenant;
$('service').hidden = service.isOpen;
if (!service.isOpen) {
  $('lead').textContent = 'This hub asks for credentials: a token for each person, and a service’s API key or token, with which this page publishes and sees everyone. The page keeps them in memory alone.';
}
const asked = query.getAll('profile').slice(0, MOST);
for (const name of asked.length ? asked : NAMES.slice(0, 2)) {
  const pane = addPane(textForm(name));
  if (service.isOpen) pane.connect();
}
