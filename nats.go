package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/journal"
	"realtimehub/internal/peers"
)

// BrokerConfig is how hubs that share a NATS server or cluster are one.
type BrokerConfig struct {
	URL      string // one, or several with commas
	Creds    string // path of a credentials file; empty: none
	Prefix   string // of all subjects and streams
	Replicas int
	Limits   MemoryLimits // Bytes is of all tenants together; Total of what this hub keeps near
	// Prepare: the sink prepares for what other hubs append.
	Prepare bool
	Logger  *slog.Logger
}

// Broker is what hubs share over NATS JetStream.
type Broker struct {
	cfg     BrokerConfig
	node    [4]byte
	nc      *nats.Conn
	journal *journal.Journal
	table   *journal.Table
	peers   *peers.Peers

	connected atomic.Bool
	shelves   shelves // the last entries of tenants that are followed
	sinks     []Sink

	session PeerSink
	belong  func(tenant string, room Room, changed []Belonging)
	ready   chan struct{} // closed when session is named

	mu       sync.Mutex
	enrolled map[string]*enrolment // guarded by mu: tenants whose rooms are known
}

// enrolment is what is known of a tenant's rooms.
type enrolment struct {
	mu sync.Mutex
	// Guarded by mu.
	place uint64          // in the table
	rooms map[Room]uint64 // a room's own place in the table

	refs int // guarded by Broker.mu
}

// How the connection is kept: a broker that is stopped is noticed within 2 s, and
// nothing is sent later that was answered as failed.
const (
	brokerPing      = 700 * time.Millisecond
	brokerPings     = 2
	brokerReconnect = 100 * time.Millisecond
	brokerDial      = time.Second
)

// ConnectBroker connects, and makes what the broker keeps; it waits as long as ctx
// allows.
func ConnectBroker(ctx context.Context, cfg BrokerConfig) (*Broker, error) {
	b := &Broker{cfg: cfg, enrolled: map[string]*enrolment{}, ready: make(chan struct{})}
	rand.Read(b.node[:])
	b.shelves = newShelves(cfg.Limits, false, b.epoch)
	options := []nats.Option{
		nats.Name("realtimehub " + b.name()), nats.NoEcho(), nats.RetryOnFailedConnect(true),
		nats.ReconnectBufSize(-1), nats.PingInterval(brokerPing), nats.MaxPingsOutstanding(brokerPings),
		nats.MaxReconnects(-1), nats.ReconnectWait(brokerReconnect),
		nats.Timeout(brokerDial),
		nats.ConnectHandler(func(*nats.Conn) { b.connected.Store(true) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			b.connected.Store(false)
			cfg.Logger.Warn("broker: disconnected", "err", err)
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			b.connected.Store(true)
			cfg.Logger.Info("broker: connected again", "to", nc.ConnectedServerName())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			cfg.Logger.Warn("broker", "err", err)
		}),
	}
	if cfg.Creds != "" {
		options = append(options, nats.UserCredentials(cfg.Creds))
	}
	var err error
	if b.nc, err = nats.Connect(cfg.URL, options...); err != nil {
		return nil, err
	}
	if err = b.reach(ctx); err == nil {
		err = b.open(ctx)
	}
	if err != nil {
		b.nc.Close()
		return nil, err
	}
	return b, nil
}

// reach waits for the first connection.
func (b *Broker) reach(ctx context.Context) error {
	ticker := time.NewTicker(brokerReconnect)
	defer ticker.Stop()
	for n := 0; !b.connected.Load(); n++ {
		if n%50 == 1 {
			b.cfg.Logger.Warn("waiting for the broker", "err", b.nc.LastError())
		}
		select {
		case <-ctx.Done():
			return errors.New("no server can be reached")
		case <-ticker.C:
		}
	}
	return nil
}

func (b *Broker) name() string { return hex.EncodeToString(b.node[:]) }

