/** A profile in its text form, "user:42"; "42" is short for it. */
export type ProfileText = string;

export interface Profile {
  type: string;
  id: string;
}

export type PresenceStatus = 'online' | 'away' | 'offline';

export interface PresenceOf {
  profile: Profile;
  status: PresenceStatus;
  /** RFC 3339; null for somebody who is not known to have been seen. */
  lastActiveAt: string | null;
}

/** An event as it is delivered: of its target only the kind and the room are told. */
export interface RealtimeEvent<Payload = unknown, Type extends string = string> {
  id: string;
  tenantId: string;
  type: Type;
  payload: Payload;
  target: { kind: string; conversationId?: string; groupId?: string };
  timestamp: string;
  correlationId?: string;
  traceparent?: string;
  /** Within this time after `timestamp` the event is to be handled, such as `"30s"`; else the service is told. */
  deadline?: string;
  ephemeral?: boolean;
}

/** Of a map of event types to payloads: the types that a pattern takes in, `"message.*"`, or a type itself. */
type Matching<Events, Pattern> = Pattern extends `${infer Start}*` ? Extract<keyof Events, `${Start}${string}`> : Extract<keyof Events, Pattern>;

/** What a listener of a pattern is given: one of the events that the map has of it. */
export type EventOf<Events, Pattern extends string> = [Matching<Events, Pattern>] extends [never] ? RealtimeEvent
  : { [Type in Matching<Events, Pattern> & string]: RealtimeEvent<Events[Type], Type> }[Matching<Events, Pattern> & string];

/** A type of the map, or a pattern that takes some of them in. */
export type PatternOf<Events> = keyof Events & string | Prefixes<keyof Events & string>;
type Prefixes<Type extends string> = Type extends `${infer Start}.${infer Rest}` ? `${Start}.*` | `${Start}.${Prefixes<Rest>}` : never;

/** Something was missed for good: fetch what you show anew, then go on. */
export interface Gap {
  reason: 'expired' | 'unknown' | 'membership' | 'slow';
  cursor?: string;
}

export interface Status {
  /**
   * - `connecting`: on the way to the first stream
   * - `live`: events arrive
   * - `waiting`: the stream was lost, ended or refused for now; it comes back by itself
   * - `displaced`: another connection of this person took its place, or somebody closed it (`reason`). It comes
   *   back when the person does something in the page, in any tab, or by `reconnect()`; not by itself
   * - `closed`: for good, by `close()` or refused (`problem`)
   */
  state: 'connecting' | 'live' | 'waiting' | 'displaced' | 'closed';
  /** What the stream comes by, or is tried by next; null before the first, and once it is closed. */
  transport: 'sse' | 'websocket' | 'poll' | null;
  /** This tab holds the stream that all tabs share. False where each has its own. */
  leader: boolean;
  /** All tabs of this browser with the same identity use one stream. */
  shared: boolean;
  /** Of the stream while `live`; siblings have the same. By long polling it may change meanwhile, as when another hub takes the next poll. */
  connectionId: string | null;
  tenantId: string | null;
  profile: Profile | null;
  /** What the last `hub.ready` said of what was missed. */
  resume: 'fresh' | 'complete' | 'partial' | null;
  /**
   * Why it waits: what `hub.closing` said (`unacked`: an event with a deadline was not handled for long), or `lost`, `silent`, `unreachable`, `held` (the hub
   * answers, but not by this transport), `token` (`token()` failed), `refused` (the credential, for now). Why it is displaced: `replaced` by another connection of this profile,
   * where so many are not allowed, or `kicked` by an administrator. Why it is closed: `closed` by you, `refused`.
   */
  reason: string | null;
  /** Milliseconds until the next try, while `waiting`. */
  retryMs: number | null;
  /** How often the stream was opened again since `connect`. */
  reconnects: number;
  /**
   * Why the hub, or whoever answered in its place, refused (RFC 9457): for good or, while the client waits, for now.
   * Two come from the client itself, with status 0. `IdentityChanged`: the token is another person's than before; call
   * `connect` for that person. `TokenFailed`, while it waits: `token()` threw, gave no text or did not answer, as
   * `detail` says.
   */
  problem: { status: number; title: string; code?: string; detail?: string } | null;
}

