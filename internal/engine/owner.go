package engine

// Owner is who a stream is of. It is called with no lock held, but for Group.
type Owner interface {
	// Gone is called once, when the stream has ended and nothing will be written any
	// more.
	Gone(why error)
	// Beat is called about once a heartbeat, to send what the client should have: the
	// frame beat or better after a silence. beat is nil where there was none.
	Beat(s *Stream, d *Batch, beat *Frame)
	// Words are those that the engine says on the stream. They do not change.
	Words() *Words
	// Group names those whose streams are relieved together when all owe too much, before
	// any other's are. It is called with locks held, and does not change.
	Group() string
}

// Words are what an engine says by itself, in the encoding of the streams that share them.
type Words struct {
	Beat *Frame        // says that the stream is alive, and is no event
	Shed *Frame        // tells a client that ephemeral events were shed
	Cut  func() *Frame // last words to a client that is cut as slow
}

// NewStream is NewOwned of who knows nothing better than the beat, and is told when the
// stream is gone.
func (e *Engine) NewStream(words *Words, gone func(why error)) *Stream {
	return e.NewOwned(nobody{words, gone})
}

// nobody is the Owner of a stream that is no connection's.
type nobody struct {
	words *Words
	gone  func(why error)
}

// Gone implements Owner.
func (n nobody) Gone(why error) { n.gone(why) }

// Words implements Owner.
func (n nobody) Words() *Words { return n.words }

// Beat implements Owner.
func (nobody) Beat(s *Stream, d *Batch, beat *Frame) {
	if beat != nil {
		d.Send(s, beat)
	}
}

// Group implements Owner: all of this kind are one.
func (nobody) Group() string { return "" }