func (b *Broker) open(ctx context.Context) (err error) {
	cfg := journal.Config{
		Prefix: b.cfg.Prefix, Node: b.name(), Replicas: b.cfg.Replicas, PerKey: b.cfg.Limits.Events,
		Bytes: b.cfg.Limits.Bytes, Age: b.cfg.Limits.TTL, Window: b.cfg.Limits.Window, Logger: b.cfg.Logger,
		Connected: b.connected.Load, Handle: b.handle, Flush: b.flush, Quiet: b.quiet, Lost: b.lost,
	}
	if b.cfg.Prepare {
		cfg.Prepare = b.prepare
	}
	if b.journal, err = journal.Open(ctx, b.nc, cfg); err != nil {
		return err
	}
	if b.table, err = journal.OpenTable(ctx, b.nc, b.cfg.Prefix, b.cfg.Replicas, b.cfg.Limits.TTL, b.cfg.Logger); err == nil {
		b.peers, err = peers.Start(b.nc, peers.Config{
			Prefix: b.cfg.Prefix, Node: b.name(), Able: func() bool { return b.journal.Ready() == nil }, Logger: b.cfg.Logger,
			Items: b.items, Changed: b.changed, Told: b.told, Serve: b.serve, Resynced: b.resync,
		})
	}
	if err != nil {
		b.journal.Close()
	}
	return err
}

// Close leaves the others.
func (b *Broker) Close() {
	b.peers.Close()
	b.journal.Close()
	b.table.Close()
	b.nc.Close()
}

// Log is the history that all hubs share.
func (b *Broker) Log() Log { return &brokerLog{b} }

// Membership is who belongs where, for all hubs.
func (b *Broker) Membership() Membership { return &brokerRooms{b} }

// Peers are the other hubs.
func (b *Broker) Peers() Peers { return &brokerPeers{b} }

// epoch is of one tenant and one life of the stream, the same for all hubs.
func (b *Broker) epoch(tenant string) string {
	sum := sha256.Sum256([]byte(b.journal.Epoch() + " " + tenant))
	return hex.EncodeToString(sum[:8])
}

// brokerLog is the Log of a Broker.
type brokerLog struct{ *Broker }

// Follow implements Log.
func (l *brokerLog) Follow(s Sink) { l.sinks = append(l.sinks, s) }

// Ready implements Log.
func (l *brokerLog) Ready() error { return l.journal.Ready() }

// Append implements Log. ErrUnconfirmed, ErrNotStored, ErrTooLarge.
func (l *brokerLog) Append(ctx context.Context, entries []*Entry) error {
	items := make([]*journal.Item, len(entries))
	for i, e := range entries {
		it := &journal.Item{Key: e.Event.TenantID, Data: e.Event.AppendWhole(make([]byte, 0, len(e.Envelope)+64)), Pass: !e.Event.Stored(), Own: e}
		_, err := uuid.Parse(e.Event.ID)
		if e.Chosen || !it.Pass && err == nil { // the hub's own, which who got no answer may send again
			it.ID = e.Event.ID
		}
		items[i] = it
	}
	if err := l.journal.Append(ctx, items); err != nil {
		return logError(err)
	}
	for i, e := range entries {
		if it := items[i]; it.Duplicate {
			e.Duplicate, e.FirstAt = true, it.At
			if first, err := DecodeStored(it.First); err == nil {
				e.FirstAt = first.Timestamp
			} else if it.At.IsZero() {
				e.FirstAt = e.Event.Timestamp
			}
		}
		if items[i].Seq > 0 && e.Cursor.Seq == 0 { // else it is on a shelf, and others read it
			e.Cursor = Cursor{l.epoch(e.Event.TenantID), items[i].Seq}
		}
	}
	return nil
}

func logError(err error) error {
	switch {
	case errors.Is(err, journal.ErrTooLarge):
		return errors.Join(ErrTooLarge, err)
	case journal.Refused(err):
		return errors.Join(ErrNotStored, err)
	}
	return errors.Join(ErrUnconfirmed, err)
}

