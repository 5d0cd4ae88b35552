package remote

import (
	"github.com/google/uuid"

	"realtimehub/internal/sized"
)

// sessions are a tenant's connections on other hubs, by their ids.
type sessions struct {
	firsts sized.Table[uuid.UUID, *person] // whose first connection it is
	others sized.Table[uuid.UUID, *session]
}

// put adds a connection of somebody: with nil, the first.
func (s *sessions) put(id uuid.UUID, who *person, other *session) {
	if other == nil {
		s.firsts.Put(id, who)
	} else {
		s.others.Put(id, other)
	}
}

// get is whose connection has an id, and its session, which is nil where it is the first. The
// person is nil where there is no such connection.
func (s *sessions) get(id uuid.UUID) (who *person, other *session) {
	if who = s.firsts.Get(id); who != nil {
		return who, nil
	}
	if other = s.others.Get(id); other != nil {
		return other.who, other
	}
	return nil, nil
}

// remove removes a connection.
func (s *sessions) remove(id uuid.UUID) {
	s.firsts.Delete(id)
	s.others.Delete(id)
}

// len is how many there are.
func (s *sessions) len() int { return s.firsts.Len() + s.others.Len() }

// ids are those of all.
func (s *sessions) ids() []uuid.UUID {
	ids := make([]uuid.UUID, 0, s.len())
	for id := range s.firsts.All() {
		ids = append(ids, id)
	}
	for id := range s.others.All() {
		ids = append(ids, id)
	}
	return ids
}
