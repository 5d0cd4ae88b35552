// Package presence knows who is online, away or offline, by the connections that each person has
// and when they were last active.
//
// [People.Connected], [People.Left] and [People.Touch] are told of connections, on this hub or on
// others. [People.Of], [People.All] and [People.Counts] ask. [People.Advance], called once a tick,
// moves those whose time has come and returns what has changed: who announces it, and to whom, is
// not this package's business. Its work is proportional to what changed: every profile is due at
// most once, and only due ones are looked at.
//
// There is one lock for the people of all tenants, which is never held for more than a piece of a
// long list. It is taken after that of a tenant of package delivery, and [Config.Offline] is
// called with it held.
package presence
