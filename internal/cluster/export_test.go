package cluster

// Telling says whether somebody is told just now, or may not be told before what is told of
// changes.
func (c *Cluster) Telling() bool {
	if c.mu.TryLock() {
		c.mu.Unlock()
		return false
	}
	return true
}

// Owes says for how many hubs kicks are remembered.
func (c *Cluster) Owes() int {
	c.owed.mu.Lock()
	defer c.owed.mu.Unlock()
	return len(c.owed.of)
}

// SentAway says of how many hubs it is remembered that they sent clients away.
func (c *Cluster) SentAway() int {
	c.foremost.mu.Lock()
	defer c.foremost.mu.Unlock()
	return len(c.foremost.away)
}

// SomeSessions is a piece of what Sessions has.
func (c *Cluster) SomeSessions(tenant string, end int, sessions []Session) ([]Session, int) {
	return c.someSessions(tenant, end, sessions)
}

// What the tests of the package count.
const (
	Most         = mostOwed
	Piece        = piece
	FollowAtOnce = followAtOnce
)
