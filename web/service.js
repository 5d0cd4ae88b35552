// The hub's API as a service calls it: to publish, to see everyone, to close streams.
// The credential is kept in memory and goes into a header, nowhere else.

import { cut, parseJSON } from './dom.js';

export const enc = encodeURIComponent;

/** Tells 'change' when the tenant or the credential is another. */
export class Service extends EventTarget {
  isOpen = true;
  #tenant; #credential = '';

  constructor(tenant) {
    super();
    this.#tenant = tenant;
  }

  get tenant() { return this.#tenant; }
  set tenant(tenant) { this.#change(() => { this.#tenant = tenant; }); }
  get hasCredential() { return this.#credential !== ''; }
  set credential(credential) { this.#change(() => { this.#credential = credential; }); }
  /** Without this every call is refused, so none is made. */
  get mayCall() { return this.isOpen || this.hasCredential; }

  #change(change) {
    change();
    this.dispatchEvent(new Event('change'));
  }

  path(rest) { return `/v1/tenants/${enc(this.#tenant)}/${rest}`; }

  /** Learns whether this hub wants credentials; false where it did not answer. */
  async probe() {
    const { status } = await this.call('GET', `/v1/presence?tenant=${enc(this.#tenant)}&profile=nobody`);
    this.isOpen = status !== 401;
    return status !== 0;
  }

  /** body is JSON as text, so that what is shown is what is sent. */
  async call(method, path, body) {
    const init = { method, cache: 'no-store', headers: {}, signal: AbortSignal.timeout(15000) };
    if (this.#credential) init.headers.Authorization = `Bearer ${this.#credential}`;
    if (body !== undefined) {
      init.headers['Content-Type'] = 'application/json';
      init.body = body;
    }
    try {
      const response = await fetch(path, init);
      const text = await response.text();
      const { ok, status } = response;
      if (ok) return { ok, status, text, data: parseJSON(text) ?? {} };
      return { ok, status, problem: { title: response.statusText || 'Refused', retryAfter: response.headers.get('Retry-After'), ...parseJSON(text) } };
    } catch {
      return { ok: false, status: 0, problem: { title: 'The hub did not answer' } };
    }
  }
}

export const faultsOf = (problem) => (Array.isArray(problem.errors) ? problem.errors.filter((fault) => fault?.code) : []);

export const ELSEWHERE = 'This address does not answer that (404). Where REALTIME_ADMIN_ADDR is set, only that address does: open this console there.';

export function sentence({ status, problem }) {
  if (problem.code === 'NotFound') return ELSEWHERE; // the path, and not what it names
  const faults = faultsOf(problem).map((fault) => fault.detail || fault.code).join('; ');
  return cut([status, faults || problem.detail || problem.title].filter(Boolean).join(': '), 300);
}

/** What to do where an administrator's call is refused. */
export function advice(answer, needs) {
  if (answer.status === 401) return `The service credential is not valid (401). Paste ${needs} above.`;
  if (answer.status === 403) return `${sentence(answer)}. It takes ${needs}, of this tenant.`;
  return sentence(answer);
}
