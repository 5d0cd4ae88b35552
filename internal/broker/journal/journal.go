package journal

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
)

// Times that the broker has.
const (
	probeEvery = time.Second
	// staleTime is how long an answer that is old is asked for again.
	staleTime = time.Second
	// staleAfter is how long a leader may be silent until we call ourselves cut off.
	staleAfter = 3 * time.Second
)

// Config is what a journal needs to know; limits of 0 are lifted.
type Config struct {
	Prefix   string // of its subjects; its stream's name too, with "_"
	Node     string // this process's name, among those that share the journal
	Replicas int
	PerKey   int           // the newest so many of a key can be read
	KeyBytes int64         // of a key, of which it may lose a 16th more: see KeepWithin
	Bytes    int64         // of all keys together
	Age      time.Duration // of a message, at least Window
	Window   time.Duration // in which an id is recognised
	Logger   *slog.Logger
	// Connected says whether the broker can be reached, at once: the connection itself
	// may be busy with coming back when it is asked.
	Connected func() bool

	// Handle takes what follows next in a key's order; Flush is called after it, when
	// nobody waits. Neither waits.
	Handle func(key string, items []*Item)
	Flush  func(key string)
	// Prepare, if any, comes before Handle and may wait: only this key waits with it.
	Prepare func(key string, items []*Item)
	// Beside, if any, is what goes with a key's items now: one text, in a list that is not
	// changed; nil where nothing can be said. Behind says whether items that came with a
	// text, or with none, have to wait, and Await waits: only this key waits with it. place
	// is that of the first which is kept; 0: none is. After an error the key goes on after what has
	// come.
	Beside func(key string) []string
	Behind func(key, beside string, place uint64) bool
	Await  func(key, beside string, place uint64) error
	// Quiet says that a key has nothing more up to a place.
	Quiet func(key string, place uint64)
	// Lost says that what followed cannot be had; the key goes on after a place, of the
	// life that Epoch then names.
	Lost func(key string, place uint64)
	// Gone, if any, says that the broker has lost something of all keys: "history", or
	// "epoch", which is what all who share the journal agree on.
	Gone func(what string)
	// Fault, if any, says that a try has failed to change something, which it names:
	// "history" or "membership".
	Fault func(what string)
}

// Item is one message of a key.
type Item struct {
	Key  string
	ID   string // recognised if it comes again; empty: never
	Data []byte
	Pass bool // for who follows now; not kept

	Seq       uint64    // its place, the first's for a duplicate; 0: not kept
	Epoch     string    // of that place; set by Append
	Duplicate bool      // its id was there before, and nothing was done
	At        time.Time // when it, or a duplicate's first, was kept; zero: unknown
	First     []byte    // of a duplicate, its first's data, if it is kept still

	Own any // given to Append, and back to this process's Handle

	beside []string // as Beside told whoever appended it
}

// Journal is one process's side.
//
// Lock order: feed.mu → Journal.mu, a leaf.
type Journal struct {
	// Static.
	nc     *nats.Conn
	stream *stream.Stream
	cfg    Config
	pumps  []chan *nats.Msg
	slots  chan struct{} // batches under way
	woken  chan struct{} // another process has noticed something
	done   sync.WaitGroup

	number   atomic.Uint64 // of the last append
	life     atomic.Pointer[life]
	answered stream.Latest // when the leader last did
	unpassed atomic.Int64  // items that others could not be sent
	bytes    atomic.Int64  // of the stream, as its leader last told
	cutKey   atomic.Int64  // messages that were purged, past their key's bound
	cutAll   atomic.Int64  // and past that of all
	swept    atomic.Uint64 // the stream up to here was looked at
	first    atomic.Uint64 // the stream's, as its leader last told

	ready  readiness
	heads  *stream.Joined[stream.State] // what the leader tells
	looks  *stream.Joined[stream.State] // with all that depends on it
	proved time.Time                    // owned by look: when an answer was last shown to be old
	space  space

	silent, purged seldom // what the log is told

	mu sync.Mutex
	// Guarded by mu.
	feeds map[string]*feed
	names map[string]*feed // by what stands for the key in subjects
	own   map[uint64]*parcel
}

