package peers

import (
	"context"
	"errors"
	"sync"
)

// ErrGone: there is no such process, or it does not answer.
var ErrGone = errors.New("that process does not answer")

// Ask has one process answer, within a second or as long as ctx says; ErrGone where
// it does not.
func (p *Peers) Ask(ctx context.Context, node string, data []byte) ([]byte, error) {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askTimeout)
		defer cancel()
	}
	answer, err := p.nc.RequestWithContext(ctx, p.nodeSubject(node), append(frame(kindAsk, p.cfg.Node), data...))
	if err != nil {
		return nil, errors.Join(ErrGone, err)
	}
	return answer.Data, nil
}

// AskAll has all others answer; who does not is in silent.
func (p *Peers) AskAll(ctx context.Context, data []byte) (answers [][]byte, silent []string) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, node := range p.Nodes() {
		all.Go(func() {
			answer, err := p.Ask(ctx, node, data)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent = append(silent, node)
			} else {
				answers = append(answers, answer)
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
