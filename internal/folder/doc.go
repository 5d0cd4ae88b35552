// Package folder keeps what a hub shares with nobody, or with a few others, in a folder: it
// runs a NATS server with JetStream inside the process (nats-server is a library), to which
// the hub connects without a port.
//
// [Open] takes the folder for itself alone and starts the server; [Folder.Connect] is the
// option with which package broker reaches it. [Folder.Close] ends it. A server that had to
// stop, for want of room or of a working disk, is started again once there is some.
//
// With [Peers], servers inside are one cluster. An empty folder that is put where one was lost
// becomes a further member, which takes the lost one's part once that is removed; [Folder.Whole]
// says when it has all. A hub alone is told by [Folder.Torn] that its machine has stopped before
// all was on the disk.
package folder
