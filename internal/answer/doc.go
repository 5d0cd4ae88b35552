// Package answer writes what goes back to a caller: one value by [JSON], or a list that may
// be long by [NewRows], piece by piece, so that what waits for a slow reader is a piece. A
// [List] takes the turn that a long one needs, and the caller's allowance.
package answer
