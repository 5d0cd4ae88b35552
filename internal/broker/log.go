package broker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/journal"
	"realtimehub/internal/broker/stream"
	"realtimehub/internal/count"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/pace"
)

// sharedLog is the Log that hubs share. What is near, the last entries of tenants that
// are followed, is read from memory.
type sharedLog struct {
	journal *journal.Journal // set by open
	near    *history.Near
	sinks   []history.Sink
	disk    int64 // that all tenants may take of it; 0: no limit
	unread  atomic.Int64
	gone    count.Words[history.Kept]
	faults  count.Words[history.Fault]
	unclear pace.Counter // what is not understood, but for events
	whole   func() error // says why this hub may be missing something; nil: nothing
	logger  *slog.Logger

	keyMu sync.Mutex
	// Guarded by keyMu.
	lastKey *history.Key
	secret  string // what it was made from
}

// newSharedLog makes a log, which has to be opened. What is wrong with the broker is counted
// in faults.
func newSharedLog(cfg Config, faults count.Words[history.Fault]) *sharedLog {
	s := &sharedLog{
		disk: cfg.Disk, gone: count.NewWords(history.KeptHistory, history.KeptEpoch, history.KeptMembers), faults: faults, whole: cfg.Whole, logger: cfg.Logger,
	}
	s.near = history.NewNear(cfg.Limits, s.Epoch, s.scan)
	return s
}

// membership is what a log has to know of it: see [journal.Config].
type membership interface {
	beside(tenant string) []string
	behind(tenant, beside string, place uint64) bool
	await(tenant, beside string, place uint64) error
}

// open opens the log's journal. An event waits for the membership that its publisher knew.
func (s *sharedLog) open(ctx context.Context, nc *nats.Conn, cfg Config, node string, connected func() bool, m membership) (err error) {
	c := journal.Config{
		Prefix: cfg.Prefix, Node: node, Replicas: cfg.Replicas, PerKey: cfg.Limits.Events,
		KeyBytes: cfg.Limits.Bytes, Bytes: cfg.Disk, Age: cfg.Limits.TTL, Window: cfg.Limits.Window, Logger: cfg.Logger,
		Connected: connected, Handle: s.handle, Flush: s.flush, Quiet: s.quiet, Lost: s.lost,
		Gone: func(what string) { s.lose(history.Kept(what)) }, Fault: func(what string) { s.faults.Add(history.Fault(what), 1) },
		Beside: m.beside, Behind: m.behind, Await: m.await,
	}
	if cfg.Prepare {
		c.Prepare = s.prepare
	}
	s.journal, err = journal.Open(ctx, nc, c)
	return err
}

// notUnderstood counts what another hub kept or told of a tenant and this one cannot read. There
// may be very much. The place is a row's; 0: it is none.
func (s *sharedLog) notUnderstood(what, tenant string, place uint64, err error) {
	s.faults.Add(history.FaultUnread, 1)
	if times, due := s.unclear.Due(time.Now()); due {
		s.logger.Error("store: what another hub kept or told cannot be read: it may have another version", "of", what, "tenant", tenant, "place", place, "times", times, "err", err)
	}
}

// lose counts that the broker has lost something, which was made anew.
func (s *sharedLog) lose(what history.Kept) { s.gone.Add(what, 1) }

// epochIDOf is of one tenant and one life of the stream, the same for all hubs.
func epochIDOf(tenant, life string) []byte {
	sum := sha256.Sum256([]byte(life + " " + tenant))
	return sum[:8]
}

func (s *sharedLog) Epoch(tenant string) history.Epoch { return s.epochOf(tenant, s.journal.Epoch()) }

func (s *sharedLog) epochOf(tenant, life string) history.Epoch {
	return s.key().Epoch(epochIDOf(tenant, life))
}

// key is that of all hubs.
func (s *sharedLog) key() *history.Key {
	secret := s.journal.Secret()
	s.keyMu.Lock()
	defer s.keyMu.Unlock()
	if s.lastKey == nil || s.secret != secret {
		s.lastKey, s.secret = history.NewKey([]byte(secret)), secret
	}
	return s.lastKey
}

