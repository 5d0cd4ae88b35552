// Package serve is what the program has of net/http beside its routes. [NewServer] speaks
// HTTP/1.1 and HTTP/2 with the times that a client has; [LoadCertificate] and [LoadClientCAs]
// read files of TLS, and again when they change; [Endpoints] are the addresses that are
// served; [NewErrorLog] counts what net/http complains of; [Profiles] shows the process, and
// [CheckHealth] asks another one whether it lives. Locks are held for moments and never
// together.
package serve
