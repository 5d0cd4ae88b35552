// Package folder keeps what a hub shares with nobody, or with a few others, in a folder: it
// runs a NATS server with JetStream inside the process (nats-server is a library), to which
// the hub connects without a port.
//
// [Open] takes the folder for itself alone and starts the server; [Folder.Connect] is the
// option with which package broker reaches it. [Folder.Close] ends it. A server that had to
// stop, for want of room or of a working disk, is started again once there is some.
//
// With [Peers], servers inside are one cluster. Each has the name of its place among the
// addresses of all, which its hub finds by calling them. So an empty folder that is put where
// one was lost takes that one's place and is filled by the others. It may not decide anything
// with one of them alone before it has something (nats-server counts the vote of a server
// with an empty log only together with all others), and [Folder.Whole] says when it has all:
// until then no other may be stopped.
package folder