// Follow implements Log.
func (s *sharedLog) Follow(sink history.Sink) { s.sinks = append(s.sinks, sink) }

// Ready implements Log.
func (s *sharedLog) Ready() error {
	err := s.journal.Ready()
	if s.whole == nil || err != nil && !errors.Is(err, journal.ErrAway) {
		return err
	}
	return cmp.Or(s.whole(), err) // a server inside may be why
}

// Append implements Log. ErrUnconfirmed, ErrNotStored, ErrTooLarge.
func (s *sharedLog) Append(ctx context.Context, entries []*history.Entry) error {
	items := make([]*journal.Item, len(entries))
	for i, e := range entries {
		e.Prepare()
		it := &journal.Item{Key: e.Event.TenantID, Data: e.Event.AppendWhole(make([]byte, 0, len(e.Envelope)+64)), Pass: !e.Event.Stored(), Own: e}
		_, err := uuid.Parse(e.Event.ID)
		if e.Chosen || !it.Pass && err == nil { // the hub's own, which who got no answer may send again
			it.ID = e.Event.ID
		}
		items[i] = it
	}
	if err := s.journal.Append(ctx, items); err != nil {
		return logError(err)
	}
	for i, e := range entries {
		if it := items[i]; it.Duplicate {
			e.Duplicate, e.FirstAt = true, it.At
			if first, err := event.DecodeStored(it.First); err == nil {
				e.FirstAt = first.Timestamp
			} else if it.At.IsZero() {
				e.FirstAt = e.Event.Timestamp
			}
		}
		if items[i].Seq > 0 && e.Cursor.Seq == 0 { // else it is on a shelf, and others read it
			e.Cursor = history.Cursor{Epoch: s.epochOf(e.Event.TenantID, items[i].Epoch), Seq: items[i].Seq}
		}
	}
	return nil
}

func logError(err error) error {
	switch {
	case errors.Is(err, stream.ErrTooLarge):
		return errors.Join(history.ErrTooLarge, err)
	case journal.Refused(err):
		return errors.Join(history.ErrNotStored, err)
	}
	return errors.Join(history.ErrUnconfirmed, err)
}

// Attach implements Log.
func (s *sharedLog) Attach(ctx context.Context, tenant string) (history.Cursor, error) {
	for {
		head, life, err := s.journal.Attach(ctx, tenant)
		if err != nil {
			return history.Cursor{}, logError(err)
		}
		c, ok := s.near.Attach(tenant, head, func() (history.Epoch, bool) {
			return s.epochOf(tenant, life), s.journal.Epoch() == life
		})
		if ok {
			return c, nil
		}
		s.journal.Detach(tenant) // the head is of another life, and lost may have been told
	}
}

// Detach implements Log.
func (s *sharedLog) Detach(tenant string) {
	s.journal.Detach(tenant)
	s.near.Detach(tenant)
}

// Find implements Log.
func (s *sharedLog) Find(ctx context.Context, tenant, cursor string, r *history.Reader) (history.Cursor, error) {
	epoch := s.Epoch(tenant)
	c, ok := epoch.Parse(cursor)
	if ok && s.near.Whole(tenant, c, r) {
		return c, nil
	}
	if !ok {
		c.Seq = 0
	}
	span, err := s.journal.Span(ctx, tenant)
	if err == nil && cursor != "" && (!ok || c.Seq > span.Last) {
		// Nobody can make a cursor up: who was asked is behind, or the broker has lost it. One
		// that we cannot read may be of a history of which another hub knows already.
		if err = s.journal.Confirm(ctx, c.Seq); err == nil {
			span, err = s.journal.Span(ctx, tenant)
		}
	}
	if err != nil {
		return history.Cursor{}, logError(err)
	}
	epoch = s.epochOf(tenant, span.Epoch)
	c, ok = epoch.Parse(cursor)
	switch {
	case cursor == "":
		return history.Cursor{Epoch: epoch, Seq: span.Oldest}, nil
	case !ok:
		head, err := s.journal.Last(ctx, tenant)
		if err != nil {
			return history.Cursor{}, logError(err)
		}
		if head == 0 {
			head = span.Last
		}
		return history.Cursor{Epoch: epoch, Seq: max(head, span.Oldest)}, history.ErrUnknownCursor
	case c.Seq < span.Oldest:
		return history.Cursor{Epoch: epoch, Seq: span.Oldest}, history.ErrExpired
	}
	return c, nil
}