// entryOf is an item as it is handed on; nil for what is no event.
func (b *Broker) entryOf(it *journal.Item, epoch string) *Entry {
	e, _ := it.Own.(*Entry)
	if e == nil {
		event, err := DecodeStored(it.Data)
		if err != nil {
			b.cfg.Logger.Error("broker: not an event", "tenant", it.Key, "place", it.Seq, "err", err)
			return nil
		}
		e = &Entry{Event: event, Envelope: event.Seal()}
		it.Own = e
	}
	if !it.Pass {
		e.Cursor = Cursor{epoch, it.Seq}
	}
	return e
}

func (b *Broker) entriesOf(items []*journal.Item, epoch string) []*Entry {
	entries := make([]*Entry, 0, len(items))
	for _, it := range items {
		if e := b.entryOf(it, epoch); e != nil {
			entries = append(entries, e)
		}
	}
	return entries
}

// handle takes what follows next in a tenant's order.
func (b *Broker) handle(tenant string, items []*journal.Item) {
	h := b.shelves.lock(tenant, true)
	entries := b.entriesOf(items, h.epoch)
	for _, e := range entries {
		switch {
		case !e.Event.Stored() || e.Cursor.Seq <= h.head:
		case h.attached == 0: // nobody has said from where on it is whole
			b.shelves.resetLocked(h, h.epoch, e.Cursor.Seq)
		default:
			b.shelves.pushLocked(h, e)
		}
	}
	b.shelves.evictLocked(h, time.Now())
	h.mu.Unlock()
	if len(entries) > 0 {
		for _, s := range b.sinks {
			s.Deliver(tenant, entries)
		}
	}
}

func (b *Broker) flush(tenant string) {
	for _, s := range b.sinks {
		s.Flush(tenant)
	}
	b.shelves.shrink()
}

func (b *Broker) prepare(tenant string, items []*journal.Item) {
	for _, s := range b.sinks {
		s.Prepare(tenant, b.entriesOf(items, b.epoch(tenant)))
	}
}

func (b *Broker) quiet(tenant string, place uint64) {
	h := b.shelves.lock(tenant, false)
	if h == nil {
		return
	}
	h.head = max(h.head, place)
	c := Cursor{h.epoch, h.head}
	h.mu.Unlock()
	for _, s := range b.sinks {
		s.Quiet(tenant, c)
	}
}

func (b *Broker) lost(tenant string, place uint64) {
	h := b.shelves.lock(tenant, true)
	b.shelves.resetLocked(h, b.epoch(tenant), place)
	c := Cursor{h.epoch, place}
	h.mu.Unlock()
	for _, s := range b.sinks {
		s.Lost(tenant, c)
	}
}

// Attach implements Log.
func (l *brokerLog) Attach(ctx context.Context, tenant string) (Cursor, error) {
	head, err := l.journal.Attach(ctx, tenant)
	if err != nil {
		return Cursor{}, logError(err)
	}
	h := l.shelves.lock(tenant, true)
	defer h.mu.Unlock()
	if epoch := l.epoch(tenant); h.epoch != epoch || h.attached == 0 && h.head < head {
		l.shelves.resetLocked(h, l.epoch(tenant), head)
	}
	h.attached++
	return Cursor{h.epoch, h.head}, nil
}

// Detach implements Log.
func (l *brokerLog) Detach(tenant string) {
	l.journal.Detach(tenant)
	h := l.shelves.lock(tenant, false)
	if h == nil {
		return
	}
	h.attached--
	last := h.attached <= 0
	if last {
		l.shelves.resetLocked(h, h.epoch, h.head)
	}
	h.mu.Unlock()
	if last {
		l.shelves.forget(tenant)
	}
}

// Find implements Log.
func (l *brokerLog) Find(ctx context.Context, tenant, cursor string) (Cursor, error) {
	c, ok := ParseCursor(cursor)
	epoch := l.epoch(tenant)
	ok = ok && c.Epoch == epoch
	var head uint64
	if h := l.shelves.lock(tenant, false); h != nil {
		head = h.head
		near := ok && h.attached > 0 && h.from <= c.Seq && c.Seq <= h.head
		h.mu.Unlock()
		if near {
			return c, nil
		}
	}
	span, err := l.journal.Span(ctx, tenant)
	if err != nil {
		return Cursor{}, logError(err)
	}
	switch {
	case cursor == "":
		return Cursor{epoch, span.Oldest}, nil
	case !ok || c.Seq > span.Last:
		if head == 0 {
			head = span.Last
		}
		return Cursor{epoch, max(head, span.Oldest)}, ErrUnknownCursor
	case c.Seq < span.Oldest:
		return Cursor{epoch, span.Oldest}, ErrExpired
	}
	return c, nil
}

