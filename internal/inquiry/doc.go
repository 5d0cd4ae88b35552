// Package inquiry is the commands that ask a hub that runs: why an event did not reach somebody,
// and what services are told. They are HTTP clients, and know no more of a hub than any service.
package inquiry
