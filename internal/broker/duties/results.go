package duties

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/duty"
	"realtimehub/internal/history"
)

// question asks the hub that judges what has come of an event so far.
type question struct {
	Tenant string
	Tag    string // of the epoch
	Place  uint64
	Parts  []int
	Query  duty.Query
}

// ErrNobodyJudges: which hub judges is not known now.
var ErrNobodyJudges = errors.New("no hub judges deadlines now")

// Results implements duty.Keeper. Of the parts that are over the stream says it, of the others the
// hub that judges.
func (k *Keeper) Results(ctx context.Context, tenant string, at history.Cursor, q duty.Query) (duty.Results, error) {
	came, open := duty.Results{Counts: map[duty.State]int{}}, duty.Results{Counts: map[duty.State]int{}}
	ask := question{Tenant: tenant, Tag: at.Epoch.Text(), Place: at.Seq, Query: q}
	for part := 0; ; part++ {
		subject := k.subjectOf(tenant, at, part)
		kept, err := k.stream.Leader(ctx, stream.Get{Last: subject})
		if err != nil {
			return came, err
		}
		if kept.Seq == 0 {
			break
		}
		record, err := k.decode(subject, kept.Data)
		if err != nil {
			return came, err
		}
		came.Duty = record.duty
		if record.over {
			came.Add(record.came, q)
		} else {
			open.Add(record.came, q)
			ask.Parts = append(ask.Parts, part)
		}
	}
	if len(ask.Parts) > 0 {
		judged, err := k.judged(ctx, ask)
		if err != nil {
			return came, err
		}
		if judged.Total() == open.Total() { // else the judge has yet to read them
			open = judged
		}
		came.Join(open, q)
	}
	return came, nil
}

// judged is what the hub that judges knows.
func (k *Keeper) judged(ctx context.Context, q question) (came duty.Results, err error) {
	if j := k.judge.Load(); j != nil {
		return k.known(j, q)
	}
	ask, _ := json.Marshal(q)
	ctx, cancel := context.WithTimeout(ctx, stream.AskTimeout)
	defer cancel()
	msg, err := k.nc.RequestWithContext(ctx, k.cfg.Prefix+".dutycame", ask)
	if err != nil {
		return came, errors.Join(ErrNobodyJudges, err)
	}
	err = json.Unmarshal(msg.Data, &came)
	return came, err
}

// known is what a judge knows.
func (k *Keeper) known(j *duty.Judge, q question) (duty.Results, error) {
	at, _, err := k.placeOf(fmt.Sprintf(".%s.%d.0", q.Tag, q.Place))
	return j.Results(q.Tenant, at, q.Parts, q.Query), err
}

// answerResults answers for the hub that judges.
func (k *Keeper) answerResults(msg *nats.Msg) {
	j := k.judge.Load()
	var q question
	if j == nil || json.Unmarshal(msg.Data, &q) != nil {
		return
	}
	came, err := k.known(j, q)
	if err != nil {
		return
	}
	came.Duty = nil // who asks has it
	if answer, err := json.Marshal(came); err == nil {
		msg.Respond(answer)
	}
}
