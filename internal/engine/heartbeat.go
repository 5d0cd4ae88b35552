package engine

import (
	"runtime/debug"
	"time"
)

// tick sends heartbeats without a timer a stream: the table is walked part by
// part, four times a heartbeat. It also ends who lingers, and gives memory back.
func (e *Engine) tick() {
	period, parts := maxTick, 1
	if e.cfg.Heartbeat > 0 {
		period = min(max(e.cfg.Heartbeat/64, time.Millisecond), maxTick)
		parts = max(int(e.cfg.Heartbeat/4/period), 1)
	}
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	start := time.Now()
	var streams []*Stream
	var storm storm
	var looked time.Duration
	for n := 0; ; n = (n + 1) % (4 * parts) {
		select {
		case <-e.stop:
			return
		case <-ticker.C:
		}
		now := time.Since(start)
		e.clock.Store(int64(now))
		if e.cfg.Heartbeat > 0 {
			streams = e.part(streams[:0], n%parts, parts)
			e.beat(streams, now, n < parts)
			clear(streams)
		}
		e.expire(now)
		if now-looked >= maxTick { // who was not blocked may be now
			looked = now
			e.limit.Store(percent(e.cfg.Budget, budgetShed))
			e.relieve()
		}
		if storm.over(e, now) {
			debug.FreeOSMemory()
		}
	}
}

// beatTogether is how many heartbeats wait for each other: their owners may have
// to wait for a lock, and the first must not for long.
const beatTogether = 64

// beat has a heartbeat sent on the streams that were written to last about a heartbeat ago,
// and on those whose clients are to answer and have said nothing since; the owners of all are
// asked for something better, once in four times.
func (e *Engine) beat(streams []*Stream, now time.Duration, all bool) {
	before := now - e.cfg.Heartbeat*3/4
	var d Batch
	for _, s := range streams {
		s.mu.Lock()
		due := s.state == idle && !s.silent && !s.closed
		ask, gone := s.talk.answersLocked(now, e.cfg.Heartbeat)
		quiet := time.Duration(s.wroteAt) <= before || ask
		if due && quiet && !gone {
			s.talk.askedLocked(now)
		}
		s.mu.Unlock()
		switch {
		case due && gone:
			s.breakOff(ErrVanished)
		case due && quiet:
			s.owner.Beat(s, &d, s.owner.Words().Beat)
		case due && all:
			s.owner.Beat(s, &d, nil)
		}
		if d.count >= beatTogether {
			d.hand()
			d = Batch{}
		}
	}
	d.hand()
}
