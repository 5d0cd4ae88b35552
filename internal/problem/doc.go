// Package problem is what an error is answered with: its status, its code, its words, its
// headers (RFC 9457), and for a bad request every fault with its field.
//
// An error carries its answer: [New] makes such an error, and any type may implement
// [Answerer]. [Of] finds the answer of whatever wraps it, and [Write] writes it. [Faults]
// gathers all that is wrong with a request, so that it is told at once. The package knows no
// hub and no route.
package problem
