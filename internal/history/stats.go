package history

// Stats is what a Log keeps on this machine.
type Stats struct {
	Tenants int
	Entries int
	Bytes   int64 // that those take, as counted against the limits; with a broker its own
	Limit   int64 // of Bytes; 0: none
	Memory  int64 // bytes that histories take in this process
	IDs     int   // that would be recognised
	LostIDs int   // forgotten before their window was over, since the start
	// Events that went before their time, since the start: past their tenant's bytes; or past
	// all tenants', and theirs had most.
	CutTenant, CutAll int64
	Unsent            int  // ephemeral events that other hubs could not be told of, since the start
	Unread            int  // what other hubs stored and is no event to this one, since the start
	Unknown           bool // what is kept, as nobody answers
	// How often this hub learned that a broker had lost it, since the start.
	Gone map[Kept]int64
	// What was wrong with the broker, and how often, since the start.
	Faults map[Fault]int64
}

// Kept is something that a broker keeps for all hubs.
type Kept string

// All that a broker keeps.
const (
	KeptHistory Kept = "history"
	KeptEpoch   Kept = "epoch" // and the secret of cursors
	KeptMembers Kept = "membership"
)

// Fault is something that is wrong with a broker.
type Fault string

// All that is told apart.
const (
	FaultHistory    Fault = "history"    // it could not be changed, when that was tried
	FaultMembership Fault = "membership" // likewise
	FaultRefused    Fault = "refused"    // a server did not take the hub's credentials
	FaultMoved      Fault = "moved"      // a server could do nothing, and the hub has moved to another
	FaultOther      Fault = "other"      // the log says which
)
