package journal

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// Prove has the broker keep a message that says nothing: then most of its servers are in
// reach. Any other answer may be of one that does not know yet that it leads no more.
func (j *Journal) Prove(ctx context.Context) error {
	_, err := j.prove(ctx)
	return err
}

// prove is Prove; it returns the message's place, which is the last of all.
func (j *Journal) prove(ctx context.Context) (place uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	place, _, err = j.stream.request(ctx, message(j.cutSubject(proofName), nil, jetstream.MsgTTLHeader, "60"))
	return place, err
}
