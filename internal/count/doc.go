// Package count counts what metrics show: how often each word of a closed set has occurred,
// and how often something had which size.
//
// [NewWords] and [NewSizes] make the counters, Add counts, and Now is what was counted.
// All of it may be called by any goroutine at any time.
package count
