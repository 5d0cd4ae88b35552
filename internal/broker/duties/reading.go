package duties

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/duty"
)

// reading hands a judge all that is kept, from the beginning on.
type reading struct {
	// Static.
	keeper *Keeper
	judge  *duty.Judge

	mu sync.Mutex
	// Guarded by mu.
	at    uint64        // the stream's place up to which all is handed over
	moved chan struct{} // closed when at moves
}

// begin reads through a consumer that goes with it. If it ends, failed says why.
func (r *reading) begin(ctx context.Context, failed context.CancelCauseFunc) (stop func(), err error) {
	k := r.keeper
	consumer, err := k.js.OrderedConsumer(ctx, k.stream.Name, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{k.prefix + ".open.>", k.prefix + ".ack.>"}, DeliverPolicy: jetstream.DeliverAllPolicy,
	})
	if err != nil {
		return nil, err
	}
	consuming, err := consumer.Consume(r.take, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		k.cfg.Logger.Debug("reading duties", "err", err) // it goes on by itself
	}))
	if err != nil {
		return nil, err
	}
	go func() {
		select {
		case <-consuming.Closed():
			failed(fmt.Errorf("the duties can be read no more"))
		case <-ctx.Done():
		}
	}()
	return consuming.Stop, nil
}

// take hands over one message.
func (r *reading) take(msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		return
	}
	if err := r.hand(msg); err != nil {
		r.keeper.cfg.Logger.Error("a duty, or an acknowledgement, cannot be read: another version may have kept it", "subject", msg.Subject(), "err", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = meta.Sequence.Stream
	close(r.moved)
	r.moved = make(chan struct{})
}

func (r *reading) hand(msg jetstream.Msg) error {
	k := r.keeper
	if strings.HasPrefix(msg.Subject(), k.prefix+".open.") {
		d, came, err := k.decode(msg.Subject(), msg.Data())
		if err == nil && came == nil {
			r.judge.Open(d)
		}
		return err
	}
	var list []word
	if err := json.Unmarshal(msg.Data(), &list); err != nil {
		return err
	}
	for _, w := range list {
		a, err := w.acknowledgement()
		if err != nil {
			return err
		}
		r.judge.Acknowledge(a)
	}
	return nil
}

// catchUp waits until all has been handed over that is kept now.
func (r *reading) catchUp(ctx context.Context) error {
	for {
		last, err := r.last(ctx)
		if err != nil {
			return err
		}
		look := time.After(lookAgain) // what was last may fade before it is read
		for waiting := true; waiting; {
			r.mu.Lock()
			at, moved := r.at, r.moved
			r.mu.Unlock()
			if at >= last {
				return nil
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-look:
				waiting = false
			case <-moved:
			}
		}
	}
}

// lookAgain is how long what is kept is waited for, before it is asked anew what that is.
const lookAgain = 500 * time.Millisecond

// last is the place of the last of what is read.
func (r *reading) last(ctx context.Context) (last uint64, err error) {
	for _, what := range []string{".open.>", ".ack.>"} {
		place, err := r.keeper.stream.Last(ctx, r.keeper.prefix+what)
		if err != nil {
			return 0, err
		}
		last = max(last, place)
	}
	return last, nil
}
