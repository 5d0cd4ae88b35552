// Package attack shows that nobody brings a hub down and that nobody pays for another.
//
// Its test starts the program itself, with its default settings and 1 GiB of memory, and
// attacks it in each of the ways that once killed it, or that had one tenant pay for
// another. Beside each attack another tenant publishes 50 events/s to 100 streams: it
// loses nothing and waits hardly longer than beside a hub that nobody attacks. All that is known of the hub is
// its contract, its settings and what the system tells of its process.
//
//	go test -v ./test/attack
//	go test -v ./test/attack -run TestAttacks/junk_tokens -attack.times 5
package attack
