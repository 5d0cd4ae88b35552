// The form that publishes, and the line of shell that does the same.

import { $, cut, el, plural, splitList, textForm } from './dom.js';
import { startPublished } from './published.js';
import { enc, faultsOf } from './service.js';

// Of each kind of target: how its value is labelled, what is suggested, and what it becomes on the wire.
const TARGETS = {
  tenant: ['Everyone in the tenant', () => '', () => ({})],
  profile: ['Profile', ({ profiles }) => profiles[1] ?? profiles[0], (value) => ({ profiles: value ? [value] : [] })],
  profiles: ['Profiles, separated by commas', ({ profiles }) => profiles.join(', '), (value) => ({ profiles: splitList(value) })],
  conversation: ['Conversation id', ({ conversation }) => conversation, (value) => ({ conversationId: value })],
  group: ['Group id', () => 'staff', (value) => ({ groupId: value })],
  connection: ['Connection id', ({ connectionId }) => connectionId, (value) => ({ connectionId: value })],
};

// Which box a fault of a field is of.
const BOXES = {
  type: /^type/, payload: /^payload/, correlation: /^correlationId/, deadline: /^deadline/, offline: /^offline/, 'exclude-profiles': /^target\.exclude\.profiles/,
  'exclude-connections': /^target\.exclude\.connectionIds/, 'target-value': /^(target(?!\.exclude)|profile|conversation|group|connection)/i,
};

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`; // for sh

/** JSON as it was written, numbers and all, without the blanks between its tokens. */
const compact = (json) => json.replace(/("(?:[^"\\]|\\.)*")|\s+/g, '$1');

/** The command that sends a body as this page would. */
export function curlLine(origin, body, hasKey) {
  const key = hasKey ? ' -H "Authorization: Bearer $KEY"' : ''; // an API key, or a token that may publish
  return `curl -sS ${quoted(`${origin}/v1/events`)} -H 'Content-Type: application/json'${key} -d ${quoted(body)}`;
}

/** suggest() tells of whom there is: {profiles, conversation, connectionId}. */
export function startPublishing(service, suggest) {
  const onPublished = startPublished(service);
  const value = (id) => $(id).value.trim();

  /** A value that works as it stands, so that trying a target takes one click. */
  function suggestTarget() {
    const [label, suggested] = TARGETS[value('target-kind')];
    const box = $('target-value');
    box.value = box.dataset.suggested = suggested(suggest()) ?? '';
    box.disabled = value('target-kind') === 'tenant';
    $('target-label').textContent = label;
    show();
  }

  function body() {
    const kind = value('target-kind');
    const target = { kind, ...TARGETS[kind][2](value('target-value')) };
    const [profiles, connectionIds] = [splitList(value('exclude-profiles')), splitList(value('exclude-connections'))];
    if (profiles.length || connectionIds.length) {
      target.exclude = { ...(profiles.length && { profiles }), ...(connectionIds.length && { connectionIds }) };
    }
    const rest = {
      target, ...(value('correlation') && { correlationId: value('correlation') }), ...($('ephemeral').checked && { ephemeral: true }),
      ...(value('deadline') && { deadline: value('deadline') }), ...($('offline').checked && { offline: 'report' }),
    };
    const head = { tenantId: service.tenant, type: value('type') };
    return `${JSON.stringify(head).slice(0, -1)},"payload":${compact($('payload').value)},${JSON.stringify(rest).slice(1)}`;
  }

  function payloadFault() {
    try {
      return JSON.parse($('payload').value) === null ? 'null counts as no payload' : '';
    } catch (error) {
      return cut(error.message, 200);
    }
  }

  /** The line as it stands while somebody writes. */
  function show() {
    const fault = payloadFault();
    $('payload-error').textContent = fault;
    $('payload').ariaInvalid = String(Boolean(fault));
    $('copy').disabled = Boolean(fault);
    if (fault) $('receipt').replaceChildren(); // it was of another payload
    const line = fault ? 'The payload has to be JSON first.' : curlLine(location.origin, body(), !service.isOpen);
    if ($('curl').textContent === line) return;
    $('curl').textContent = line;
    $('copied').textContent = '';
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText($('curl').textContent);
      $('copied').textContent = service.isOpen ? 'Copied' : 'Copied; set KEY first';
    } catch { // not over plain http, and not where it is forbidden
      getSelection().selectAllChildren($('curl'));
      $('copied').textContent = 'Selected: copy it with Ctrl C';
    }
  }

  async function send() {
    if (payloadFault()) return $('payload').focus();
    if (!service.mayCall) return showReceipt({ ok: false, problem: { title: 'Not sent', detail: 'Only a service may publish. Paste its credential at the top.' } });
    const event = { type: value('type'), kind: value('target-kind'), whom: value('target-value') };
    const answer = await service.call('POST', '/v1/events', body());
    showReceipt(answer);
    if (answer.ok && answer.data.cursor) onPublished({ ...event, id: answer.data.id }); // of what is not kept nobody knows more
  }

  /** Why nobody was reached, where that is easily seen. */
  function hintOf({ connections, duplicate }) {
    if (connections || duplicate) return '';
    const kind = value('target-kind'), id = value('target-value');
    if (kind !== 'group' && kind !== 'conversation') return 'Nobody of this target is connected.';
    return `Nobody of this ${kind} is connected. Make members with PUT ${service.path(`${kind}s/${enc(id)}/members/${textForm(suggest().profiles[0] ?? 'alice')}`)}`;
  }

  function renderFault({ code, field, index, detail }) {
    const place = `${field ?? 'event'}${Number.isInteger(index) ? ` [${index}]` : ''}`;
    return el('li', '', el('code', '', cut(place, 80)), el('code', 'meta', cut(code, 64)), el('span', '', cut(detail ?? '', 300)));
  }

  function showReceipt({ ok, status, data, problem }) {
    const faults = ok ? [] : faultsOf(problem);
    for (const [id, pattern] of Object.entries(BOXES)) $(id).ariaInvalid = String(faults.some(({ field }) => pattern.test(field)));
    if (faults.some(({ field }) => /exclude|correlation|deadline|offline/.test(field))) $('options').open = true;
    $('receipt').dataset.ok = ok;
    const rest = [];
    const line = (text) => text && rest.push(el('p', 'meta', cut(text, 300)));
    if (ok) line(hintOf(data) || (data.cursor ? '' : data.id)); // what is stored has its id below
    else if (faults.length) rest.push(el('ul', '', ...faults.slice(0, 20).map(renderFault)));
    else line(problem.detail);
    line(problem?.retryAfter && `Try again in ${problem.retryAfter} s`);
    line(problem?.id && `It may have been stored as ${problem.id}`);
    const outcome = ok ? `reached ${plural(data.connections ?? 0, 'connection')}` : problem.title;
    $('receipt').replaceChildren(el('p', 'outcome', cut([status, outcome].filter(Boolean).join(' – '), 200)), ...rest);
  }

  function onKey(event) {
    const oneLine = event.target.id === 'target-value' && value('target-kind') !== 'profiles';
    if (event.key !== 'Enter' || event.isComposing || !(event.ctrlKey || event.metaKey || oneLine)) return;
    event.preventDefault();
    $('publish').requestSubmit();
  }

  $('target-kind').addEventListener('change', suggestTarget);
  $('publish').addEventListener('input', ({ target }) => {
    if (target.id in BOXES) target.ariaInvalid = 'false'; // until the hub has judged what it is now
    show();
  });
  $('publish').addEventListener('keydown', onKey);
  $('publish').addEventListener('submit', send);
  $('copy').addEventListener('click', copy);
  service.addEventListener('change', show);
  suggestTarget();
  /** Who is there has changed: a suggestion that nobody touched follows. */
  return () => {
    if ($('target-value').value === $('target-value').dataset.suggested && document.activeElement !== $('target-value')) suggestTarget();
  };
}
