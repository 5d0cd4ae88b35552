// The events of a pane, newest first.

import { bounded, clock, cut, el, makeFeed, nameOf, plural, textForm } from './dom.js';

/** What each kind of gap means, for those who look at it. */
export const GAPS = {
  expired: 'the history no longer reaches back to where this stream was',
  unknown: 'the hub does not know the place where this stream was',
  membership: 'something was said in a room of which it was not known who belongs to it',
  slow: 'this page read too slowly, so ephemeral events were left out',
};

const isQuiet = (type) => /^(presence|typing)\./.test(type);

/** Presence and typing in words, all else as JSON. */
function summaryOf({ type, payload }) {
  const profile = isQuiet(type) && textForm(payload?.profile);
  if (!profile) return cut(JSON.stringify(payload), 240);
  return nameOf(profile) + (payload.conversationId ? ` in ${cut(payload.conversationId, 48)}` : '');
}

function render(event) {
  const { type, payload, target, timestamp, note } = event; // note: what this page knows better
  const isGap = type === 'hub.gap';
  const reach = [target?.kind, target?.conversationId ?? target?.groupId].filter(Boolean).join(' ');
  const details = el('details', '', el('summary', '',
    el('time', '', clock(timestamp, true)), el('span', 'type', cut(type, 128)), el('span', 'target', cut(reach, 60)),
    el('span', 'payload', isGap ? `Events were missed for good: ${GAPS[payload.reason] ?? cut(payload.reason, 64)}.` : note ?? summaryOf(event))));
  // Most entries are never opened.
  const open = () => details.append(bounded('pre', '', JSON.stringify(target ? event : payload, null, 2), 4000));
  details.addEventListener('toggle', open, { once: true });
  const item = el('li', isGap ? 'gap' : isQuiet(type) ? 'quiet' : '', details);
  item.dataset.type = type;
  return item;
}

export class EventLog {
  #root; #feed;

  constructor(root) {
    this.#root = root;
    const list = root.querySelector('.events');
    this.#feed = makeFeed(list, render, true);
    root.querySelector('.clear').addEventListener('click', () => this.clear());
    const quiet = root.querySelector('.show-quiet');
    quiet.addEventListener('change', () => list.classList.toggle('no-quiet', !quiet.checked));
    new MutationObserver(() => this.#count()).observe(list, { childList: true });
  }

  /** The hub's own events have no envelope, so no time. */
  push(event) { this.#feed.push(event.timestamp ? event : { ...event, timestamp: Date.now() }); }

  clear() { this.#feed.clear(); }

  #count() { this.#root.querySelector('.count').textContent = this.#feed.count ? plural(this.#feed.count, 'event') : ''; }
}
