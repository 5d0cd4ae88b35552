// Package folder keeps what a hub shares with nobody, or with a few others, in a folder: it
// runs a NATS server with JetStream inside the process (nats-server is a library), to which
// the hub connects without a port.
//
// [Open] takes the folder for itself alone and starts the server; [Folder.Connect] is the
// option with which package broker reaches it. [Folder.Close] ends it. A server that had to
// stop, for want of room or of a working disk, is started again once there is some. Among
// peers a folder that was lost and comes back as a new one takes the old one's place.
package folder
