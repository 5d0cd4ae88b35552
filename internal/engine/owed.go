package engine

import "slices"

// listed is what a frame takes in one stream's list, in bytes: a pointer, and as
// much again for the room that lists have to grow.
const listed = 16

// oweLocked counts a frame that is added to what is owed, and returns the bytes that
// this takes.
func (s *Stream) oweLocked(f *Frame) (taken int64) {
	s.owed += f.Len()
	taken = f.owe(1) + listed
	s.engine.owed.Add(taken)
	return taken
}

// forgiveLocked counts frames that are taken off what is owed, written or not, and
// returns the bytes that this frees.
func (s *Stream) forgiveLocked(frames ...*Frame) (freed int64) {
	for _, f := range frames {
		s.owed -= f.Len()
		freed += listed - f.owe(-1)
	}
	s.engine.owed.Add(-freed)
	return freed
}

// shedLocked drops the ephemeral frames from a place on, which is after those taken, and
// says so in their place if events were among them. It returns the bytes that this frees, and
// whether there were events.
func (s *Stream) shedLocked(from int, why Drop) (freed int64, some bool) {
	kept := s.pending[:from]
	for _, f := range s.pending[from:] {
		if !f.ephemeral {
			kept = append(kept, f)
			continue
		}
		freed += s.forgiveLocked(f)
		if f.events == 0 {
			continue // a sign of life: its client misses nothing
		}
		some = true
		s.engine.losses.drop(why, f)
		if !s.shed {
			s.shed = true
			s.engine.losses.shed.Add(1)
			kept = append(kept, s.owner.Words().Shed)
			freed -= s.oweLocked(s.owner.Words().Shed)
		}
	}
	clear(s.pending[len(kept):])
	s.pending = kept
	return freed, some
}

// cutLocked ends a slow stream with the cut's last words; the rest can be had
// by resuming. It returns the bytes that this frees, without those of the words.
func (s *Stream) cutLocked() (freed int64) {
	freed = s.forgiveLocked(s.pending[s.taken:]...)
	s.engine.losses.drop(DropCut, s.pending[s.taken:]...)
	s.pending = slices.Clone(s.pending[:s.taken])
	s.cut = true
	s.closeLocked(s.owner.Words().Cut())
	return freed
}

// chunk is how much is copied together for one write, at most.
const chunk = 64 << 10

// wire is f as s's client is sent it.
func (s *Stream) wire(f *Frame) []byte {
	if s.chunked {
		return f.chunk
	}
	return f.data
}

// peekLocked is what to write next: one frame as it is, or several copied to buf,
// which has room for a chunk. They stay pending until advanceLocked.
func (s *Stream) peekLocked(buf func() []byte) []byte {
	if len(s.pending) == 0 {
		return nil
	}
	s.taken = 1
	first := s.wire(s.pending[0])[s.offset:]
	if len(s.pending) == 1 || len(first)+len(s.wire(s.pending[1])) > chunk {
		return first
	}
	b := append(buf()[:0], first...)
	for _, f := range s.pending[1:] {
		data := s.wire(f)
		if len(b)+len(data) > chunk {
			break
		}
		b = append(b, data...)
		s.taken++
	}
	return b
}

// advanceLocked takes off what was written, and returns what that was.
func (s *Stream) advanceLocked(n int) (w written) {
	if n > 0 {
		s.wroteAt = s.engine.clock.Load()
	}
	n += int(s.offset)
	whole := 0
	for _, f := range s.pending {
		size := len(s.wire(f))
		if n < size {
			break
		}
		n -= size
		s.shed = s.shed && f != s.owner.Words().Shed
		if f.events > 0 {
			w.events += int(f.events)
			if w.since.IsZero() { // what follows was published later
				w.since = f.since
			}
		}
		whole++
	}
	s.forgiveLocked(s.pending[:whole]...)
	s.offset, s.taken = int32(n), 0
	if n > 0 {
		s.taken = 1
	}
	if whole == len(s.pending) {
		s.pending = nil // an idle stream costs nothing
		return w
	}
	clear(s.pending[:whole])
	s.pending = s.pending[whole:]
	return w
}

// keepSealedLocked has the frames stay that are sealed already.
func (s *Stream) keepSealedLocked() {
	sealed := s.socket.Sealed()
	if sealed == 0 {
		return
	}
	s.taken = 0
	for n := int(s.offset) + sealed; n > 0; s.taken++ {
		n -= len(s.wire(s.pending[s.taken]))
	}
}
