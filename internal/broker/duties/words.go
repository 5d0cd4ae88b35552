package duties

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/duty"
	"realtimehub/internal/pace"
)

// words are acknowledgements that are not kept yet.
type words struct {
	mu sync.Mutex
	// Guarded by mu.
	list   []duty.Acknowledgement
	number uint64

	losing  pace.Counter  // guards itself
	more    chan struct{} // something was added
	keeping chan struct{} // full while some are being kept
}

// Bounds of how acknowledgements are gathered.
const (
	gather    = 100 * time.Millisecond // before they are kept
	wordBytes = 256 << 10              // in one message, about: any server takes it, and one word more
	allWords  = 100_000                // that wait; those that were given then are reported once too often
)

// Acknowledge implements duty.Keeper.
func (k *Keeper) Acknowledge(a duty.Acknowledgement) {
	if a.Given.IsZero() {
		a.Given = time.Now()
	}
	w := &k.words
	w.mu.Lock()
	full := len(w.list) >= allWords
	if !full {
		w.list = append(w.list, a)
	}
	w.mu.Unlock()
	if full {
		k.lost.Add(1)
		if times, is := w.losing.Due(time.Now()); is {
			k.cfg.Logger.Error("acknowledgements cannot be kept, and too many wait: who gives one is reported nonetheless", "times", times)
		}
	}
	w.wake()
}

// keepWords keeps what has been gathered, again and again.
func (k *Keeper) keepWords() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		select {
		case <-k.ended:
			k.keepLast(ctx)
			return
		case <-k.words.more:
		}
		select {
		case <-k.ended:
			continue
		case <-time.After(gather):
		}
		if k.Flush(ctx) != nil {
			k.words.wake()
		}
	}
}

// lastTime is how long the end waits for a broker that is away to keep what has been gathered.
const lastTime = 5 * time.Second

// keepLast keeps what is gathered as the hub ends, or says that it could not.
func (k *Keeper) keepLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastTime)
	defer cancel()
	err := k.Flush(ctx)
	for err != nil && stream.Pause(ctx) {
		err = k.Flush(ctx)
	}
	if err != nil {
		k.words.mu.Lock()
		defer k.words.mu.Unlock()
		k.lost.Add(int64(len(k.words.list)))
		k.cfg.Logger.Error("acknowledgements could not be kept as the hub ended: who gave them is reported nonetheless", "acknowledgements", len(k.words.list), "err", err)
	}
}

// wake has keepWords keep what has been gathered.
func (w *words) wake() {
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// Flush has kept, when it returns, what was acknowledged before it was called, and does not wait for
// what comes meanwhile. What it could not keep stays gathered.
func (k *Keeper) Flush(ctx context.Context) error {
	w := &k.words
	select {
	case w.keeping <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-w.keeping }()
	w.mu.Lock()
	left := len(w.list)
	w.mu.Unlock()
	for left > 0 {
		w.mu.Lock()
		some := w.list
		w.number++
		number := w.number
		w.mu.Unlock()
		n, err := k.keep(ctx, some, number)
		if err != nil {
			return err
		}
		w.mu.Lock()
		if w.list = w.list[n:]; len(w.list) == 0 {
			w.list = nil
		}
		w.mu.Unlock()
		left -= n
	}
	return nil
}

// keep keeps as many of some acknowledgements as one message takes, and says how many: as long
// as they may be of an event that is not judged.
func (k *Keeper) keep(ctx context.Context, some []duty.Acknowledgement, number uint64) (n int, err error) {
	until := time.Now()
	data := []byte("[")
	for ; n < len(some) && len(data) < wordBytes; n++ {
		if n > 0 {
			data = append(data, ',')
		}
		word := wordOf(some[n])
		word.Age = time.Since(some[n].Given).Milliseconds()
		one, err := json.Marshal(word)
		if err != nil {
			return 0, err
		}
		data = append(data, one...)
		if some[n].Until.After(until) {
			until = some[n].Until
		}
	}
	data = append(data, ']')
	subject := k.prefix + ".ack." + k.cfg.Node + "." + strconv.FormatUint(number, 10)
	return n, k.write(ctx, stream.NewMessage(subject, data, jetstream.MsgTTLHeader, stream.FormatTTL(time.Until(until)+margin)))
}

// Ended implements duty.Keeper. Other hubs are told: its client may come back to any.
func (k *Keeper) Ended(sent duty.Acknowledgement) {
	if sent.Until.IsZero() && !k.inUse() {
		return
	}
	k.returns.Ended(sent)
	w := wordOf(sent)
	if !sent.Until.IsZero() {
		w.Left = max(1, time.Until(sent.Until).Milliseconds())
	}
	if data, err := json.Marshal(w); err == nil && !k.cfg.Alone {
		k.nc.Publish(k.cfg.Prefix+".dutyended", data) // without it the event is reported once too often
	}
}

func (k *Keeper) hearEnded(msg *nats.Msg) {
	var w word
	var a duty.Acknowledgement
	err := json.Unmarshal(msg.Data, &w)
	if err == nil {
		a, err = w.acknowledgement()
	}
	if err != nil {
		k.notUnderstood(msg.Subject, err)
		return
	}
	if w.Left > 0 {
		a.Until = time.Now().Add(time.Duration(w.Left) * time.Millisecond)
	}
	for _, a := range k.returns.Ended(a) {
		k.Acknowledge(a)
	}
}

// Resumed implements duty.Keeper.
func (k *Keeper) Resumed(back duty.Acknowledgement, others []duty.Acknowledgement) {
	for _, a := range k.returns.Of(back, others) {
		k.Acknowledge(a)
	}
	if back.Connection != uuid.Nil && !k.cfg.Alone && k.inUse() {
		k.returns.Ahead(back)
	}
}
