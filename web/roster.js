// Everyone in the tenant: asked for after each connect, then as presence events tell.

import { $, clock, el, initial, nameOf, soon, textForm, whileVisible } from './dom.js';
import { advice } from './service.js';

const SHOWN = 200;
const EVERY_MS = 5000;
const GONE_MS = 60_000; // after which who is offline, and past what is shown, is forgotten
const RANK = { online: 0, away: 1, offline: 2 };

/** panes() is who is here, of whom one may be asked where no service credential is. */
export function startRoster(service, panes) {
  let people = new Map(); // profile -> {status, lastActiveAt, heardAt}
  let turn = 0;
  let missing = null; // why people is not everyone; '' where it is, null before anything is known

  /** What a person's own credential may see of those known. */
  async function askAsPerson() {
    const pane = panes().find(({ isLive }) => isLive);
    const known = [...new Set([...panes().map(({ profile }) => profile), ...people.keys()])].filter(Boolean);
    try {
      return await pane?.client.presence.get(known.slice(0, SHOWN)) ?? [];
    } catch { return []; }
  }

  async function refresh() {
    const mine = ++turn, askedAt = performance.now(), { tenant } = service;
    const answer = service.mayCall ? await service.call('GET', service.path('presence')) : null;
    const found = answer?.ok ? answer.data.profiles : await askAsPerson();
    if (mine !== turn || tenant !== service.tenant) return;
    missing = answer?.ok ? '' : answer ? advice(answer, 'an API key, or a token with scope admin')
      : 'To see everyone, paste the service credential at the top.';
    // What was heard while the question was under way is newer than the answer; a person's own view is not of all.
    const kept = [...people].filter(([, person]) => !answer?.ok || person.heardAt > askedAt);
    people = new Map(kept);
    for (const { profile, status, lastActiveAt } of found ?? []) {
      const name = textForm(profile);
      if (!(people.get(name)?.heardAt > askedAt)) people.set(name, { status, lastActiveAt, heardAt: askedAt });
    }
    render();
  }

  // A digest reaches everyone at once; their questions should not.
  const refreshSoon = soon(refresh, () => 500 + Math.random() * 1000);

  function take({ type, tenantId, payload }) {
    if (tenantId !== service.tenant) return;
    if (type === 'presence.digest') return refreshSoon();
    const { status, lastActiveAt } = payload;
    people.set(textForm(payload.profile), { status, lastActiveAt, heardAt: performance.now() });
    render();
  }

  function renderPerson([profile, { status, lastActiveAt }]) {
    const name = nameOf(profile);
    const avatar = el('span', 'avatar', initial(name));
    avatar.ariaHidden = 'true';
    const item = el('li', '', avatar, el('bdi', 'name', name));
    if (panes().some((pane) => pane.profile === profile && pane.isLive)) item.append(el('span', 'tag', 'here'));
    item.append(el('span', 'meta', status !== 'online' && lastActiveAt ? `${status}, active ${clock(lastActiveAt)}` : status));
    Object.assign(item.dataset, { profile, status });
    return item;
  }

  const render = soon(() => {
    const since = performance.now() - GONE_MS;
    const list = [...people].sort(([a, one], [b, other]) => RANK[one.status] - RANK[other.status] || a.localeCompare(b))
      .filter(([, { status, heardAt }], i) => i < SHOWN || status !== 'offline' || heardAt > since);
    people = new Map(list);
    const [online, away] = ['online', 'away'].map((status) => list.filter(([, person]) => person.status === status).length);
    $('presence').replaceChildren(...list.slice(0, SHOWN).map(renderPerson));
    if (list.length > SHOWN) $('presence').append(el('li', 'meta', `and ${(list.length - SHOWN).toLocaleString()} more`));
    const unknown = missing !== '' && !list.length;
    $('presence').parentElement.classList.toggle('none', unknown);
    if (missing !== null) $('people-note').textContent = missing && `${unknown ? 'Who is online is not known.' : 'Shown are those heard of so far.'} ${missing}`;
    $('people-count').textContent = unknown ? '' : `${online.toLocaleString()} online${away ? `, ${away.toLocaleString()} away` : ''}`;
  }, () => 200);

  // Without a stream nobody tells who goes: then it is asked again and again.
  whileVisible($('presence').parentElement, EVERY_MS, async () => {
    if (service.mayCall && !panes().some(({ isLive }) => isLive)) await refresh();
  });

  service.addEventListener('change', () => {
    people.clear();
    refresh();
  });
  refresh();
  return { take, refresh, render, known: () => [...people].filter(([, { status }]) => status !== 'offline').map(([profile]) => profile) };
}
