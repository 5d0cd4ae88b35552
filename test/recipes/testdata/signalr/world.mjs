// A hub as a page with the stock client of SignalR sees it, and as its service does.
import { HubConnectionBuilder, HttpTransportType, LogLevel } from '@microsoft/signalr';

export const base = process.argv[2];
const transport = HttpTransportType[process.argv[3]];
const stateful = process.argv[4] === 'stateful'; // the client asks to carry its session on over another socket
const deadline = 60_000;

/** A connection that keeps what it is told: its words by their type, each [what, cursor]. */
export function connection(profile, query = '', retries = []) {
  const builder = new HubConnectionBuilder().withUrl(`${base}/signalr?tenant=acme&profile=${profile}${query}`, { transport })
    .withAutomaticReconnect(retries).configureLogging(LogLevel.None);
  const c = (stateful ? builder.withStatefulReconnect() : builder).build();
  c.told = {};
  c.first = (type, of = () => true) => until(() => c.told[type]?.find(([what]) => of(what)), `${profile} is told ${type}`);
  for (const type of ['hub.ready', 'hub.gap', 'hub.closing', 'typing.started', 'typing.stopped', 'a.b', 'c.d', 'marker'])
    c.on(type, (...words) => (c.told[type] ??= []).push(words));
  c.closed = new Promise((tell) => c.onclose(tell));
  return c;
}

/** Waits until something is there, and is it. */
export async function until(there, what, within = deadline) {
  for (const end = Date.now() + within; ;) {
    const value = await there();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${within} ms: ${what}`);
    await new Promise((go) => setTimeout(go, 10));
  }
}

/** What a service calls, taken: again while it is told to come back later. */
export async function call(method, path, body) {
  for (const end = Date.now() + deadline; ;) {
    const answer = await fetch(base + path, { method, headers: { 'Content-Type': 'application/json' }, body: body && JSON.stringify(body) });
    const text = await answer.text();
    if (answer.ok) return text;
    if (answer.status !== 503 || Date.now() > end) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
  }
}

export const publish = (profile, payload, type = 'a.b') => call('POST', `/v1/tenants/acme/profiles/user:${profile}/events`, { type, payload });

/** What a connection has been told of a type once all before now has come. */
export async function heard(c, profile, type = 'a.b') {
  const mark = crypto.randomUUID();
  await publish(profile, mark, 'marker');
  await c.first('marker', ({ payload }) => payload === mark);
  return (c.told[type] ?? []).map(([{ payload }]) => payload);
}
