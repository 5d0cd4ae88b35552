// Package clustertest has the other hubs of a cluster played by a test: [Peers] are there as it
// says, answer what it says, and remember what they are told.
package clustertest

import (
	"context"
	"slices"
	"sync"

	"realtimehub/internal/cluster"
)

// Peers are other hubs. The zero value is a hub that knows of no other and hears all that
// there is to hear.
type Peers struct {
	Mark [4]byte // this hub's own
	// Answer is what a hub answers; nil: there is no such hub.
	Answer func(node [4]byte, c cluster.Call) (cluster.Answer, error)
	// AnswerAll is what all of them answer; nil: there are none.
	AnswerAll func(c cluster.Call) (answers []cluster.Answer, silent []string)

	mu           sync.Mutex
	others, lost [][4]byte
	told         []cluster.SessionChange
	cast         []cluster.Typing
}

// Set says which hubs are there, and which were lost lately.
func (p *Peers) Set(others, lost [][4]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.others, p.lost = others, lost
}

// Told is all that they were told of sessions.
func (p *Peers) Told() []cluster.SessionChange {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.told)
}

// Heard is all that they were told of typing.
func (p *Peers) Heard() []cluster.Typing {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.cast)
}

// Follow implements cluster.Peers, as all that follow do.
func (p *Peers) Follow(cluster.Sink) {}

func (p *Peers) Node() [4]byte { return p.Mark }

func (p *Peers) Hears() bool { return true }

func (p *Peers) Away() int64 { return 0 }

func (p *Peers) Others() [][4]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.others
}

func (p *Peers) Known() (others, lost [][4]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.others, p.lost
}

func (p *Peers) Tell(_ string, c cluster.SessionChange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = append(p.told, c)
}

func (p *Peers) Hold(context.Context, string) error { return nil }

func (p *Peers) Complete(context.Context, string) bool { return true }

func (p *Peers) Release(string) {}

func (p *Peers) Cast(_ string, t cluster.Typing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cast = append(p.cast, t)
}

func (p *Peers) Ask(_ context.Context, node [4]byte, c cluster.Call) (cluster.Answer, error) {
	if p.Answer == nil {
		return cluster.Answer{}, cluster.ErrElsewhere
	}
	return p.Answer(node, c)
}

func (p *Peers) AskAll(_ context.Context, c cluster.Call) ([]cluster.Answer, []string) {
	if p.AnswerAll == nil {
		return nil, nil
	}
	return p.AnswerAll(c)
}
