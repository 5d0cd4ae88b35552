package signalr

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/engine"
	"realtimehub/internal/event"
)

const (
	idleTime = 10 * time.Second // that a client may take from an answer to its next poll
	readTime = 30 * time.Second // that another hub's client may take to read an answer
	toldTime = 3 * time.Second  // that another hub may take to say that it has told what it took
	pollRoom = 64 << 10         // bytes of records that wait for a poll, or one record
)

// poll is a session whose client asks time and again what there is. To the engine it is who reads
// the stream, and a slow one while nobody polls.
type poll struct {
	// Static.
	id     uuid.UUID
	who    event.TenantProfile
	all    *polls
	cancel context.CancelFunc
	gone   <-chan struct{} // closed by cancel
	more   chan struct{}   // one token: there is something to take
	room   chan struct{}   // one token: something was taken
	idle   *time.Timer     // ends it

	mu sync.Mutex
	// Guarded by mu.
	kept   []byte        // whole records
	closed bool          // none will follow
	asks   chan struct{} // closed once another poll takes the place of the present one; nil: there is none
	untold chan struct{} // closed once another hub has told what it took last; nil: it has
}

// end ends the session without a word.
func (p *poll) end() {
	p.cancel()
	p.all.drop(p)
}

// close says that no records follow.
func (p *poll) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	token(p.more)
}

func token(to chan struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// takeFar is take, with begin and done, for another hub, which says with told that its client has the
// records.
func (p *poll) takeFar(wait time.Duration) (records []byte, over bool) {
	asked := p.begin()
	records, over = p.ask(context.Background(), asked, wait, true)
	if len(records) > 0 {
		p.done(asked, readTime+idleTime) // or less, once it is told
	} else {
		p.done(asked, idleTime)
	}
	return records, over
}

// told says that another hub has told its client what it took.
func (p *poll) told() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.untold == nil {
		return
	}
	close(p.untold)
	p.untold = nil
	if p.asks == nil {
		p.idle.Reset(idleTime)
	}
}

// known waits until it is known that the client has what was taken last. Otherwise that may be
// lost with the hub that took it: a proxy sends the same poll to another hub then, and nobody would
// notice.
func (p *poll) known() bool {
	p.mu.Lock()
	untold := p.untold
	p.mu.Unlock()
	if untold == nil {
		return true
	}
	select {
	case <-untold:
		return true
	case <-time.After(toldTime):
		return false
	}
}

// take waits for records, or that it is over: also as a poll has come after the one that has asked.
func (p *poll) take(ctx context.Context, asked chan struct{}, wait time.Duration) (records []byte, over bool) {
	return p.ask(ctx, asked, wait, false)
}

func (p *poll) ask(ctx context.Context, asked chan struct{}, wait time.Duration, far bool) (records []byte, over bool) {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	if !p.known() {
		p.end()
		return nil, true
	}
	for {
		if records, over = p.takeKept(asked, far); len(records) > 0 || over {
			return records, over
		}
		select {
		case <-p.more:
		case <-asked:
		case <-timeout.C:
			return nil, false
		case <-p.gone:
			return nil, true
		case <-ctx.Done():
			return nil, false
		}
	}
}

// takeKept takes what is kept now, unless another poll has come.
func (p *poll) takeKept(asked chan struct{}, far bool) (records []byte, over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.asks != asked:
		token(p.more) // the other one's, which this one may have taken
		return nil, true
	case len(p.kept) == 0 && p.closed:
		p.all.drop(p)
		return nil, true
	case len(p.kept) == 0:
		return nil, false
	case far:
		p.untold = make(chan struct{})
	}
	records, p.kept = p.kept, nil
	token(p.room)
	return records, false
}

// begin has a poll take the place of the one before, until it is done. asked is closed once another
// comes.
func (p *poll) begin() (asked chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle.Stop()
	if p.asks != nil {
		close(p.asks)
	}
	p.asks = make(chan struct{})
	return p.asks
}

// done ends a poll, once it is answered: unless another has come, the client has so long for the next.
func (p *poll) done(asked chan struct{}, idle time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asks == asked {
		p.asks = nil
		p.idle.Reset(idle)
	}
}

// put keeps whole records for the next poll. It waits until there is room.
func (p *poll) put(records []byte) error {
	for {
		p.mu.Lock()
		fits := len(p.kept) == 0 || len(p.kept)+len(records) <= pollRoom
		if fits {
			p.kept = append(p.kept, records...)
		}
		p.mu.Unlock()
		if fits {
			token(p.more)
			return nil
		}
		select {
		case <-p.room:
		case <-p.gone:
			return engine.ErrGone
		}
	}
}