// Open makes the stream, or adapts it to the settings, and watches over it until
// Close. It waits for the broker as long as ctx allows.
func Open(ctx context.Context, nc *nats.Conn, cfg Config) (*Journal, error) {
	g, err := stream.New(nc, cfg.Prefix+"_journal")
	if err != nil {
		return nil, err
	}
	j := &Journal{
		nc: nc, stream: g, cfg: cfg, slots: make(chan struct{}, batchesAtOnce), woken: make(chan struct{}, 1),
		feeds: map[string]*feed{}, names: map[string]*feed{}, own: map[uint64]*parcel{},
	}
	j.life.Store(&life{})
	j.heads, j.looks = stream.NewJoined(j.askState), stream.NewJoined(j.look)
	j.space = space{bounds: cfg.Bytes, of: map[string]int64{}}
	if err := j.prepare(ctx); err != nil {
		return nil, err
	}
	if err := j.prepareBucket(ctx); err != nil {
		return nil, err
	}
	for range pumps {
		pump := make(chan *nats.Msg, pumpSize)
		j.pumps = append(j.pumps, pump)
		j.done.Go(func() { j.pump(pump) })
	}
	if err := j.untilLooked(ctx); err != nil {
		j.Close()
		return nil, err
	}
	if _, err := nc.Subscribe(j.lookSubject(), func(*nats.Msg) { j.wake() }); err != nil {
		j.Close()
		return nil, err
	}
	j.beginTrying(ctx)
	j.done.Go(j.watch)
	return j, nil
}

// prepare makes the stream, or adapts it.
func (j *Journal) prepare(ctx context.Context) error {
	unlimited := func(n int64) int64 { return cmp.Or(n, -1) }
	perKey := int64(j.cfg.PerKey)
	if perKey > 0 {
		perKey++ // the oldest tells what the last one is that can't be read
	}
	config := jetstream.StreamConfig{
		Name: j.stream.Name, Subjects: []string{j.cfg.Prefix + ".ev.*", j.cfg.Prefix + ".id.*", j.cfg.Prefix + ".cut.*"},
		Storage: jetstream.FileStorage, Replicas: j.cfg.Replicas, Duplicates: j.cfg.Window,
		MaxMsgsPerSubject: unlimited(perKey), MaxBytes: unlimited(j.cfg.Bytes), MaxAge: j.cfg.Age,
		AllowDirect: true, AllowAtomicPublish: true, AllowMsgTTL: true,
		RePublish: &jetstream.RePublish{Source: j.cfg.Prefix + ".ev.*", Destination: j.cfg.Prefix + ".live.{{wildcard(1)}}.ev"},
	}
	return j.stream.Make(ctx, j.cfg.Logger, func(ctx context.Context, js jetstream.JetStream) error {
		err := j.adapt(ctx, js, config)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			_, err = js.CreateOrUpdateStream(ctx, config)
		}
		return err
	})
}

// prepareBucket makes what is beside the stream.
func (j *Journal) prepareBucket(ctx context.Context) error {
	return j.stream.Make(ctx, j.cfg.Logger, func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: j.bucket(), Replicas: j.cfg.Replicas, Storage: jetstream.FileStorage})
		return err
	})
}

// Close ends what Open began; the connection is the caller's.
func (j *Journal) Close() {
	j.stream.Close()
	for _, f := range j.followed() {
		f.close()
	}
	j.done.Wait()
}

// Unpassed is how many items that are not kept could not be sent to others.
func (j *Journal) Unpassed() int64 { return j.unpassed.Load() }

// subject is of a key's messages.
func (j *Journal) subject(key string) string { return j.cfg.Prefix + ".ev." + stream.Token(key) }

// lookSubject is where processes tell each other to look.
func (j *Journal) lookSubject() string { return j.cfg.Prefix + ".look" }

func (j *Journal) wake() {
	select {
	case j.woken <- struct{}{}:
	default: // it will look anyway
	}
}

// watch asks the leader now and then, and at once after a reconnect or when another
// process says so.
func (j *Journal) watch() {
	status := j.nc.StatusChanged(nats.CONNECTED)
	defer j.nc.RemoveStatusListener(status)
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-j.stream.Done():
			return
		case <-status:
		case <-j.woken:
		case <-ticker.C:
		}
		if j.cfg.Connected() {
			j.probe()
		}
	}
}
