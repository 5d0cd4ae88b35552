// One person: a client of their own, how its stream fares, what it brings.

import { connect } from './realtime.js';
import { cut, initial, nameOf, shortForm, textForm } from './dom.js';
import { enc, sentence } from './service.js';
import { EventLog, GAPS } from './log.js';
import { Talk } from './talk.js';

const REASONS = {
  expired: 'the token expired', drain: 'the hub is restarting', kicked: 'the hub was told to close the stream',
  slow: 'this page read too slowly', capacity: 'the hub is full', replaced: 'a newer connection of this person took its place', pending: 'the token cannot be taken yet',
  unacked: 'an event with a deadline was not handled for long', unavailable: 'what the stream needs cannot be had now',
  refused: 'the hub does not take the token', lost: 'the stream was lost', silent: 'the hub fell silent', held: 'the network holds streams back, so another way is tried', unreachable: 'the hub does not answer', token: 'the token could not be had',
};

const BACK_MS = 3000; // until a stream that was cut here is opened again

/** page has service, and wants onEvent(event), onReady(pane, isFirst), onChange() and onRemove(pane). */
export class Pane {
  static #made = 0;
  element = document.getElementById('pane').content.cloneNode(true).firstElementChild;
  client = null;
  #number = ++Pane.#made; // two panes may be of one person
  #page; #token = ''; #connectionId = null; #gaps = 0; #missed = ''; #back = 0; #ticking = 0; #isCut = false;
  #talk; #log;