// Read implements Log.
func (l *brokerLog) Read(ctx context.Context, tenant string, q Query) (Page, error) {
	for first := true; ; first = false {
		h := l.shelves.lock(tenant, false)
		if h == nil {
			break
		}
		if h.attached > 0 && q.After >= h.from {
			page := h.readLocked(q)
			h.mu.Unlock()
			return page, nil
		}
		far := h.attached == 0
		h.mu.Unlock()
		if far || !first {
			break // nobody is near, or it is more than is kept near
		}
		if err := l.bringNear(ctx, h, q.After); err != nil {
			return l.expired(tenant, err)
		}
	}
	return l.readFar(ctx, tenant, q)
}

// expired makes a Page of the place from where a read can go on.
func (l *brokerLog) expired(tenant string, err error) (Page, error) {
	if gone, ok := errors.AsType[*goneError](err); ok {
		return Page{Next: Cursor{l.epoch(tenant), gone.oldest}}, ErrExpired
	}
	return Page{}, logError(err)
}

// goneError says that a read begins before the oldest place there is.
type goneError struct{ oldest uint64 }

func (e *goneError) Error() string { return ErrExpired.Error() }

// bringNear reads what a tenant's shelf has not, after a place, so that all who come
// back read it from there. One at a time does it for a tenant.
func (l *brokerLog) bringNear(ctx context.Context, h *shelf, after uint64) error {
	h.loading.Lock()
	defer h.loading.Unlock()
	h.mu.Lock()
	from, epoch := h.from, h.epoch
	h.mu.Unlock()
	if after >= from {
		return nil
	}
	var entries []*Entry
	var size int64
	err := l.scan(ctx, h.tenant, after, from, func(e *Entry) bool {
		entries = append(entries, e)
		size += e.Size()
		return l.cfg.Limits.Total <= 0 || size < l.cfg.Limits.Total/4
	})
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	tooMuch := l.cfg.Limits.Total > 0 && size >= l.cfg.Limits.Total/4
	if !tooMuch && !h.forgotten && h.epoch == epoch && h.from == from {
		l.shelves.prependLocked(h, after, entries)
	}
	return nil
}

// scan reads a tenant's events after a place up to another, until take says that it
// is enough; a *goneError where some of them have gone.
func (l *brokerLog) scan(ctx context.Context, tenant string, after, until uint64, take func(*Entry) bool) error {
	span, err := l.journal.Span(ctx, tenant)
	if err != nil {
		return err
	}
	if after < span.Oldest {
		return &goneError{span.Oldest}
	}
	epoch := l.epoch(tenant)
	return l.journal.Read(ctx, tenant, after, min(until, span.Last), func(list []journal.Message) bool {
		for _, m := range list {
			e := l.entryOf(&journal.Item{Key: tenant, Data: m.Data, Seq: m.Seq}, epoch)
			if e != nil && !take(e) {
				return false
			}
		}
		return true
	})
}

// readFar answers a Query from what the broker has.
func (l *brokerLog) readFar(ctx context.Context, tenant string, q Query) (Page, error) {
	span, err := l.journal.Span(ctx, tenant)
	if err != nil {
		return Page{}, logError(err)
	}
	page := Page{Next: Cursor{l.epoch(tenant), max(span.Last, q.After)}}
	if h := l.shelves.lock(tenant, false); h != nil {
		page.Next.Seq = max(q.After, min(page.Next.Seq, h.head)) // what comes after is told to the sinks
		h.mu.Unlock()
	}
	bytes := 0
	err = l.scan(ctx, tenant, q.After, page.Next.Seq, func(e *Entry) bool {
		return !q.Reader.wants(e) || page.add(e, q, &bytes)
	})
	if err != nil {
		return l.expired(tenant, err)
	}
	return page, nil
}

