package journal

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
)

// Prove has the broker keep a message that says nothing: then most of its servers are in
// reach. Any other answer may be of one that does not know yet that it leads no more.
func (j *Journal) Prove(ctx context.Context) error {
	_, err := j.prove(ctx)
	return err
}

// prove is Prove; it returns the message's place, which is the last of all.
func (j *Journal) prove(ctx context.Context) (place uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, stream.AskTimeout)
	defer cancel()
	place, _, err = j.stream.Request(ctx, stream.NewMessage(j.cutSubject(stream.ProofName), nil, jetstream.MsgTTLHeader, "60"))
	return place, err
}
