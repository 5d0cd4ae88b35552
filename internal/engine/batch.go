package engine

// Batch gathers what one publish hands to streams of one engine: Send under
// the lock that orders publishes, Flush after it is released. The zero value is ready.
type Batch struct {
	engine *Engine
	lists  [maxShards]list // of the streams claimed
	plain  list
	count  int   // streams in lists
	owed   int64 // by how much the engine's grows

	frame *Frame // the last one that was sent
	spare int32  // owers that frame was given in advance
}

// inAdvance is how many owers a frame is given at once: so a broadcast counts them
// in two steps, and not in one a stream.
const inAdvance = 1 << 20

// few streams are written to at once by who publishes; more are for the writers.
const few = 4

// Send adds f to what s is owed. It never waits.
func (d *Batch) Send(s *Stream, f *Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.engine.losses.drop(DropClosed, f)
		return
	}
	d.engine = s.engine
	if d.frame != f || d.spare == 0 {
		d.release()
		d.frame, d.spare = f, inAdvance
		d.owed += f.owe(inAdvance)
	}
	d.spare--
	d.owed += listed
	s.pending = append(s.pending, f)
	s.owed += f.Len()
	switch {
	case s.state != idle:
		s.boundLocked()
	case s.wake != nil:
		s.state = gathered
		d.plain.add(s)
	default:
		s.state = gathered
		d.lists[s.shard.index].add(s)
		d.count++
	}
}

// release takes back the owers that the last frame has too many.
func (d *Batch) release() {
	if d.frame != nil {
		d.owed += d.frame.owe(-d.spare)
		d.frame, d.spare = nil, 0
	}
}

// Flush lets the writers go, and relieves the streams that are owed too much.
// It does not wait for a client, but calls gone when it finds one that left: so
// no lock may be held.
func (d *Batch) Flush() {
	if d.engine == nil {
		return
	}
	if d.count > few {
		d.hand()
	} else {
		d.flushPlain()
		for i := range d.lists {
			for s := d.lists[i].take(); s != nil; s = d.lists[i].take() {
				s.write(nil)
			}
		}
	}
	d.engine.relieve()
	*d = Batch{}
}

// hand gives all streams to the writers.
func (d *Batch) hand() {
	if d.engine == nil {
		return
	}
	d.flushPlain()
	for i, sh := range d.engine.shards {
		sh.push(&d.lists[i])
	}
}

func (d *Batch) flushPlain() {
	d.release()
	d.engine.owed.Add(d.owed)
	d.owed = 0
	for s := d.plain.take(); s != nil; s = d.plain.take() {
		s.mu.Lock()
		if s.state == gathered {
			s.state = ready
		}
		s.mu.Unlock()
		s.signal()
	}
}
