package event

import "github.com/google/uuid"

// Excluded is whom a target leaves out. The zero value leaves out nobody.
type Excluded struct {
	profiles    map[Profile]struct{}
	connections map[uuid.UUID]struct{}
}

// ExcludedBy makes the set of those whom t leaves out, which is asked for each connection.
func ExcludedBy(t *Target) (e Excluded) {
	if excluded := t.ExcludeProfiles; len(excluded) > 0 {
		e.profiles = make(map[Profile]struct{}, len(excluded))
		for _, p := range excluded {
			e.profiles[p] = struct{}{}
		}
	}
	if excluded := t.ExcludeConnections; len(excluded) > 0 {
		e.connections = make(map[uuid.UUID]struct{}, len(excluded))
		for _, id := range excluded {
			e.connections[id] = struct{}{}
		}
	}
	return e
}

// Nobody says that nobody is left out.
func (e *Excluded) Nobody() bool { return e.profiles == nil && e.connections == nil }

// Has says whether a profile's connection is left out.
func (e *Excluded) Has(p Profile, connection uuid.UUID) bool {
	_, profile := e.profiles[p]
	_, conn := e.connections[connection]
	return profile || conn
}
