package duties

import (
	"testing"
	"time"

	"github.com/matryer/is"
)

// While nobody publishes with a deadline, connections that end cost nothing: they are neither kept
// nor told to other hubs.
func TestConnectionsThatEndWithoutDeadlines(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	k.cfg.Alone = false
	told, err := k.nc.SubscribeSync(k.cfg.Prefix + ".dutyended")
	is.NoErr(err)
	end := func() int64 {
		sent := ackOf("a", 1)
		sent.Until = time.Time{} // it owes nothing
		k.Ended(sent)
		return k.duty.Pools.State.Of("acme")
	}
	long := time.Now().Add(-time.Hour)
	k.lastUse.Store(&long)
	k.lookForUse(t.Context())
	is.Equal(end(), int64(0))
	is.NoErr(k.nc.Flush())
	pending, _, err := told.Pending()
	is.NoErr(err)
	is.Equal(pending, 0)

	openDuty(t, k, dutyOf(1, time.Hour, "a"))
	one := end()
	is.True(one > 0)
	k.lastUse.Store(&long)
	k.lookForUse(t.Context()) // another hub may have opened it
	is.True(end() > one)
	k.lastUse.Store(&long)
	owes := ackOf("b", 1)
	before := k.duty.Pools.State.Of("acme")
	k.Ended(owes)
	is.True(k.duty.Pools.State.Of("acme") > before)
}
