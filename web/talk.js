// The conversation of a pane: messages, who is typing, a line to write in.

import { bounded, clock, cut, el, makeFeed, nameOf, textForm } from './dom.js';
import { GAPS } from './log.js';
import { enc, sentence } from './service.js';

const TYPING_FORGET_MS = 12000; // only if the hub's own typing.stopped is lost

export class Talk {
  conversation;
  #root; #pane; #service; #feed; #last = Promise.resolve();
  #typing = null; #joined = false; #typists = new Map(); // profile -> timer

  constructor(root, pane, service, conversation) {
    this.#root = root;
    this.#pane = pane;
    this.#service = service;
    this.#feed = makeFeed(this.#part('messages'), (item, previous) => this.#render(item, previous), false);
    this.#part('room').addEventListener('submit', () => this.#enter(this.#part('conversation').value.trim()));
    this.#part('composer').addEventListener('submit', () => this.#say());
    this.#part('message').addEventListener('input', () => this.#onInput());
    this.#part('message').addEventListener('blur', () => this.#typing?.stop());
    this.#enter(conversation);
  }

  #part(name) { return this.#root.querySelector(`.${name}`); }
  #note(text) { this.#part('note').textContent = text; }
  /** What a person does goes out one at a time: two requests in flight may overtake each other. */
  #inOrder(call) { return (this.#last = this.#last.then(call)); }

  #enter(conversation) {
    if (!conversation) return this.#note('Name a conversation.');
    this.#typing?.stop();
    if (conversation !== this.conversation) this.clear();
    this.conversation = this.#part('conversation').value = conversation;
    this.#part('message').placeholder = `Write to ${cut(conversation, 40)}`;
    this.invite(!this.#pane.client);
    if (this.#pane.isLive) this.join();
  }

  /** Makes this person a member; again after each reconnect, which costs little. */
  async join() {
    const { client, profile } = this.#pane;
    const { conversation } = this;
    this.#typing = client.typing(conversation);
    this.#joined = !this.#service.mayCall; // perhaps it is
    if (this.#joined) return this.#note(`To join ${cut(conversation, 40)}, paste the service credential above. Who is a member already hears all.`);
    const answer = await this.#inOrder(() => this.#service.call('PUT', this.#service.path(`conversations/${enc(conversation)}/members/${enc(profile)}`)));
    if (this.#pane.client !== client || this.conversation !== conversation) return;
    // 404, 409: membership is changed elsewhere, and this profile may well be a member.
    this.#joined = answer.ok || [404, 409].includes(answer.status);
    this.#note(answer.ok ? '' : `Not joined. ${sentence(answer)}`);
  }

  // ---- what is heard ----

  take({ type, payload, target, timestamp }) {
    if (type === 'message.received' && target?.conversationId === this.conversation) {
      const from = textForm(payload?.from);
      this.#forget(from);
      this.#feed.push({ from, text: typeof payload?.text === 'string' ? payload.text : JSON.stringify(payload), timestamp });
    } else if (type.startsWith('typing.') && payload?.conversationId === this.conversation) {
      const profile = textForm(payload.profile);
      this.#forget(profile);
      if (type === 'typing.started' && profile !== this.#pane.profile) {
        this.#typists.set(profile, setTimeout(() => this.#forget(profile), TYPING_FORGET_MS));
        this.#showTypists();
      }
    } else if (type === 'presence.offline') {
      this.#forget(textForm(payload?.profile));
    }
  }

  gap(reason) { this.#feed.push({ gap: GAPS[reason] ?? cut(reason, 64) }); }

  lost() {
    this.#forget(...this.#typists.keys());
    this.#note('');
  }

  invite(isOver) {
    this.#part('message').disabled = this.#part('say').disabled = isOver;
    this.#part('unspoken').textContent = this.#pane.isLive ? 'Nothing has been said since you came.' : '';
    this.#part('invitation').textContent = isOver ? 'Connect this person first.' : `Write here, and everyone in ${cut(this.conversation, 40)} sees it.`;
  }

  clear() {
    this.#forget(...this.#typists.keys());
    this.#feed.clear();
    this.#note('');
  }

  #render({ from, text, timestamp, gap }, previous) {
    if (gap) return el('li', 'gap', el('strong', '', 'Something was missed here:'), ` ${gap}.`);
    const own = from === this.#pane.profile;
    const who = el('bdi', 'from', own ? 'You' : nameOf(from) || 'no name given');
    if (own || previous?.dataset.from === from) who.className = 'unseen';
    const bubble = bounded('p', 'bubble', text, 600);
    bubble.dir = 'auto';
    const item = el('li', own ? 'own' : '', who, bubble, el('time', '', clock(timestamp)));
    item.dataset.from = from;
    return item;
  }

  #forget(...profiles) {
    if (!profiles.some((profile) => this.#typists.has(profile))) return;
    for (const profile of profiles) {
      clearTimeout(this.#typists.get(profile));
      this.#typists.delete(profile);
    }
    this.#showTypists();
  }

  #showTypists() {
    const names = [...this.#typists.keys()].map(nameOf);
    const shown = names.length > 3 ? [...names.slice(0, 2), `${names.length - 2} more`] : names;
    this.#part('typing').textContent = names.length ? `${new Intl.ListFormat('en').format(shown)} ${names.length > 1 ? 'are' : 'is'} typing…` : '';
  }

  // ---- what is said ----

  async #say() {
    const box = this.#part('message');
    const text = box.value.trim();
    if (!text) return;
    if (!this.#service.mayCall) return this.#note('Not sent: only a service may publish. Paste its credential above.');
    box.value = '';
    const event = JSON.stringify({
      tenantId: this.#service.tenant, type: 'message.received', payload: { text, from: this.#pane.profile },
      target: { kind: 'conversation', conversationId: this.conversation },
    });
    const answer = await this.#inOrder(() => this.#service.call('POST', '/v1/events', event));
    if (!box.value) this.#typing?.stop(); // after the message, which is what people wait for
    this.#note(answer.ok ? '' : `Not sent. ${sentence(answer)}`);
    if (!answer.ok) box.value ||= text;
  }

  async #onInput() {
    const typing = this.#typing;
    if (!this.#part('message').value.trim()) return typing?.stop();
    if (!this.#joined || !this.#pane.isLive || await typing.start()) return;
    if (typing === this.#typing) this.#joined = false; // refused once, it is not asked again
  }
}
