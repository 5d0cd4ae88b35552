package cluster

// Telling says whether somebody is told just now, or may not be told before what is told of
// changes.
func (x *Cluster) Telling() bool {
	if x.Mu.TryLock() {
		x.Mu.Unlock()
		return false
	}
	return true
}

// Owes says for how many hubs kicks are remembered.
func (x *Cluster) Owes() int {
	x.Owed.Mu.Lock()
	defer x.Owed.Mu.Unlock()
	return len(x.Owed.Of)
}

// What the tests of the package count.
const (
	Most        = MostOwed
	RemoteBytes = AwayBytes
)