interface CommonOptions {
  /** Where the hub is, with a path if it has one, but no query, fragment or credentials. In a page its own origin is the default. */
  url?: string | URL;
  /** Types wanted, such as `["message.*", "post.created"]`; `[]`: none but the hub's own. Without it: all. */
  types?: string[];
  /**
   * Whose presence is told: `"none"`, or up to 200 profiles. Without it: as the hub is configured.
   * `presence.watch()` adds to it. Where many change at once, `presence.digest` may come in place of single
   * changes, with which `presence.watch()` asks anew.
   */
  presence?: 'none' | ProfileText[];
  /** Told to administrators with the connection, of a shared one the leader's: up to 16 strings of up to 256 bytes. */
  meta?: Record<string, string>;
  /**
   * Whether tabs share one stream. True by default where the browser can (Web Locks, BroadcastChannel,
   * so https or localhost). With a cookie as the credential nothing here tells who it is for, so there it
   * takes a string of yours that is different for each user.
   */
  share?: boolean | string;
  /**
   * What the stream comes by. `"auto"` is the default: Server-Sent Events, and where the network holds them back or cuts
   * them a WebSocket, or else long polling, which this browser remembers for a day. Tabs that share a stream use the leader's.
   */
  transport?: 'auto' | 'sse' | 'websocket' | 'poll';
  /** Where to resume: a `cursor` that you kept. Such a client has a stream of its own. */
  cursor?: string;
}

/** With credentials: called where there is none yet, before one ends, and when the hub refused one. It may throw: that is tried again. */
export interface TokenOptions extends CommonOptions {
  token: () => string | Promise<string>;
}

/** In open mode. */
export interface OpenOptions extends CommonOptions {
  tenant: string;
  profile: ProfileText;
}

/** With the cookie `realtime_token`. */
export interface CookieOptions extends CommonOptions {
  token?: undefined;
  tenant?: undefined;
}

export type Options = TokenOptions | OpenOptions | CookieOptions;

/** Takes a listener off again. */
export type Off = () => void;

/** `Events` maps the types of your events to their payloads. */
export interface Client<Events extends object = {}> {
  /** Of this tab alone. Events that carry it as `correlationId` are its own echo and are dropped here. */
  readonly id: string;
  readonly status: Status;
  /** The place after the last event that this tab has handled, with all before it; null before there is any. */
  readonly cursor: string | null;

  /**
   * A type, `"message.*"`, or `"*"` for all that comes in an envelope, presence and typing included. The hub's own
   * (`"hub.ready"`, `"hub.*"`) come as `{type, payload}`. The payloads of types that are in `Events` are known.
   *
   * An event is handled once its listeners have returned, and what promises they gave are kept. One that throws, or
   * rejects, has not handled it: such an event comes again with the next stream, to that listener alone.
   */
  on<Pattern extends PatternOf<Events>>(type: Pattern, fn: (event: EventOf<Events, Pattern>) => unknown): Off;
  on<Payload = unknown>(type: string, fn: (event: RealtimeEvent<Payload>) => unknown): Off;
  onGap(fn: (gap: Gap) => unknown): Off;
  /** Told what a listener threw, or rejected with, and of which event. Without any, the page's own handler of errors is. */
  onError(fn: (error: unknown, event: RealtimeEvent) => void): Off;
  /** Called at once with what is, then with each change. */
  onStatus(fn: (status: Status) => void): Off;

  /** "…is typing" for the other members. */
  typing(conversation: string): {
    /** Call it at every keystroke; it is sent every few seconds. False: the hub did not take it. */
    start(): Promise<boolean>;
    /** Call it when the message is sent or the field is left. */
    stop(): Promise<boolean>;
  };

  presence: {
    /** Calls `fn` with where each is now, after each reconnect again, and with every change. */
    watch(profiles: ProfileText[], fn: (presence: PresenceOf) => void): Off;
    /** Asks once. */
    get(profiles: ProfileText[]): Promise<PresenceOf[]>;
  };

  /** Says that the person is active; in a page the client does so by itself. */
  touch(): Promise<boolean>;
  /**
   * Tries at once, where it waits or is displaced: for a button, "use it here". It takes the place of another
   * connection of this person, where one only is allowed, so call it for what the person does, not for a status.
   */
  reconnect(): void;
  /** Ends it. The stream goes on in another tab, if there is one. */
  close(): void;
}

/**
 * Throws a TypeError for options that no hub would take, and for those that there are not. The map of event types
 * is for the compiler alone: `connect<{ 'message.received': { text: string } }>({…})`.
 */
export function connect<Events extends object = {}>(options: Options): Client<Events>;
