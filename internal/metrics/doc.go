// Package metrics shows what the parts of the hub have counted, in Prometheus's format. [New]
// is given a function that looks at all of it, as [Values], and calls no part itself. What is
// shown is one table, families. No label is a user's own word.
package metrics
