package broker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// A hub is sure of what it knows while other hubs cannot have given it up.
func TestAttendance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var a attendance
		run := func(d time.Duration, connected, heard bool) { // as in its own time
			for ; d > 0; d -= tickEvery {
				time.Sleep(tickEvery)
				a.tick(connected, heard)
			}
		}
		ask := func() { a.knows(a.asks()) }
		is.True(!a.sure()) // it has never asked
		ask()
		is.True(a.sure())
		run(time.Hour, true, true)
		is.True(a.sure()) // it needs no answer while all is well
		time.Sleep(awayAfter)
		is.True(a.sure())
		time.Sleep(time.Nanosecond)
		is.True(!a.sure()) // it has slept, whoever looks first
		a.tick(true, true)
		is.True(!a.sure()) // and may have been given up
		ask()
		is.True(a.sure())

		before := a.asks()
		time.Sleep(time.Minute)
		a.tick(true, true)
		a.knows(before)
		is.True(!a.sure()) // what it was told was asked before it slept
		ask()
		is.True(a.sure())

		run(tickEvery, false, true)
		is.True(!a.sure()) // cut off
		run(time.Minute, true, true)
		is.True(!a.sure())
		ask()
		is.True(a.sure())

		run(tickEvery, true, false) // it does not hear one of the others, and that one may not hear it
		is.True(a.sure())
		run(knownFor, true, false)
		is.True(!a.sure())
		ask()
		is.True(a.sure())
		is.Equal(a.age(), time.Duration(0))
		run(knownFor+tickEvery, true, true)
		is.True(a.sure()) // it was given up by nobody
	})
}
