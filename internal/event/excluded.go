package event

import (
	"iter"
	"maps"
	"slices"

	"github.com/google/uuid"
)

// Excludes says whether t leaves out a profile's connection. Who asks for many of them has [ExcludedBy].
func (t *Target) Excludes(p Profile, connection uuid.UUID) bool {
	return slices.Contains(t.ExcludeProfiles, p) || slices.Contains(t.ExcludeConnections, connection)
}

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

// HasAll says whether all of a profile's connections are left out.
func (e *Excluded) HasAll(p Profile) bool {
	_, all := e.profiles[p]
	return all
}

// Profiles are those all of whose connections are left out.
func (e *Excluded) Profiles() iter.Seq[Profile] { return maps.Keys(e.profiles) }

// Connections are those that are left out whosever they are.
func (e *Excluded) Connections() iter.Seq[uuid.UUID] { return maps.Keys(e.connections) }

// Has says whether a profile's connection is left out.
func (e *Excluded) Has(p Profile, connection uuid.UUID) bool {
	_, conn := e.connections[connection]
	return conn || e.HasAll(p)
}
