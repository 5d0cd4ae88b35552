// Package serve is net/http as the hub uses it: the addresses where it listens, the files of
// its TLS, the server's times, what the server has to complain of, and the process's signals.
//
// [NewServer] makes a server with its times, and [Endpoints] opens and shuts all of them
// together. [LoadCertificate] and [LoadClientCAs] keep the files up to date. [ErrorLog] sorts
// net/http's lines and logs each kind once a second. [CheckHealth] is what -health does.
// [UntilSignal] and [OnHangup] say when the process is told to end, or to read its files again.
package serve
