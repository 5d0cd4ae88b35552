package duties

import (
	"context"
	"time"
)

// Connections end all the time, and as a rule nobody publishes with a deadline. What they were sent
// is kept and told to other hubs only where somebody does.

// lookForUseEvery is how often it is looked whether another hub has a duty.
const lookForUseEvery = time.Minute

// inUse says whether somebody may owe an acknowledgement at any hub.
func (k *Keeper) inUse() bool { return time.Since(*k.lastUse.Load()) < 2*lookForUseEvery }

// use notes that somebody does.
func (k *Keeper) use() {
	now := time.Now()
	k.lastUse.Store(&now)
}

// lookForUse looks whether the stream has a duty, or what came of one.
func (k *Keeper) lookForUse(ctx context.Context) {
	if last, err := k.stream.Last(ctx, k.prefix+".open.>"); err != nil || last > 0 { // what cannot be known may be
		k.use()
	}
}

// keepLooking looks until the keeper is closed.
func (k *Keeper) keepLooking() {
	ticker := time.NewTicker(lookForUseEvery)
	defer ticker.Stop()
	for {
		select {
		case <-k.ended:
			return
		case <-ticker.C:
			k.lookForUse(context.Background())
		}
	}
}
