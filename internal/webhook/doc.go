// Package webhook sends what is in an outbox to the services' endpoint, signed as Standard
// Webhooks 1.0 has it: in order, one batch of a tenant at a time, and again until it is taken.
//
// [New] makes a [Sender] of a [Config], and [Sender.Run] sends until its context ends.
// [ParseEndpoint] and [ParseSecrets] read the settings, and [Secrets.Sign] makes the signature.
//
// The Sender's lock may be taken while the outbox's is held, and never the other way round.
package webhook