// Sweep implements Log.
func (l *brokerLog) Sweep(now time.Time) { l.shelves.sweep(now) }

// Stats implements Log: of the whole history, whoever keeps it.
func (l *brokerLog) Stats() LogStats {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	keys, messages, bytes, err := l.journal.Stats(ctx)
	if err != nil {
		return LogStats{}
	}
	return LogStats{Tenants: keys, Entries: int(messages), Bytes: int64(bytes)}
}

// brokerRooms is the Membership of a Broker: a table with a row a belonging. A change
// is known to all hubs before it is answered, since each is asked to read up to it.
type brokerRooms struct{ *Broker }

// belongingRow is a Belonging as it is stored.
type belongingRow struct {
	Epoch  string      `json:"epoch"` // of the places, in the tenant's history
	Place  uint64      `json:"place"` // of the change
	Member bool        `json:"member"`
	Stays  [][2]uint64 `json:"stays"`
}

// mostStays is how many times in a room are kept of a profile.
const mostStays = 32

// reachTime is how long the other hubs have to read a change, and rowTime more for
// each of its rows.
const (
	reachTime = time.Second
	rowTime   = 200 * time.Microsecond
)

// Follow implements Membership.
func (r *brokerRooms) Follow(belong func(string, Room, []Belonging)) { r.belong = belong }

// Attach implements Membership.
func (r *brokerRooms) Attach(ctx context.Context, tenant string) error {
	r.mu.Lock()
	e := r.enrolled[tenant]
	if e == nil {
		e = &enrolment{rooms: map[Room]uint64{}}
		r.enrolled[tenant] = e
	}
	e.refs++
	r.mu.Unlock()
	// A change that was answered before this is what the leader knows; one that comes
	// later asks us.
	last, err := r.table.Last(ctx, tenant)
	if err == nil {
		err = r.catchUp(ctx, tenant, e, last)
	}
	if err != nil {
		r.Detach(tenant)
		return logError(err)
	}
	return nil
}

// Detach implements Membership.
func (r *brokerRooms) Detach(tenant string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.enrolled[tenant]; e != nil {
		if e.refs--; e.refs == 0 {
			delete(r.enrolled, tenant)
		}
	}
}

// Now implements Membership.
func (r *brokerRooms) Now(ctx context.Context, tenant string, room Room) (place, version uint64, err error) {
	place, err = r.journal.Last(ctx, tenant)
	if err != nil {
		return 0, 0, logError(err)
	}
	if e := r.enrolment(tenant); e != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		version = e.rooms[room]
	}
	return place, version, nil
}

func (b *Broker) enrolment(tenant string) *enrolment {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.enrolled[tenant]
}

// Change implements Membership.
func (r *brokerRooms) Change(ctx context.Context, tenant string, room Room, place, version uint64, changed []Belonging) error {
	e := r.enrolment(tenant)
	if e == nil {
		return ErrConflict
	}
	epoch := r.epoch(tenant)
	rows := make([]journal.Row, len(changed))
	for i, b := range changed {
		row := belongingRow{Epoch: epoch, Place: place, Member: b.Member}
		for _, s := range b.Stays[max(0, len(b.Stays)-mostStays):] {
			row.Stays = append(row.Stays, [2]uint64{s.From, s.Until})
		}
		data, err := json.Marshal(row)
		if err != nil {
			return err
		}
		rows[i] = journal.Row{Name: b.Profile.String(), Data: data, Fades: !b.Member}
	}
	if len(rows) > 0 {
		last, err := r.table.Put(ctx, tenant, groupOf(room), version, rows)
		if conflict := errors.Is(err, journal.ErrConflict); conflict {
			if last, err = r.table.Last(ctx, tenant); err == nil {
				err = ErrConflict
			}
			if caught := r.catchUp(ctx, tenant, e, last); caught != nil {
				return logError(caught)
			}
			return err
		}
		if err != nil {
			return logError(err)
		}
		if err := r.catchUp(ctx, tenant, e, last); err != nil {
			return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
		}
	}
	// Also where nothing is to change: somebody may have been told that it was not
	// known to all yet.
	e.mu.Lock()
	last := e.place
	e.mu.Unlock()
	call, err := json.Marshal(Call{Op: CallRooms, Tenant: tenant, Place: last})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, reachTime+time.Duration(len(rows))*rowTime)
	defer cancel()
	answers, silent := r.peers.AskAll(ctx, call)
	for _, answer := range answers {
		var a Answer
		if json.Unmarshal(answer, &a) != nil || !a.Found {
			silent = append(silent, "one that could not read it")
		}
	}
	if len(silent) > 0 {
		return fmt.Errorf("%w: not known yet to %v", ErrUnconfirmed, silent)
	}
	return nil
}