// Read implements Log.
func (s *sharedLog) Read(ctx context.Context, tenant string, q history.Query) (history.Page, error) {
	for range mostFetches {
		page, ok, fetch := s.near.Read(tenant, q)
		if ok {
			return page, nil
		}
		if fetch == nil {
			break
		}
		err := fetch.Wait(ctx)
		gone, some := errors.AsType[*journal.GoneError](err)
		if some && gone.Oldest > q.After { // else it was another's
			break // what is before it is told first
		}
		if err != nil && !some {
			return history.Page{}, logError(err)
		}
	}
	return s.readFar(ctx, tenant, q)
}

// mostFetches is how often a read waits for what others need before it reads for itself.
const mostFetches = 3

// scan reads a tenant's events after a place up to another that exists, until take says
// that it is enough; a *journal.GoneError where some of them have gone.
func (s *sharedLog) scan(ctx context.Context, tenant string, after, until uint64, take func(*history.Entry) bool) error {
	epoch := s.Epoch(tenant)
	return s.journal.Read(ctx, tenant, after, until, func(list []journal.Message) bool {
		for _, m := range list {
			e := s.entryOf(&journal.Item{Key: tenant, Data: m.Data, Seq: m.Seq}, epoch)
			if e != nil && !take(e) {
				return false
			}
		}
		return true
	})
}

// readFar answers a Query from what the broker has. The page ends early where something has gone
// or cannot be read, if there is any before it: then it is the next one that says so.
func (s *sharedLog) readFar(ctx context.Context, tenant string, q history.Query) (history.Page, error) {
	span, err := s.journal.ReadSpan(ctx, tenant)
	if err != nil {
		return history.Page{}, logError(err)
	}
	end := q.End(span.Last)
	if head, near := s.near.Head(tenant); near { // what comes after is told to the sinks
		end = max(q.After, min(end, head))
	}
	build := history.BeginPage(q, history.Cursor{Epoch: s.epochOf(tenant, span.Epoch), Seq: end})
	err = s.scan(ctx, tenant, q.After, end, build.Add)
	if s.journal.Epoch() != span.Epoch {
		return history.Page{}, logError(stream.ErrUnconfirmed)
	}
	gone, some := errors.AsType[*journal.GoneError](err)
	page := build.Page
	switch n := len(page.Entries); {
	case err != nil && n > 0: // that is whole
		page.Next = page.Entries[n-1].Cursor
		return page, nil
	case some:
		return history.Page{Next: history.Cursor{Epoch: s.Epoch(tenant), Seq: gone.Oldest}}, history.ErrExpired
	case err != nil:
		return history.Page{}, logError(err)
	}
	return page, nil
}

// Sweep implements Log.
func (s *sharedLog) Sweep(now time.Time) { s.near.Sweep(now) }

// Held implements Log.
func (s *sharedLog) Held() int64 { return s.near.Held() }

// Stats implements Log: of the whole history, whoever keeps it.
func (s *sharedLog) Stats() history.Stats {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	stats := history.Stats{Limit: s.disk, Memory: s.near.Held(), Unsent: int(s.journal.Unpassed()), Unread: int(s.unread.Load())}
	keys, messages, bytes, err := s.journal.Stats(ctx)
	if stats.Unknown = err != nil; !stats.Unknown {
		stats.Tenants, stats.Entries, stats.Bytes = keys, int(messages), int64(bytes)
	}
	stats.CutTenant, stats.CutAll = s.journal.Cut()
	stats.Gone, stats.Faults = s.gone.Now(), s.faults.Now()
	return stats
}
