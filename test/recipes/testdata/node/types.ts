// What TypeScript makes of realtime.d.ts: each line that it must refuse is marked.
import { connect, type Client, type RealtimeEvent, type Status } from 'realtimehub';

interface Events { // an interface has no index signature
  'message.received': { text: string };
  'message.removed': { id: string };
  'order.line.paid': { cents: number };
}

// Without a map everything goes, as it did before there was one.
const plain: Client = connect({ tenant: 't', profile: 'me' });
plain.on('message.received', (event) => {
  const payload: unknown = event.payload;
  // @ts-expect-error: nobody said what it has
  event.payload.text;
  return payload;
});
plain.on<{ text: string }>('message.received', ({ payload }) => payload.text.trim());
plain.on('*', (event: RealtimeEvent) => event.type.trim());

const hub = connect<Events>({ token: async () => 'a', types: ['message.*'], share: 'me' });
hub.on('message.received', ({ type, payload }) => {
  const same: 'message.received' = type;
  // @ts-expect-error: of another event
  payload.id;
  return same + payload.text.trim();
});
hub.on<'message.received'>('message.received', ({ payload }) => payload.text.trim());
hub.on('message.*', (event) => {
  if (event.type === 'message.received') return event.payload.text.trim();
  return event.payload.id.trim();
});
hub.on('order.line.*', ({ payload }) => payload.cents.toFixed());
hub.on('order.*', ({ payload }) => payload.cents.toFixed());
// What is in no map comes as it did.
hub.on('presence.online', ({ payload }) => {
  // @ts-expect-error: nobody said what it has
  payload.profile;
});
hub.on('*', (event) => event.type.trim());
hub.on<{ heartbeatMs: number }>('hub.ready', ({ payload }) => payload.heartbeatMs.toFixed());
const off: () => void = hub.onStatus(({ state, reason, problem }: Status) => {
  if (state === 'displaced' && reason === 'replaced') hub.reconnect();
  return problem?.detail;
});
const any: Client<any> = hub; // for who does not care
const mapped = connect<{ 'a.b': number }>({});
mapped.on('a.b', ({ payload }) => payload.toFixed());

hub.on('message.received', async ({ payload }) => { payload.text.trim(); });
hub.onError((error: unknown, { id, deadline }) => `${error} ${id.trim()} ${deadline?.trim()}`);

for (const transport of ['auto', 'sse', 'websocket', 'poll'] as const) connect({ tenant: 't', profile: 'me', transport });
hub.onStatus(({ transport }) => transport === 'websocket' || transport === 'poll' || transport === null);

// @ts-expect-error: there is no such transport
connect({ tenant: 't', profile: 'me', transport: 'signalr' });
// @ts-expect-error: there is no such option
connect({ tenant: 't', profile: 'me', topics: [] });
// @ts-expect-error: there is no such state
hub.onStatus(({ state }) => state === 'away');
export { any, off };
