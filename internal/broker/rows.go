package broker

import (
	"encoding/json"
	"errors"
	"iter"
	"strings"

	"realtimehub/internal/broker/table"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
)

// membershipRow is a room.Membership as it is stored.
type membershipRow struct {
	Epoch  string      `json:"epoch"` // of the places, in the tenant's history
	Place  uint64      `json:"place"` // of the change
	Member bool        `json:"member"`
	Stays  [][2]uint64 `json:"stays"`
	Forgot uint64      `json:"forgot,omitempty"` // stays that ended up to this place may be lacking
}

// mostStays is how many times in a room are kept of a profile. A version before kept one
// more, and did not say what it had cut.
const mostStays = 31

var errGroup = errors.New("the group is no room")

func groupOf(room event.Room) string { return string(room.Kind) + ":" + room.ID }

func roomOf(group string) event.Room {
	kind, id, ok := strings.Cut(group, ":")
	if !ok {
		return event.Room{}
	}
	return event.Room{Kind: event.TargetKind(kind), ID: id}
}

// roomChange is rows of one room that were changed together, or a part of them.
type roomChange struct {
	room    event.Room
	version uint64 // the room's own place; 0: it is not among them
	life    string // of the history
	place   uint64 // in it, before which they hold not yet
	changed []room.Membership
	last    uint64 // row
}

// changesOf are the changes that rows of a tenant tell of. Its history is in a life, and of
// an epoch. Rows that are not understood are skipped, and told of.
func changesOf(rows []table.Row, life, epoch string, notUnderstood func(place uint64, err error)) iter.Seq[roomChange] {
	return func(yield func(roomChange) bool) {
		c := roomChange{life: life}
		for _, row := range rows {
			of := roomOf(row.Group)
			if of == (event.Room{}) {
				notUnderstood(row.Seq, errGroup)
				continue
			}
			if row.Name == "" {
				if c.last > 0 && !yield(c) {
					return
				}
				c = roomChange{room: of, version: row.Seq, last: row.Seq, life: life}
				continue
			}
			var stored membershipRow
			p, err := event.ParseProfile(row.Name)
			if err2 := json.Unmarshal(row.Data, &stored); err != nil || err2 != nil {
				notUnderstood(row.Seq, errors.Join(err, err2))
				continue
			}
			if stored.Forgot == 0 && len(stored.Stays) > mostStays {
				stored.Forgot = stored.Stays[0][0]
			}
			m := room.Membership{Profile: p, Member: stored.Member, Forgot: stored.Forgot}
			for _, s := range stored.Stays {
				m.Stays = append(m.Stays, history.Stay{Room: of, From: s[0], Until: s[1]})
			}
			if stored.Epoch != epoch { // the history has begun anew since
				stored.Place, m = 0, m.Restarted(of)
			}
			if c.last > 0 && (of != c.room || len(c.changed) > 0 && stored.Place != c.place) {
				if !yield(c) {
					return
				}
				c = roomChange{life: life}
			}
			c.room, c.place, c.changed, c.last = of, stored.Place, append(c.changed, m), row.Seq
		}
		if c.last > 0 {
			yield(c)
		}
	}
}
