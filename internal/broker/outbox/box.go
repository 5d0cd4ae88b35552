package outbox

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/outbox"
	"realtimehub/internal/sized"
)

// Config is what a Box needs to know.
type Config struct {
	Prefix   string // of its subjects; its stream's name too, with "_"
	Replicas int
	Bytes    int64 // about so many at the broker; past them the tenants with most lose their oldest items; 0: no limit
	// Lead calls do whenever this process becomes the one that sends, as outbox.Box has it.
	Lead func(ctx context.Context, do func(ctx context.Context))
	// Unread is told of each row that is not understood, by its place in the stream: until another
	// version has put a new one, nothing of the tenant's is put, read or sent.
	Unread func(tenant string, place uint64, err error)
	Logger *slog.Logger
}

// putsAtOnce are of one process: the broker takes 50 batches of a stream at a time, of all.
const putsAtOnce = 16

// Box is one process's side of the outbox.
type Box struct {
	// Static.
	nc     *nats.Conn
	stream *stream.Stream
	cfg    Config
	queues *queues // to put
	trims  *stream.Joined[struct{}]
	looks  *stream.Joined[struct{}]

	cut   atomic.Int64  // items that this process had removed for want of room
	added atomic.Int64  // bytes that this process has put since it last looked what is kept
	seen  atomic.Uint64 // a place that the stream has given
	twice atomic.Bool   // it has given one again that it had given
	torn  atomic.Bool   // somebody has said that it may

	looked atomic.Uint64 // how often the process had connected again when it last looked for that
	life   string        // of the stream; owned by look

	mu sync.Mutex
	// Guarded by mu.
	known    sized.Table[string, uint64] // places that were told, by tenant: the broker is to know them
	follower *follower                   // nil: nobody follows
}

var _ outbox.Box = (*Box)(nil)

// Open makes the outbox's stream, or adapts it; it waits for the broker as long as ctx allows.
func Open(ctx context.Context, nc *nats.Conn, cfg Config) (*Box, error) {
	s, err := stream.New(nc, cfg.Prefix+"_outbox")
	if err != nil {
		return nil, err
	}
	b := &Box{nc: nc, stream: s, cfg: cfg}
	b.queues = newQueues(putsAtOnce, b.put)
	b.trims, b.looks = stream.NewJoined(b.trim), stream.NewJoined(b.look)
	if err = b.prepare(ctx); err == nil {
		err = stream.UntilMade(ctx, cfg.Logger, func(ctx context.Context) error {
			_, err := b.looks.Join(ctx)
			return err
		})
	}
	return b, err
}

// Close ends what waits for an answer; the connection is the caller's.
func (b *Box) Close() { b.stream.Close() }

func (b *Box) prepare(ctx context.Context) error {
	return b.stream.Make(ctx, b.cfg.Logger, func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name: b.stream.Name, Subjects: []string{b.cfg.Prefix + ".outbox.>"}, Storage: jetstream.FileStorage, Replicas: b.cfg.Replicas,
			MaxMsgsPerSubject: 1, AllowDirect: true, AllowAtomicPublish: true, AllowMsgTTL: true,
		})
		return err
	})
}

// made makes the stream anew if an error says that it has gone, and whether it has.
func (b *Box) made(ctx context.Context, err error) bool {
	if !stream.IsGone(err) {
		return false
	}
	b.cfg.Logger.Error("store: the outbox has gone, and is made anew: services are told of a gap")
	ctx, cancel := context.WithTimeout(ctx, stream.MakeTimeout)
	defer cancel()
	return b.prepare(ctx) == nil
}

// Lead implements outbox.Box.
func (b *Box) Lead(ctx context.Context, do func(ctx context.Context)) { b.cfg.Lead(ctx, do) }

// Kinds of subjects.
const (
	kindItem  = "item"  // by place
	kindHead  = "head"  // one of each tenant
	kindTaken = "taken" // the same
	kindKey   = "key"   // by a hash of the key, and the part of what was put with it
)

func (b *Box) subject(kind, tenant string) string {
	return b.cfg.Prefix + ".outbox." + kind + "." + stream.Token(tenant)
}

func (b *Box) itemSubject(tenant string, place uint64) string {
	return b.subject(kindItem, tenant) + "." + strconv.FormatUint(place, 10)
}

// itemsSubject is of all items of a tenant.
func (b *Box) itemsSubject(tenant string) string { return b.subject(kindItem, tenant) + ".*" }

func (b *Box) keySubject(tenant, key string, part int) string {
	sum := sha256.Sum256([]byte(key))
	return b.subject(kindKey, tenant) + "." + base64.RawURLEncoding.EncodeToString(sum[:18]) + "." + strconv.Itoa(part)
}

// all is the subject of a kind of all tenants.
func (b *Box) all(kind, more string) string { return b.cfg.Prefix + ".outbox." + kind + ".*" + more }

// parts are a subject's kind, tenant and, of an item, place.
func (b *Box) parts(subject string) (kind, tenant string, place uint64) {
	part := strings.Split(strings.TrimPrefix(subject, b.cfg.Prefix+".outbox."), ".")
	if len(part) < 2 {
		return "", "", 0
	}
	if len(part) > 2 {
		place = stream.ParseSeq(part[2])
	}
	return part[0], stream.KeyOf(part[1]), place
}

// Times for which rows are kept.
const (
	itemTTL = outbox.TTL
	rowTTL  = 10 * outbox.TTL // heads and what was taken, after their last change
)

// fading is a message that is kept for a time.
func fading(subject string, data []byte, ttl time.Duration) *nats.Msg {
	return stream.NewMessage(subject, data, jetstream.MsgTTLHeader, strconv.Itoa(int(ttl/time.Second)))
}

// row is one that is kept only if the last of its subject has a place in the stream; 0: if there
// is none.
func row(subject string, data []byte, ttl time.Duration, last uint64) *nats.Msg {
	msg := fading(subject, data, ttl)
	msg.Header[jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatUint(last, 10)}
	return msg
}
