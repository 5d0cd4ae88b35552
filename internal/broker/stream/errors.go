package stream

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Errors of who asks the broker; all others are the broker's word that nothing was kept.
var (
	// ErrUnconfirmed: the broker did not answer in time. It may have kept what it was
	// sent; the same ids again tell.
	ErrUnconfirmed = errors.New("the store did not confirm in time")
	// ErrTooLarge: more than the broker takes in one message.
	ErrTooLarge = errors.New("the message is larger than the store accepts")
	// ErrStale: a replica has not yet what the leader told.
	ErrStale = errors.New("a replica of the stream is behind")
)

// Times that the broker has.
const (
	AppendTimeout = 1500 * time.Millisecond // to keep a message
	AskTimeout    = 1500 * time.Millisecond // to answer a question
	MakeTimeout   = 2 * time.Second         // to make a stream or a consumer
	tryEvery      = 200 * time.Millisecond
	sayEvery      = 10 * time.Second // why it still waits
)

// BatchLimit is how many messages the broker keeps together, all or none.
const BatchLimit = 1000

// Codes of the broker's errors that say to try again, and what to do before.
const (
	CodeInProcess   = 10158 // the same id is just being kept
	CodeKnown       = 10201 // a batch has an id that is known
	CodeBatchesFull = 10210
	CodeIncomplete  = 10176 // another leader has not seen the batch's beginning
	CodeNotLeader   = 10009
	codeUnavailable = 10008 // the servers have no leader, though the stream may

	CodeWrongLast, CodeWrongLastInBatch = 10071, 10164 // another was first
)

// Pause waits a little before another try, unless ctx ends.
func Pause(ctx context.Context) bool {
	select {
	case <-time.After(5*time.Millisecond + rand.N(10*time.Millisecond)):
		return true
	case <-ctx.Done():
		return false
	}
}

// WasSecond says that the broker has refused something because another was first.
func WasSecond(err error) bool {
	refused, is := errors.AsType[*Refusal](err)
	return is && (refused.Code == CodeWrongLast || refused.Code == CodeWrongLastInBatch)
}

// WasBusy says that the broker has kept nothing, and may the next time.
func WasBusy(err error) bool {
	refused, is := errors.AsType[*Refusal](err)
	if !is {
		return false
	}
	switch refused.Code {
	case CodeBatchesFull, CodeIncomplete, CodeNotLeader, CodeInProcess:
		return true
	}
	return false
}
