// One event that was published here: what came of it for whom, and why.

import { clock, cut, el, nameOf, textForm } from './dom.js';
import { advice, enc } from './service.js';
import { STATES, WHY } from './why.js';

const PAGE = 20;
const SHORT = { acknowledged: 'acknowledged', reported: 'reported', owed: 'not yet' }; // counted too; whoever was sent it is counted as owing it
const NEEDS = 'an API key, or a token with scope publish';
const SOONEST_MS = 500, LATEST_MS = 30000; // between two questions: twice as long each time that nothing is new
const JUDGED_MS = 60000; // so long after a deadline some hub may still have to judge it

/** Milliseconds of a deadline as the hub writes it, such as 90s; 0 where there is none. */
const millisOf = (deadline = '') => parseInt(deadline, 10) * { h: 3600000, m: 60000, s: 1000, ms: 1 }[deadline.replace(/\d+/, '')] || 0;

/** answer is null where nothing may be asked. */
function troubleOf(answer) {
  if (!answer) return `To see what came of it, paste the service credential at the top: ${NEEDS}.`;
  return answer.ok ? '' : advice(answer, NEEDS);
}

/** Why, in words; '' where there is nothing to explain: without a deadline nobody has to acknowledge what was sent. */
const becauseOf = ({ state, why }, { deadline }) => (!why || (state === 'sent' && !deadline) ? '' : WHY[why] ?? cut(why, 64));

function sentenceOf(receipt, event) {
  const at = receipt.at ? `, ${clock(receipt.at, true)}` : '';
  return `${nameOf(textForm(receipt.profile))} ${STATES[receipt.state] ?? cut(receipt.state, 64)}${at}. ${becauseOf(receipt, event)}`.trim();
}

function renderRow(receipt, event) {
  const { profile, state, at } = receipt, why = becauseOf(receipt, event);
  const item = el('li', '', el('bdi', 'name', nameOf(textForm(profile))), el('span', 'state', SHORT[state] ?? state));
  if (at) item.append(el('time', '', clock(at, true)));
  if (why) item.append(el('p', 'meta', why));
  Object.assign(item.dataset, { profile: textForm(profile), state });
  return item;
}

function untilOf(event, counts, isOver) {
  if (!event.deadline) return 'Without a deadline nobody has to acknowledge it.';
  if (!counts) return 'Who has acknowledged it is no longer kept.';
  const at = clock(Date.parse(event.timestamp) + millisOf(event.deadline), true);
  return isOver ? `The deadline was ${at}.` : `Reported if not acknowledged by ${at}.`;
}

export class Receipts {
  element = document.getElementById('published-event').content.cloneNode(true).firstElementChild;
  askAt = 0; // when to ask again; Infinity: nothing more can come of it, or the hub refuses to say
  #service; #path; #isListed; #publishedAt = Date.now(); // by this machine's clock, as askAt is
  #waitMs = SOONEST_MS; #shown = ''; #hasRows = false; #after = ''; #next = null;

  /** wake() has asked what is due. */
  constructor(service, { id, type, kind, whom }, wake) {
    this.#service = service;
    this.#path = service.path(`events/${enc(id)}/receipts`);
    this.#isListed = kind !== 'tenant' && kind !== 'connection';
    this.#part('type').textContent = cut(type, 128);
    this.#part('target').textContent = cut(whom || kind, 60);
    this.#part('id').textContent = cut(id, 64);
    const askNow = () => {
      this.askAt = 0;
      wake();
    };
    const turn = (to) => {
      this.#after = to;
      askNow();
    };
    this.element.addEventListener('toggle', () => { if (this.element.open && !this.#hasRows) askNow(); });
    this.#part('again').addEventListener('click', askNow);
    this.#part('first').addEventListener('click', () => turn(''));
    this.#part('following').addEventListener('click', () => turn(this.#next));
    this.#part('ask').addEventListener('submit', () => this.#askWhy());
  }

  #part(name) { return this.element.querySelector(`.${name}`); }
  async #call(query) { return this.#service.mayCall ? this.#service.call('GET', `${this.#path}?${query}`) : null; }

  /** Asks what has come of the event, and sets when to ask again. While it is closed its counts are enough. */
  async ask() {
    this.askAt = Infinity; // whoever wants to know meanwhile sets it
    this.#hasRows = this.element.open;
    const answer = await this.#call(this.#hasRows ? `limit=${PAGE}${this.#after && `&after=${enc(this.#after)}`}` : 'limit=1');
    this.#part('trouble').textContent = troubleOf(answer);
    this.askAt = Math.min(this.askAt, answer?.ok ? this.#take(answer) : this.#afterTrouble(answer));
    this.#part('again').hidden = this.askAt !== Infinity;
  }

  #afterTrouble(answer) {
    const isRefused = !answer || (answer.status >= 400 && answer.status < 500 && answer.status !== 429);
    this.#waitMs = Math.min(2 * this.#waitMs, LATEST_MS);
    return isRefused ? Infinity : Date.now() + Math.max(this.#waitMs, 1000 * answer.problem.retryAfter || 0);
  }

  #take({ text, data: { event = {}, counts = null, receipts = [], next = null } }) {
    const now = Date.now(), deadlineAt = this.#publishedAt + millisOf(event.deadline), isOver = now > deadlineAt;
    this.#waitMs = text === this.#shown ? Math.min(2 * this.#waitMs, LATEST_MS) : SOONEST_MS;
    if (text !== this.#shown) this.#show(event, counts, receipts, next);
    this.#shown = text;
    this.#part('until').textContent = untilOf(event, counts, isOver);
    // Whoever is reported before the deadline may still acknowledge it.
    const isFinal = counts ? !counts.owed && (isOver || !counts.reported) : receipts.every(({ state }) => state === 'sent');
    if (isFinal || now > deadlineAt + JUDGED_MS) return Infinity;
    return isOver ? now + this.#waitMs : Math.min(now + this.#waitMs, deadlineAt + SOONEST_MS); // when much changes
  }

  // ---- what is shown ----

  #show(event, counts, receipts, next) {
    const told = Object.entries(SHORT).filter(([state]) => counts?.[state]).map(([state, word]) => [state, `${counts[state].toLocaleString()} ${word}`]);
    this.#part('counts').replaceChildren(...told.map(([state, text]) => {
      const part = el('span', 'state', text);
      part.dataset.state = state;
      return part;
    }));
    this.#part('news').textContent = told.map(([, text]) => text).join(', ');
    if (!this.#hasRows) return;
    this.#next = next;
    this.#part('rows').replaceChildren(...receipts.map((receipt) => renderRow(receipt, event)));
    this.#part('nobody').textContent = receipts.length ? '' : this.#isListed ? 'It was for nobody.' : 'Who is in this target is not listed. Ask about one person.';
    this.#part('first').hidden = !this.#after;
    this.#part('following').hidden = !next;
  }

  async #askWhy() {
    const profile = this.#part('whom').value.trim();
    if (!profile) return this.#part('whom').focus();
    const answer = await this.#call(`profile=${enc(profile)}`);
    const receipt = answer?.data?.receipts?.[0];
    this.#part('because').textContent = receipt ? sentenceOf(receipt, answer.data.event ?? {}) : troubleOf(answer);
  }
}
