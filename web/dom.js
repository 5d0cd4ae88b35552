// What every panel of the console is made of. Whatever comes from outside reaches the page
// through textContent and input values only.

const KEPT = 200; // entries a list keeps

export const $ = (id) => document.getElementById(id);
export const cut = (value, max) => (String(value).length > max ? `${String(value).slice(0, max)}…` : String(value));
export const plural = (count, word) => `${count.toLocaleString()} ${word}${count === 1 ? '' : 's'}`;
export const splitList = (text) => text.split(/[,\n]/).map((part) => part.trim()).filter(Boolean);

export function el(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children); // strings become text nodes
  return node;
}

/** Text of any length, shown up to max until asked for whole. */
export function bounded(tag, className, text, max) {
  const node = el(tag, className, cut(text, max));
  if (text.length <= max) return node;
  const more = el('button', 'more', `Show all ${text.length.toLocaleString()} characters`);
  more.type = 'button';
  more.addEventListener('click', () => node.replaceChildren(text));
  node.append(more);
  return node;
}

export function parseJSON(text) {
  try { return JSON.parse(text); } catch { return undefined; }
}

const toMinutes = new Intl.DateTimeFormat([], { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const toMillis = new Intl.DateTimeFormat([], { hour: '2-digit', minute: '2-digit', second: '2-digit', fractionalSecondDigits: 3, hourCycle: 'h23' });

export function clock(time, exact = false) {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? '' : (exact ? toMillis : toMinutes).format(date);
}

/** A profile as the hub writes it, or as a person types it, in its text form; '' for anything else. */
export function textForm(profile) {
  if (typeof profile === 'string' && profile) return profile.includes(':') ? profile : `user:${profile}`;
  return typeof profile?.id === 'string' ? `${profile.type || 'user'}:${profile.id}` : '';
}

/** The shortest that means the same: "42" for "user:42". */
export const shortForm = (profile) => profile.replace(/^user:(?=[^:]+$)/, '');
export const nameOf = (profile) => cut(shortForm(profile), 48);
export const initial = (name) => [...name.toUpperCase()][0] ?? '';

/** Many calls in a burst, one run. A timer, because hidden tabs get no frames. */
export function soon(run, wait = () => 30) {
  let timer = 0;
  return () => { timer ||= setTimeout(() => { timer = 0; run(); }, wait()); };
}

/**
 * Runs at once and then again and again, as long as the element can be seen; returns what runs it now.
 * A run may say in how many milliseconds the next one is due; Infinity: only when asked.
 */
export function whileVisible(element, everyMs, run) {
  let timer = 0, running = false, again = false, shown = false;
  const next = async () => {
    clearTimeout(timer);
    if (!shown || document.hidden) return;
    if (running) return void (again = true);
    [running, again] = [true, false];
    const waitMs = await run() ?? everyMs;
    running = false;
    if (again || waitMs !== Infinity) timer = setTimeout(next, again ? 0 : waitMs);
  };
  new IntersectionObserver((entries) => {
    shown = entries.at(-1).isIntersecting;
    next();
  }).observe(element);
  document.addEventListener('visibilitychange', next);
  return next;
}

/**
 * A list that takes bursts in one repaint and forgets its oldest entries. In a burst
 * it repaints seldom and shows only what would remain.
 */
export function makeFeed(list, render, newestFirst) {
  let queue = [], count = 0, burst = false;
  let follows = !newestFirst, lastTop = 0;
  const toEnd = () => { if (follows) list.scrollTop = list.scrollHeight; };
  if (follows) {
    // Only who scrolls up stops following: a list that grows or shrinks moves its end, not the reader.
    list.addEventListener('scroll', () => {
      if (list.scrollHeight - list.scrollTop - list.clientHeight < 48) follows = true;
      else if (list.scrollTop < lastTop) follows = false;
      lastTop = list.scrollTop;
    });
    new ResizeObserver(toEnd).observe(list);
  }
  const flush = soon(() => {
    const items = queue.slice(-KEPT);
    burst = queue.length > 20;
    queue = [];
    if (items.length === KEPT) list.replaceChildren();
    const fresh = document.createDocumentFragment();
    let previous = newestFirst ? null : list.lastElementChild;
    for (const item of items) {
      fresh[newestFirst ? 'prepend' : 'append'](previous = render(item, previous));
      previous.classList.toggle('fresh', !burst);
    }
    list[newestFirst ? 'prepend' : 'append'](fresh);
    while (list.children.length > KEPT) (newestFirst ? list.lastElementChild : list.firstElementChild).remove();
    toEnd();
  }, () => (queue.length > 1 || burst ? 400 : 30));
  return {
    get count() { return count; },
    push(item) {
      count++;
      queue.push(item);
      if (queue.length > 2 * KEPT) queue = queue.slice(-KEPT);
      flush();
    },
    clear() { [queue, count, follows] = [[], 0, !newestFirst]; list.replaceChildren(); },
  };
}
