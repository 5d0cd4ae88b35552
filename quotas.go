package main

import (
	"realtimehub/internal/plan"
	"realtimehub/internal/quota"
)

// Quotas bound what outlives a call and what a client can make wait, each byte counted
// where it is kept, for whom it is kept. A nil pool bounds nothing.
type Quotas struct {
	State   *quota.Pool[string]        // connections, filters, watch lists, memberships, presence: by tenant
	IDs     *quota.Pool[string]        // ids of events, by tenant; past their number the oldest go
	Person  *quota.Pool[tenantProfile] // what of that is one person's making
	Bodies  *quota.Pool[tenantProfile] // bodies that are being read, by who sends them
	Answers *quota.Pool[tenantProfile] // answers that are being written, by who is to read them
}

// personsPart is how much of what is free one person may have, as a fraction.
const personsPart = 8

// idsPart is how much of what is for state the ids of events may have, as a fraction.
const idsPart = 4

// NewQuotas makes the pools of a plan.
func NewQuotas(memory plan.Memory) *Quotas {
	return &Quotas{
		State:   quota.New[string](memory.State-memory.State/idsPart, 1),
		IDs:     quota.New[string](memory.State/idsPart, 1),
		Person:  quota.New[tenantProfile](memory.State, personsPart),
		Bodies:  quota.New[tenantProfile](memory.Calls/2, personsPart),
		Answers: quota.New[tenantProfile](memory.Calls/2, personsPart),
	}
}

// QuotaStats is how full a pool is.
type QuotaStats interface {
	Total() int64
	All() int64 // 0: no limit
	Refused() int64
}

// Stats are the pools by name.
func (q *Quotas) Stats() map[string]QuotaStats {
	return map[string]QuotaStats{"state": q.State, "ids": q.IDs, "person": q.Person, "bodies": q.Bodies, "answers": q.Answers}
}
