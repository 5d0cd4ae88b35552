// Package backup writes all that hubs keep to one file, and reads it back into a folder or NATS
// servers that have nothing yet, wherever it came from: of one hub or several, in folders or
// on NATS servers.
//
// [Command] is what the program does for "backup" and "restore". [Save] and [Restore] do the
// work over a connection to the server that keeps everything.
//
// A backup has whatever was acknowledged before it began. It may have some of what came while
// it was made. Whoever resumes from a cursor after a restore is told of a gap, since nobody
// knows what was published after the backup; the history itself is there. Ids that were chosen
// before the backup are recognised once the servers that keep it have been started again: NATS
// reads them at a stream's start only (nats-server 2.15.2, a restore of a snapshot).
package backup