  constructor(page, profile, conversation) {
    this.#page = page;
    this.#part('profile').value = shortForm(profile);
    this.#log = new EventLog(this.element);
    this.#talk = new Talk(this.element, this, page.service, conversation);
    const onClick = (name, act) => this.#part(name).addEventListener('click', act);
    this.#part('identity').addEventListener('submit', () => this.connect());
    onClick('disconnect', () => this.#disconnect());
    onClick('cut', () => this.#cut());
    onClick('remove', () => this.remove());
    this.#show({ state: 'closed', reason: null, problem: null });
  }

  #part(name) { return this.element.querySelector(`.${name}`); }

  /** In text form; with a token the hub says who it is for, and until then nobody knows. */
  get profile() {
    const told = textForm(this.client?.status.profile);
    return told || (this.#page.service.isOpen ? textForm(this.#part('profile').value.trim()) : '');
  }
  get conversation() { return this.#talk.conversation; }
  get connectionId() { return this.#connectionId; }
  get isLive() { return this.client?.status.state === 'live'; }

  connect() {
    const { service } = this.#page;
    const box = this.#part(service.isOpen ? 'profile' : 'token');
    this.#token = this.#part('token').value.trim() || this.#token;
    this.#part('token').value = ''; // kept in memory, no longer in the page
    if (service.isOpen ? !this.profile : !this.#token) {
      this.#part('detail').textContent = service.isOpen ? 'Say who this is.' : 'Paste a token of this person: a JWT that your login service signed.';
      return box.focus();
    }
    this.client?.close();
    this.#log.clear();
    this.#talk.clear();
    [this.#connectionId, this.#gaps, this.#missed] = [null, 0, ''];
    const who = service.isOpen ? { tenant: service.tenant, profile: this.profile } : { token: () => this.#token };
    this.client = null;
    const client = connect({ ...who, meta: { client: 'console' } });
    this.client = client;
    client.on('*', (event) => this.#take(event));
    client.on('hub.*', (event) => this.#take(event));
    client.onGap((gap) => this.#onGap(gap));
    let isRefused = false;
    client.onStatus((status) => {
      if (isRefused || this.client !== client) return;
      isRefused = status.problem?.status === 401; // another token is for the page to ask for, and this one has none but what was pasted
      this.#onStatus(isRefused ? { ...status, state: 'closed' } : status);
      if (isRefused) client.close();
    });
  }

  join() { return this.#talk.join(); }

  #disconnect() {
    this.#token = '';
    this.client?.close();
  }

  remove() {
    this.#disconnect();
    this.element.remove();
    this.#page.onRemove(this);
  }

  /** The hub drops the stream. A client stays away then until somebody uses the page; here it comes back anyway, with what it missed. */
  async #cut() {
    const { service } = this.#page;
    if (!this.#connectionId) return;
    if (!service.mayCall) return void (this.#part('detail').textContent = 'Cutting a stream takes the service credential: paste it above.');
    this.#isCut = true;
    const answer = await service.call('DELETE', service.path(`connections/${enc(this.#connectionId)}`));
    if (answer.ok) return;
    this.#isCut = false;
    this.#part('detail').textContent = `Not cut. ${sentence(answer)}`;
  }

  // ---- what the stream brings ----

  #take(event) {
    const isOurs = this.#isCut && event.type === 'hub.closing' && event.payload?.reason === 'kicked';
    this.#log.push(isOurs ? { ...event, note: `Cut by you: back in ${BACK_MS / 1000} s.` } : event);
    this.#talk.take(event);
    this.#page.onEvent(event);
  }

  #onGap({ reason }) {
    this.#gaps++;
    this.#missed = `events were missed for good: ${GAPS[reason] ?? cut(reason, 64)}`; // stays, where the log moves on
    this.#talk.gap(reason);
    this.#show(this.client.status);
  }

  #onStatus(status) {
    this.#show(status);
    if (status.state === 'live') this.#isCut = false;
    if (status.state === 'displaced' && this.#isCut) {
      const { client } = this;
      setTimeout(() => client.reconnect(), BACK_MS);
    }
    if (status.state === 'live' && status.connectionId !== this.#connectionId) {
      this.#connectionId = status.connectionId;
      this.#page.onReady(this, status.reconnects === 0);
      this.join();
    } else if (status.state !== 'live') {
      this.#connectionId = null;
      this.#talk.lost();
    }
    this.#page.onChange();
  }

  // ---- how it fares ----

  #show(status) {
    const { state, reason, problem, retryMs } = status;
    const name = this.profile ? nameOf(this.profile) : 'nobody yet';
    const isOver = state === 'closed';
    const focused = document.activeElement; // what is hidden below loses it
    this.element.ariaLabel = `Pane ${this.#number}: ${name}`;
    this.element.dataset.profile = this.profile;
    this.#part('name').textContent = name;
    this.#part('avatar').textContent = initial(this.profile ? name : '?');
    const isOurs = this.#isCut && reason === 'kicked', word = isOurs ? 'cut' : state;
    this.#part('status').dataset.state = state;
    if (this.#part('status').textContent !== word) this.#part('status').textContent = word; // is read out
    const why = isOurs ? 'cut by you' : problem ? sentence({ status: problem.status, problem }) : REASONS[reason] ?? cut(reason ?? (state === 'live' ? this.#missed : ''), 128);
    const how = state === 'displaced' && !this.#isCut ? '; a click or a key brings it back' : '';
    this.#part('detail').textContent = isOver && reason === 'closed' ? '' : why && `${why[0].toUpperCase()}${why.slice(1)}${how}.`.replace(/\.\.$/, '.');
    this.element.classList.toggle('refused', Boolean(isOver && problem));
    this.#part('cut').ariaDisabled = String(state !== 'live'); // disabled, it would lose the focus
    this.#part('cut').hidden = this.#part('disconnect').hidden = isOver;
    this.#part('identity').hidden = !isOver;
    if (focused?.closest('[hidden]') && this.element.contains(focused)) this.#part(isOver ? 'connect' : 'disconnect').focus();
    this.#part('remove').ariaLabel = `Remove ${name}`;
    this.#part('identity').classList.toggle('with-token', !this.#page.service.isOpen);
    this.#talk.invite(isOver);
    this.#facts(status);
    this.#countDown(state === 'waiting' ? retryMs : state === 'displaced' && this.#isCut ? BACK_MS : 0);
  }

  #facts({ state, resume, leader, shared, connectionId, reconnects }) {
    this.#part('resume').textContent = resume ?? '–';
    this.#part('resume').dataset.resume = resume;
    this.#part('reconnects').textContent = (reconnects ?? 0).toLocaleString();
    this.#part('gaps').textContent = this.#gaps.toLocaleString();
    this.#part('gaps').classList.toggle('some', this.#gaps > 0);
    this.#part('shared').textContent = state !== 'live' ? '–' : shared ? (leader ? 'leader' : 'follower') : 'no';
    this.#part('shared').title = shared ? 'All tabs and panes of this browser with this identity use one stream, which the leader holds' : 'A stream of its own';
    this.#part('connection').textContent = state === 'live' ? cut(connectionId, 64) : '–';
  }

  #countDown(ms) {
    clearInterval(this.#ticking);
    this.#back = Date.now() + ms;
    const tell = () => {
      const seconds = Math.ceil((this.#back - Date.now()) / 1000);
      this.#part('countdown').textContent = seconds > 0 ? `back in ${seconds} s` : '';
    };
    tell();
    if (ms > 0) this.#ticking = setInterval(tell, 250);
  }
}
