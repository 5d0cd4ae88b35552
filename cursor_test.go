package main

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/matryer/is"
)

// A place has one text on all hubs, and survives them.
func TestCursorsAreTheSameOnAllHubs(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	all, nodes := threeHubs(t)
	client := all.open(t, meQuery)
	var first string
	for i := range 3 {
		cursor := nodes[i].publish(t, "acme", "a.b", `{"kind":"tenant"}`, fmt.Sprint(i))["cursor"].(string)
		is.Equal(client.next(t).ID, cursor)
		for _, node := range nodes {
			c, ok := node.parse("acme", cursor)
			is.True(ok)
			is.Equal(c.String(), cursor)
			is.Equal(node.back(t, cursor, meQuery).Ready.ID, cursor)
			status, answer := node.do(t, http.MethodGet, "/v1/tenants/acme/events?after="+client.Cursor, "")
			is.Equal(status, http.StatusOK)
			is.Equal(answer["cursor"], cursor)
		}
		if i == 0 {
			first = cursor
		}
	}
	is.Equal(nodes[2].replayed(t, nodes[2].back(t, first, meQuery)), "1 2")
}
