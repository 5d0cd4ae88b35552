package cluster

// Telling says whether somebody is told just now, or may not be told before what is told of
// changes.
func (x *Cluster) Telling() bool {
	if x.mu.TryLock() {
		x.mu.Unlock()
		return false
	}
	return true
}

// Owes says for how many hubs kicks are remembered.
func (x *Cluster) Owes() int {
	x.owed.mu.Lock()
	defer x.owed.mu.Unlock()
	return len(x.owed.of)
}

// What the tests of the package count.
const (
	Most        = mostOwed
	RemoteBytes = remoteBytes
)
