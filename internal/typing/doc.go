// Package typing knows who types in which conversation and until when, and tells the others
// in it, in order.
//
// [Typists.Typing] is what a person's client says, and [Typists.Heard] what another hub tells
// of. [Typists.Tick] ends what was not repeated, and [Typists.Left] what somebody typed who
// has gone. It may wait for the room's members and holds no lock meanwhile.
package typing
