// Package duty knows who owes an acknowledgement of which event, until when. A [Duty] is an
// event with a deadline and those whom it was for; an [Acknowledgement] is a client's word
// that it has handled everything that its connection was sent up to a place. The [Judge] holds
// them against each other: at a deadline it has reported whoever still owes, once, and keeps
// what came of the event for those who ask.
//
// A hub opens a duty for each event with a deadline once the event has its place, and hands
// over acknowledgements as they come, in whichever order. It knows nothing of streams, of HTTP
// or of how a report reaches a service.
package duty
