package broker

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/broker/journal"
	"realtimehub/internal/count"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// SharedLog is the Log that hubs share. What is near, the last entries of tenants that
// are followed, is read from memory.
type SharedLog struct {
	Journal *journal.Journal
	Near    *history.Near
	sinks   []history.Sink
	disk    int64 // that all tenants may take of it; 0: no limit
	unread  atomic.Int64
	gone    count.Words[history.Kept]
	faults  count.Words[history.Fault]
	logger  *slog.Logger

	keyMu sync.Mutex
	// Guarded by keyMu.
	lastKey *history.Key
	secret  string // what it was made from
}

func newBrokerLog(disk int64, logger *slog.Logger) *SharedLog {
	return &SharedLog{disk: disk, gone: count.NewWords(history.KeptHistory, history.KeptEpoch, history.KeptMembers), logger: logger}
}

// lose counts that the broker has lost something, which was made anew.
func (l *SharedLog) lose(what history.Kept) { l.gone.Add(what, 1) }

// EpochID is of one tenant and one life of the stream, the same for all hubs.
func (l *SharedLog) EpochID(tenant string) []byte { return epochIDOf(tenant, l.Journal.Epoch()) }

func epochIDOf(tenant, life string) []byte {
	sum := sha256.Sum256([]byte(life + " " + tenant))
	return sum[:8]
}

func (l *SharedLog) Epoch(tenant string) history.Epoch { return l.epochOf(tenant, l.Journal.Epoch()) }

func (l *SharedLog) epochOf(tenant, life string) history.Epoch {
	return l.key().Epoch(epochIDOf(tenant, life))
}

// key is that of all hubs.
func (l *SharedLog) key() *history.Key {
	secret := l.Journal.Secret()
	l.keyMu.Lock()
	defer l.keyMu.Unlock()
	if l.lastKey == nil || l.secret != secret {
		l.lastKey, l.secret = history.NewKey([]byte(secret)), secret
	}
	return l.lastKey
}

// Follow implements Log.
func (l *SharedLog) Follow(s history.Sink) { l.sinks = append(l.sinks, s) }

// Ready implements Log.
func (l *SharedLog) Ready() error { return l.Journal.Ready() }

// Append implements Log. ErrUnconfirmed, ErrNotStored, ErrTooLarge.
func (l *SharedLog) Append(ctx context.Context, entries []*history.Entry) error {
	items := make([]*journal.Item, len(entries))
	for i, e := range entries {
		it := &journal.Item{Key: e.Event.TenantID, Data: e.Event.AppendWhole(make([]byte, 0, len(e.Envelope)+64)), Pass: !e.Event.Stored(), Own: e}
		_, err := uuid.Parse(e.Event.ID)
		if e.Chosen || !it.Pass && err == nil { // the hub's own, which who got no answer may send again
			it.ID = e.Event.ID
		}
		items[i] = it
	}
	if err := l.Journal.Append(ctx, items); err != nil {
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
			e.Cursor = history.Cursor{Epoch: l.epochOf(e.Event.TenantID, items[i].Epoch), Seq: items[i].Seq}
		}
	}
	return nil
}

func logError(err error) error {
	switch {
	case errors.Is(err, journal.ErrTooLarge):
		return errors.Join(history.ErrTooLarge, err)
	case journal.Refused(err):
		return errors.Join(history.ErrNotStored, err)
	}
	return errors.Join(history.ErrUnconfirmed, err)
}

// entryOf is an item as it is handed on; nil for what is no event, which is told of
// once, when the item is prepared for or else handled.
func (l *SharedLog) entryOf(it *journal.Item, epoch history.Epoch) *history.Entry {
	e, _ := it.Own.(*history.Entry)
	if e == nil {
		if _, told := it.Own.(error); told {
			return nil
		}
		decoded, err := event.DecodeStored(it.Data)
		if err != nil {
			it.Own = err
			l.unread.Add(1)
			l.logger.Error("broker: not an event", "tenant", it.Key, "place", it.Seq, "err", err)
			return nil
		}
		e = &history.Entry{Event: decoded, Envelope: decoded.Seal()}
		it.Own = e
	}
	if !it.Pass {
		e.Cursor = history.Cursor{Epoch: epoch, Seq: it.Seq}
	}
	return e
}

func (l *SharedLog) entriesOf(items []*journal.Item, epoch history.Epoch) []*history.Entry {
	entries := make([]*history.Entry, 0, len(items))
	for _, it := range items {
		if e := l.entryOf(it, epoch); e != nil {
			entries = append(entries, e)
		}
	}
	return entries
}

// Handle takes what follows next in a tenant's order.
func (l *SharedLog) Handle(tenant string, items []*journal.Item) {
	entries := l.Near.Take(tenant, func(epoch history.Epoch) []*history.Entry { return l.entriesOf(items, epoch) })
	if len(entries) > 0 {
		for _, s := range l.sinks {
			s.Deliver(tenant, entries)
		}
	}
}

func (l *SharedLog) flush(tenant string) {
	for _, s := range l.sinks {
		s.Flush(tenant)
	}
	l.Near.Shrink()
}

func (l *SharedLog) prepare(tenant string, items []*journal.Item) {
	for _, s := range l.sinks {
		s.Prepare(tenant, l.entriesOf(items, l.Epoch(tenant)))
	}
}

