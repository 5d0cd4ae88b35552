// The events that were published here, newest first, and the one question at a time about what came of them.

import { $, whileVisible } from './dom.js';
import { Receipts } from './receipts.js';

const KEPT = 10;

/** Returns what takes an event that was published: {id, type, kind, whom}. */
export function startPublished(service) {
  let events = [], { tenant } = service;

  const nextAt = () => Math.min(...events.map(({ askAt }) => askAt)); // Infinity: of none there is anything to ask

  const wake = whileVisible($('published'), 0, async () => {
    const due = events.find(({ askAt }) => askAt === nextAt());
    if (due?.askAt <= Date.now()) await due.ask();
    return nextAt() - Date.now();
  });

  function keep(list) {
    events = list.slice(0, KEPT);
    $('published').replaceChildren(...events.map(({ element }) => element));
  }

  // What another credential may not know, or may, is asked anew.
  service.addEventListener('change', () => {
    if (service.tenant !== tenant) keep([]);
    tenant = service.tenant;
    for (const event of events) event.askAt = 0;
    wake();
  });

  return (event) => {
    const fresh = new Receipts(service, event, wake);
    for (const { element } of events) element.open = false;
    fresh.element.open = true;
    keep([fresh, ...events]);
    fresh.element.scrollIntoView({ block: 'nearest' }); // what is out of sight is not asked about
    wake();
  };
}