func groupOf(room Room) string { return string(room.Kind) + ":" + room.ID }

// catchUp reads a tenant's rows up to a place, and tells what changed.
func (b *Broker) catchUp(ctx context.Context, tenant string, e *enrolment, place uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.place >= place {
		return nil
	}
	after, err := b.table.Read(ctx, tenant, e.place, place, func(rows []journal.Row) {
		var latest uint64
		var room Room
		var changed []Belonging
		flush := func() {
			if len(changed) == 0 {
				return
			}
			// Events that came before the change are delivered before it.
			ctx, cancel := context.WithTimeout(ctx, reachTime)
			b.journal.Reach(ctx, tenant, latest)
			cancel()
			b.belong(tenant, room, changed)
			changed, latest = nil, 0
		}
		for _, row := range rows {
			of := Room{}
			if kind, id, ok := strings.Cut(row.Group, ":"); ok {
				of = Room{TargetKind(kind), id}
			}
			if of != room {
				flush()
				room = of
			}
			if row.Name == "" {
				e.rooms[of] = row.Seq
				continue
			}
			var stored belongingRow
			p, err := ParseProfile(row.Name)
			if err2 := json.Unmarshal(row.Data, &stored); err != nil || err2 != nil {
				b.cfg.Logger.Error("broker: not a member", "tenant", tenant, "place", row.Seq)
				continue
			}
			belongs := Belonging{Profile: p, Member: stored.Member}
			if stored.Epoch != b.epoch(tenant) { // the history has begun anew since
				stored.Place, stored.Stays = 0, nil
				if stored.Member {
					stored.Stays = [][2]uint64{{0, math.MaxUint64}}
				}
			}
			for _, s := range stored.Stays {
				belongs.Stays = append(belongs.Stays, Stay{of, s[0], s[1]})
			}
			latest = max(latest, stored.Place)
			changed = append(changed, belongs)
		}
		flush()
	})
	if err == nil {
		e.place = after
	}
	return err
}

// resync reads what we may not have been asked to, while we were cut off.
func (b *Broker) resync() {
	b.mu.Lock()
	tenants := make(map[string]*enrolment, len(b.enrolled))
	for tenant, e := range b.enrolled {
		tenants[tenant] = e
	}
	b.mu.Unlock()
	for tenant, e := range tenants {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		last, err := b.table.Last(ctx, tenant)
		if err == nil {
			err = b.catchUp(ctx, tenant, e, last)
		}
		cancel()
		if err != nil {
			b.cfg.Logger.Warn("broker: membership not read again", "tenant", tenant, "err", err)
			return // the connection has gone once more
		}
	}
}

// brokerPeers is the Peers of a Broker.
type brokerPeers struct{ *Broker }

// Follow implements Peers.
func (p *brokerPeers) Follow(s PeerSink) {
	p.session = s
	close(p.ready)
}

// Node implements Peers.
func (p *brokerPeers) Node() [4]byte { return p.node }

// sessionRow is a Session as others are told of it.
type sessionRow struct {
	Profile   string `json:"p"`
	Connected int64  `json:"c"` // Unix milliseconds
	Active    int64  `json:"a"`
	Drained   bool   `json:"d,omitempty"`
}

