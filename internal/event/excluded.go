package event

import "github.com/google/uuid"

// Excluded is whom a target leaves out. The zero value leaves out nobody.
type Excluded struct {
	profiles    map[Profile]struct{}
	connections map[uuid.UUID]struct{}
}

// ExcludedBy is whom t leaves out, to be asked for one after the other.
func ExcludedBy(t *Target) (x Excluded) {
	if excluded := t.ExcludeProfiles; len(excluded) > 0 {
		x.profiles = make(map[Profile]struct{}, len(excluded))
		for _, p := range excluded {
			x.profiles[p] = struct{}{}
		}
	}
	if excluded := t.ExcludeConnections; len(excluded) > 0 {
		x.connections = make(map[uuid.UUID]struct{}, len(excluded))
		for _, id := range excluded {
			x.connections[id] = struct{}{}
		}
	}
	return x
}

// Nobody says that nobody is left out.
func (x *Excluded) Nobody() bool { return x.profiles == nil && x.connections == nil }

// Has says whether a profile's connection is left out.
func (x *Excluded) Has(p Profile, connection uuid.UUID) bool {
	_, profile := x.profiles[p]
	_, conn := x.connections[connection]
	return profile || conn
}
