// Package notices tells services what happens to people, connections and rooms, by way of the
// outbox.
//
// [Notices.Presence] and [Notices.Occupancy] take the state that somebody or a room has now,
// [Notices.Opened] and [Notices.Closed] what has happened to a connection. None of them waits;
// [Notices.Run] puts what they took into the outbox. While that takes nothing, of each person
// and room the latest state waits, and of connections the first ones up to a bound. What has no
// room is dropped and counted.
//
// Of several hubs one tells of states: [Notices.Foremost] says whether this is the one. What it
// leaves to another it keeps for a moment, and tells it should the other be gone.
//
// [Rooms] knows which rooms are occupied.
package notices
