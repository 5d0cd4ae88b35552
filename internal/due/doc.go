// Package due tells what is due next: a [Queue] of items, each with a time of its own.
//
// An item holds an [Item], which its Due method returns. [Queue.Set] gives it a time,
// [Queue.First] is what is due first, and [Queue.Next] the first that is due by now.
package due