func opOf(s SessionChange) peers.Op {
	op := peers.Op{ID: s.ID}
	if !s.Gone {
		op.Data, _ = json.Marshal(sessionRow{s.Profile.String(), s.ConnectedAt.UnixMilli(), s.ActiveAt.UnixMilli(), s.Drained})
	}
	return op
}

// Tell implements Peers.
func (p *brokerPeers) Tell(tenant string, s SessionChange) { p.peers.Tell(tenant, opOf(s)) }

// Hold implements Peers.
func (p *brokerPeers) Hold(ctx context.Context, tenant string) error {
	return p.peers.Hold(ctx, tenant)
}

// Release implements Peers.
func (p *brokerPeers) Release(tenant string) { p.peers.Release(tenant) }

// Cast implements Peers.
func (p *brokerPeers) Cast(tenant string, t Typing) {
	data, err := json.Marshal(t)
	if err == nil {
		err = p.peers.Cast(tenant, data)
	}
	if err != nil {
		p.cfg.Logger.Debug("broker: typing not told", "tenant", tenant, "err", err)
	}
}

// Ask implements Peers.
func (p *brokerPeers) Ask(ctx context.Context, node [4]byte, c Call) (a Answer, err error) {
	data, err := json.Marshal(c)
	if err != nil {
		return a, err
	}
	answer, err := p.peers.Ask(ctx, hex.EncodeToString(node[:]), data)
	if err == nil {
		err = json.Unmarshal(answer, &a)
	}
	if err != nil {
		return a, errors.Join(ErrElsewhere, err)
	}
	return a, nil
}

// AskAll implements Peers.
func (p *brokerPeers) AskAll(ctx context.Context, c Call) (list []Answer) {
	data, err := json.Marshal(c)
	if err != nil {
		return nil
	}
	answers, silent := p.peers.AskAll(ctx, data)
	if len(silent) > 0 {
		p.cfg.Logger.Warn("hubs that did not answer", "nodes", silent)
	}
	for _, answer := range answers {
		var a Answer
		if json.Unmarshal(answer, &a) == nil {
			list = append(list, a)
		}
	}
	return list
}

func (b *Broker) items(tenant string) []peers.Op {
	<-b.ready
	sessions := b.session.Sessions(tenant)
	ops := make([]peers.Op, len(sessions))
	for i, s := range sessions {
		ops[i] = opOf(SessionChange{Session: s})
	}
	return ops
}

func (b *Broker) changed(c peers.Change) {
	changes := make([]SessionChange, 0, len(c.Ops))
	for _, op := range c.Ops {
		s := SessionChange{Session: Session{ID: uuid.UUID(op.ID)}, Gone: op.Data == nil}
		if !s.Gone {
			var row sessionRow
			if json.Unmarshal(op.Data, &row) != nil {
				continue
			}
			profile, err := ParseProfile(row.Profile)
			if err != nil {
				continue
			}
			s.Profile, s.Drained = profile, row.Drained
			s.ConnectedAt, s.ActiveAt = time.UnixMilli(row.Connected), time.UnixMilli(row.Active)
		}
		changes = append(changes, s)
	}
	<-b.ready
	b.session.Changed(c.Topic, changes, c.Known, c.At)
}

func (b *Broker) told(tenant string, data []byte) {
	var t Typing
	if json.Unmarshal(data, &t) == nil {
		<-b.ready
		b.session.Typed(tenant, t)
	}
}

func (b *Broker) serve(data []byte) []byte {
	var c Call
	var a Answer
	if json.Unmarshal(data, &c) == nil {
		if c.Op == CallRooms {
			a.Found = b.reached(c.Tenant, c.Place)
		} else {
			<-b.ready
			a = b.session.Serve(c)
		}
	}
	answer, _ := json.Marshal(a)
	return answer
}

// reached reads a tenant's rows up to a place, if we need them, and says that we
// have.
func (b *Broker) reached(tenant string, place uint64) bool {
	e := b.enrolment(tenant)
	if e == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*reachTime) // who asks may have given up before
	defer cancel()
	return b.catchUp(ctx, tenant, e, place) == nil
}
