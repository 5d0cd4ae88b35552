// Package ndjson takes events line by line from a body that may never end. [Serve] publishes
// the lines that have come together, and answers each with a line, without waiting for who
// reads them: the answers are kept in a [Spool] that counts its bytes.
package ndjson