func (l *SharedLog) quiet(tenant string, place uint64) {
	c, ok := l.Near.Advance(tenant, place)
	if !ok {
		return
	}
	for _, s := range l.sinks {
		s.Quiet(tenant, c)
	}
}

func (l *SharedLog) lost(tenant string, place uint64) {
	c := l.Near.Reset(tenant, place)
	for _, s := range l.sinks {
		s.Lost(tenant, c)
	}
}

// Attach implements Log.
func (l *SharedLog) Attach(ctx context.Context, tenant string) (history.Cursor, error) {
	for {
		head, life, err := l.Journal.Attach(ctx, tenant)
		if err != nil {
			return history.Cursor{}, logError(err)
		}
		c, ok := l.Near.Attach(tenant, head, func() (history.Epoch, bool) {
			return l.epochOf(tenant, life), l.Journal.Epoch() == life
		})
		if ok {
			return c, nil
		}
		l.Journal.Detach(tenant) // the head is of another life, and lost may have been told
	}
}

// Detach implements Log.
func (l *SharedLog) Detach(tenant string) {
	l.Journal.Detach(tenant)
	l.Near.Detach(tenant)
}

// Find implements Log.
func (l *SharedLog) Find(ctx context.Context, tenant, cursor string, r *history.Reader) (history.Cursor, error) {
	epoch := l.Epoch(tenant)
	c, ok := epoch.Parse(cursor)
	if ok && l.Near.Whole(tenant, c, r) {
		return c, nil
	}
	if !ok {
		c.Seq = 0
	}
	span, err := l.Journal.Span(ctx, tenant)
	if err == nil && cursor != "" && (!ok || c.Seq > span.Last) {
		// Nobody can make a cursor up: who was asked is behind, or the broker has lost it. One
		// that we cannot read may be of a history of which another hub knows already.
		if err = l.Journal.Confirm(ctx, c.Seq); err == nil {
			span, err = l.Journal.Span(ctx, tenant)
		}
	}
	if err != nil {
		return history.Cursor{}, logError(err)
	}
	epoch = l.epochOf(tenant, span.Epoch)
	c, ok = epoch.Parse(cursor)
	switch {
	case cursor == "":
		return history.Cursor{Epoch: epoch, Seq: span.Oldest}, nil
	case !ok:
		head, err := l.Journal.Last(ctx, tenant)
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
func (l *SharedLog) Read(ctx context.Context, tenant string, q history.Query) (history.Page, error) {
	for range mostFetches {
		page, ok, fetch := l.Near.Read(tenant, q)
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
	return l.readFar(ctx, tenant, q)
}

// mostFetches is how often a read waits for what others need before it reads for itself.
const mostFetches = 3

// scan reads a tenant's events after a place up to another that exists, until take says
// that it is enough; a *journal.GoneError where some of them have gone.
func (l *SharedLog) scan(ctx context.Context, tenant string, after, until uint64, take func(*history.Entry) bool) error {
	epoch := l.Epoch(tenant)
	return l.Journal.Read(ctx, tenant, after, until, func(list []journal.Message) bool {
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
func (l *SharedLog) readFar(ctx context.Context, tenant string, q history.Query) (history.Page, error) {
	span, err := l.Journal.Span(ctx, tenant)
	if err != nil {
		return history.Page{}, logError(err)
	}
	end := q.End(span.Last)
	if head, near := l.Near.Head(tenant); near { // what comes after is told to the sinks
		end = max(q.After, min(end, head))
	}
	build := history.BeginPage(q, history.Cursor{Epoch: l.epochOf(tenant, span.Epoch), Seq: end})
	err = l.scan(ctx, tenant, q.After, end, build.Add)
	if l.Journal.Epoch() != span.Epoch {
		return history.Page{}, logError(journal.ErrUnconfirmed)
	}
	gone, some := errors.AsType[*journal.GoneError](err)
	page := build.Page
	switch n := len(page.Entries); {
	case some && n > 0: // that is whole
		page.Next = page.Entries[n-1].Cursor
		return page, nil
	case some:
		return history.Page{Next: history.Cursor{Epoch: l.Epoch(tenant), Seq: gone.Oldest}}, history.ErrExpired
	case err != nil:
		return history.Page{}, logError(err)
	}
	return page, nil
}

// Sweep implements Log.
func (l *SharedLog) Sweep(now time.Time) { l.Near.Sweep(now) }

// Held implements Log.
func (l *SharedLog) Held() int64 { return l.Near.Held() }

// Stats implements Log: of the whole history, whoever keeps it.
func (l *SharedLog) Stats() history.Stats {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	stats := history.Stats{Limit: l.disk, Memory: l.Near.Held(), Unsent: int(l.Journal.Unpassed()), Unread: int(l.unread.Load())}
	keys, messages, bytes, err := l.Journal.Stats(ctx)
	if stats.Unknown = err != nil; !stats.Unknown {
		stats.Tenants, stats.Entries, stats.Bytes = keys, int(messages), int64(bytes)
	}
	stats.CutTenant, stats.CutAll = l.Journal.Cut()
	stats.Gone, stats.Faults = l.gone.Now(), l.faults.Now()
	return stats
}
