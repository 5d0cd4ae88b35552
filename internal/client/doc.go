// Package client has what a person's client may say about its connection, whichever door it
// came by: that it has handled what it was sent, that somebody is there, who types, what it
// wants to get, and that it has a new token. A door makes a [Command] by its name with [New],
// gives it the members of a JSON object ([Command.Field]) and has it done ([Command.Do]) by the
// hub's [Verbs].
package client
