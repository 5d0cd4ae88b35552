// Package event is the hub's vocabulary: the [Event] with its [Target], the [Profile] and
// [Room] that it names, the [Filter] of types that a stream wants, and the rules of all names.
//
// [Event.Seal] encodes the envelope that recipients get, once. [Event.AppendWhole] is what
// services and the history have, and [DecodeStored] reads it. [ParseProfile], [ParseFilter]
// and the Check functions read names that come from outside. The package knows nothing of who
// is connected.
package event
