// Package answer writes what callers are answered. [JSON] and [NoContent] are for answers of
// a few bytes; [NewRows] begins one of many items, of which only a piece is in memory at a time.
// A [List] of profiles takes its memory and its turn before it is made ([List.Begin]).
// Everything belongs to one call: there is no lock.
package answer
