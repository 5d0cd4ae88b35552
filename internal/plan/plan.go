// Package plan divides the memory that there is among what a hub keeps.
package plan

import (
	"math"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// Memory is how many bytes each kind of thing may take; 0: no limit.
type Memory struct {
	Streams int64 // what is owed to them
	History int64 // of all tenants
	State   int64 // connections with their filters and watch lists, memberships, presence, ids
	Calls   int64 // bodies and answers that are under way
}

// Of is a plan for so much memory: 11/16 of it, since what is counted is not all.
func Of(bytes int64) Memory {
	return Memory{Streams: bytes / 4, History: min(bytes/4, 1<<30), State: bytes / 8, Calls: bytes / 16}
}

// Least is how much memory Go needs at least for a hub that keeps all that it may, which
// stays whatever else is refused, and some more as to count is not to weigh; beside what
// its streams owe still when they were relieved, and what it has when it does nothing.
func (m Memory) Least() int64 { return (m.History+m.State)/5*6 + m.Streams/5*2 + 8<<20 }

// GoLimit is the limit for Go's heap that goes with the plan: what Go does not count,
// the program itself, has to fit too. It is 0 where a part has no limit.
func (m Memory) GoLimit() int64 {
	if m.Streams == 0 || m.History == 0 || m.State == 0 || m.Calls == 0 {
		return 0
	}
	all := m.Streams + m.History + m.State + m.Calls
	return max(all-min(max(all/16, 32<<20), all/2), m.Least())
}

// Available is the memory of the machine, of the control group or of the process
// (RLIMIT_DATA and RLIMIT_AS), whichever is less; 4 GiB where none can be told.
func Available() int64 {
	least := int64(math.MaxInt64)
	for _, limit := range []func() (uint64, error){memlimit.FromSystem, memlimit.FromCgroup} {
		if n, err := limit(); err == nil && n < uint64(least) {
			least = int64(n)
		}
	}
	if least = min(least, ofProcess()); least == math.MaxInt64 {
		return 4 << 30
	}
	return least
}
