package peers

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
)

// Why a process does not answer.
var (
	ErrGone   = errors.New("there is no such process")
	ErrSilent = errors.New("that process does not answer") // it may be there
)

// Ask has one process answer, within a second or as long as ctx says; ErrGone where
// there is none, ErrSilent where it does not.
func (p *Peers) Ask(ctx context.Context, node string, data []byte) ([]byte, error) {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askTimeout)
		defer cancel()
	}
	answer, err := p.nc.RequestWithContext(ctx, p.nodeSubject(node), append(frame(kindAsk, p.cfg.Node), data...))
	switch {
	case err == nil && len(answer.Data) > 0:
		return answer.Data, nil
	case err == nil:
		return nil, fmt.Errorf("%w: it has no answer, or none that fits into a message", ErrSilent)
	case errors.Is(err, nats.ErrNoResponders) && p.unknown(node):
		return nil, errors.Join(ErrGone, err)
	}
	return nil, errors.Join(ErrSilent, err)
}

// unknown says that a process is not there, as far as we hear.
func (p *Peers) unknown(node string) bool {
	able := p.cfg.Able()
	p.mu.Lock()
	defer p.mu.Unlock()
	return able && p.nodes[node] == nil
}

// MaxData is how many bytes an answer may have.
func (p *Peers) MaxData() int { return int(p.nc.MaxPayload()) }

// AskAll has all others answer; who does not is in silent.
func (p *Peers) AskAll(ctx context.Context, data []byte) (answers [][]byte, silent []string) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, node := range p.Nodes() {
		all.Go(func() {
			answer, err := p.Ask(ctx, node, data)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				answers = append(answers, answer)
			case !errors.Is(err, ErrGone): // else it has just left
				silent = append(silent, node)
			}
		})
	}
	all.Wait()
	return answers, silent
}

// Cast hands data to all others who hold a topic.
func (p *Peers) Cast(topic string, data []byte) error {
	return p.nc.Publish(p.topicSubject(topic), append(frame(kindCast, p.cfg.Node, topic), data...))
}
