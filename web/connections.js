// The open streams of the tenant, a hundred at a time, each with a button that closes it.

import { $, clock, cut, el, nameOf, plural, soon, textForm, whileVisible } from './dom.js';
import { advice, enc } from './service.js';

const PAGE = 100;
const EVERY_MS = 3000;
const NEEDS = 'an API key, or a token with scope admin';

export function startConnections(service) {
  const rows = new Map(); // id -> row: a button under somebody's finger stays where it is
  let after = '', next = null;

  function makeRow({ id, profile }) {
    const name = nameOf(textForm(profile));
    const kick = el('button', 'kick', 'Kick');
    kick.type = 'button';
    kick.ariaLabel = `Kick ${name}, connection ${id}`;
    kick.addEventListener('click', async () => {
      kick.disabled = true;
      const answer = await service.call('DELETE', service.path(`connections/${enc(id)}`));
      kick.disabled = false;
      if (answer.ok || answer.status === 404) refresh();
      else $('connections-note').textContent = `Not closed. ${advice(answer, NEEDS)}`;
    });
    const row = el('tr', '', el('th', '', name), el('td', '', el('code', '', id)), el('td', ''), el('td', ''), el('td', ''), el('td', '', kick));
    row.firstChild.scope = 'row';
    row.dataset.id = id;
    row.dataset.profile = textForm(profile);
    return row;
  }

  function fill(row, { connectedAt, lastActivityAt, metadata, transport }) {
    const told = Object.entries(metadata ?? {}).map(([key, value]) => `${key}=${value}`).join(', ');
    [clock(connectedAt), clock(lastActivityAt), cut([transport, told].filter(Boolean).join(' · '), 80)].forEach((text, i) => {
      const cell = row.children[i + 2];
      if (cell.textContent !== text) cell.textContent = text;
    });
    return row;
  }

  function show(list) {
    const ids = new Set(list.map(({ id }) => id));
    for (const [id, row] of rows) {
      if (ids.has(id)) continue;
      row.remove();
      rows.delete(id);
    }
    list.forEach((connection, i) => {
      if (!rows.has(connection.id)) rows.set(connection.id, makeRow(connection));
      const row = fill(rows.get(connection.id), connection);
      if ($('rows').children[i] !== row) $('rows').insertBefore(row, $('rows').children[i] ?? null);
    });
    $('connections').classList.toggle('none', !list.length);
  }

  async function load() {
    if (!service.mayCall) {
      show([]);
      $('connections-count').textContent = '';
      $('connections-note').textContent = `Paste the service credential above: ${NEEDS}.`;
      return;
    }
    const answer = await service.call('GET', service.path(`connections?limit=${PAGE}${after && `&after=${enc(after)}`}`));
    $('connections-note').textContent = answer.ok ? '' : advice(answer, NEEDS);
    if (!answer.ok) {
      $('connections-count').textContent = '';
      return show([]);
    }
    const { connections = [], count = 0 } = answer.data;
    if (!connections.length && after) { // the page is gone with its connections
      after = '';
      return load();
    }
    next = answer.data.next;
    show(connections);
    $('connections-count').textContent = count > connections.length ? `${connections.length} of ${plural(count, 'stream')}` : plural(count, 'stream');
    $('older').hidden = !next;
    $('newer').hidden = !after;
  }

  const refresh = whileVisible($('connections'), EVERY_MS, load);
  const turn = (to) => {
    after = to;
    refresh();
  };
  $('older').addEventListener('click', () => turn(next));
  $('newer').addEventListener('click', () => turn(''));
  service.addEventListener('change', () => turn(''));
  return { refreshSoon: soon(refresh, () => 400) };
}
