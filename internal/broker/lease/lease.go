// Package lease has one process of several do what one alone is to do, and another when that one
// ends or is silent. A lease is one message of a stream that fades unless whoever holds it says
// so again; the broker's clock alone counts. Lead waits for it, as often as it is called.
//
// For as long as a holder that was cut off does not know it, another may hold the lease as well:
// what must not happen twice has to be secured by what is written.
package lease

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
)

// Times of a lease.
const (
	fades = 8 * time.Second // after the last word of its holder
	every = 2 * time.Second // its holder says so again, and others look
	stale = 6 * time.Second // after it began to say so for the last time a holder has it no more: before it fades
)

// Lease is one process's side.
type Lease struct {
	// Static.
	stream  *stream.Stream
	subject string
	name    string
	alone   bool
	logger  *slog.Logger
	ended   chan struct{} // closed by Close
	done    sync.WaitGroup

	mu sync.Mutex
	// Guarded by mu.
	term    context.Context // of the holder; nil: it is not held
	changed chan struct{}   // closed when term changes
}

// Config is what a lease needs to know.
type Config struct {
	Stream  *stream.Stream // that keeps it, and takes messages that fade
	Subject string         // in the stream, its own
	Name    string         // of this process, and of none before it
	Alone   bool           // no other process can be there
	Logger  *slog.Logger
}

// New begins to seek the lease, until Close.
func New(cfg Config) *Lease {
	l := &Lease{stream: cfg.Stream, subject: cfg.Subject, name: cfg.Name, alone: cfg.Alone, logger: cfg.Logger, ended: make(chan struct{}), changed: make(chan struct{})}
	l.done.Go(l.run)
	return l
}

// Close gives the lease up.
func (l *Lease) Close() {
	close(l.ended)
	l.done.Wait()
}

// Lead calls do whenever this process has the lease, with a context that ends when it has not.
// It returns when ctx has ended and do has returned.
func (l *Lease) Lead(ctx context.Context, do func(ctx context.Context)) {
	for {
		l.mu.Lock()
		term, changed := l.term, l.changed
		l.mu.Unlock()
		if term != nil {
			both, cancel := context.WithCancel(ctx)
			stop := context.AfterFunc(term, cancel)
			do(both)
			<-both.Done()
			stop()
			cancel()
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// begin says that a term has begun; over, that it has ended.
func (l *Lease) begin(term context.Context) (over func()) {
	change := func(term context.Context) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.term = term
		close(l.changed)
		l.changed = make(chan struct{})
	}
	change(term)
	return func() {
		var none context.Context
		change(none)
	}
}

func (l *Lease) run() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-l.ended
		cancel()
	}()
	for ctx.Err() == nil {
		begun := time.Now()
		if seq, ok := l.say(0); ok {
			l.hold(ctx, seq, begun)
		}
		select {
		case <-ctx.Done():
		case <-time.After(every):
		}
	}
}

// hold says again and again that the lease is held, since a word that was begun at a time, until
// another has it or none was taken for too long.
func (l *Lease) hold(ctx context.Context, seq uint64, begun time.Time) {
	term, end := context.WithCancel(ctx)
	tooLong := time.AfterFunc(time.Until(begun.Add(stale)), end) // also while an answer is waited for
	over := l.begin(term)
	l.logger.Debug("this hub judges deadlines and sends webhooks")
	defer func() {
		tooLong.Stop()
		end()
		over()
	}()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-term.Done():
			l.release(seq)
			return
		case <-ticker.C:
		}
		begun := time.Now()
		next, ok := l.say(seq)
		if next == lost {
			return
		}
		if ok {
			seq = next
		}
		if ok && tooLong.Stop() {
			tooLong.Reset(time.Until(begun.Add(stale)))
		}
	}
}

// lost stands for a place where another has been.
const lost = ^uint64(0)

// say says that this process holds the lease, from its own word at a place, or from none (0). It
// returns the new place. Close waits for the answer: without it, it could not give the lease up.
func (l *Lease) say(from uint64) (seq uint64, ok bool) {
	if l.alone {
		return 0, true
	}
	seq, err := l.put(from, l.name, fades)
	return seq, err == nil
}

// release lets another have the lease soon: it fades in a second.
func (l *Lease) release(seq uint64) {
	if !l.alone {
		l.put(seq, "", time.Second)
	}
}

// put has a word take the place of this process's last one. That may be another than it knows, as
// the broker's answer may have been lost: so it is asked whose word there is. It returns the new
// place, or lost.
func (l *Lease) put(from uint64, word string, ttl time.Duration) (seq uint64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), stream.AskTimeout)
	defer cancel()
	for {
		seq, _, err = l.stream.Request(ctx, stream.NewMessage(l.subject, []byte(word), jetstream.MsgTTLHeader, strconv.Itoa(int(ttl/time.Second)),
			jetstream.ExpectedLastSubjSeqHeader, stream.FormatSeq(from)))
		if !stream.WasSecond(err) {
			return seq, err
		}
		last, failed := l.stream.Leader(ctx, stream.Get{Last: l.subject})
		switch {
		case failed != nil:
			return 0, failed
		case string(last.Data) != l.name:
			return lost, err
		case !stream.Pause(ctx):
			return 0, err
		}
		from = last.Seq
	}
}
