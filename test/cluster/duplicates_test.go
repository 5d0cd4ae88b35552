package cluster

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// The same id at once on two hubs is accepted once, and once a duplicate, each time.
func TestClusterSameIDAtOnce(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	nodes := threeHubs(t)
	client := nodes[2].Open(t, meQuery)
	slow := 0 // rounds in which not both were answered in time
	for i := 0; i < rounds+slow; i++ {
		body := fmt.Sprintf(`{"id":"id-%d","tenantId":"acme","type":"a.b","payload":%d,"target":{"kind":"tenant"}}`, i, i)
		var wg sync.WaitGroup
		var statuses [2]int
		var answers [2]map[string]any
		for n := range answers {
			wg.Go(func() { statuses[n], answers[n] = nodes[n].Post(t, "/v1/events", body) })
		}
		wg.Wait()
		if statuses == [2]int{http.StatusAccepted, http.StatusAccepted} {
			is.True(answers[0]["duplicate"] != answers[1]["duplicate"])
		} else { // asked again, both may be duplicates
			for n := range answers {
				answers[n] = nodes[n].Accepted(t, "/v1/events", body)
			}
			slow++
			is.True(slow <= rounds) // a machine is not slow each time
		}
		is.Equal(answers[0]["cursor"], answers[1]["cursor"])
		is.Equal(answers[0]["timestamp"], answers[1]["timestamp"])
		is.Equal(string(openEnvelope(t, client.Next(t)).Payload), fmt.Sprint(i)) // once
	}
	is.Equal(nodes[2].Replayed(t, client), "")
}

// A batch in which some ids are known: those are duplicates, the others are together.
func TestClusterBatchWithKnownIDs(t *testing.T) {
	t.Parallel()
	nodes := threeHubs(t)
	for try := 0; !batchWithKnownIDs(t, nodes, fmt.Sprint("batch-", try)); try++ {
		is.New(t).True(try < 10) // a machine is not slow each time
	}
}

// batchWithKnownIDs says false where the broker was too slow to confirm the batch: asked again,
// all of it may be known.
func batchWithKnownIDs(t *testing.T, nodes []*hubtest.Program, tenant string) (confirmed bool) {
	t.Helper()
	is := is.New(t)
	client := nodes[2].Open(t, "profile=me&tenant="+tenant)
	event := func(id string) string {
		return fmt.Sprintf(`{"id":%q,"tenantId":%q,"type":"a.b","payload":%q,"target":{"kind":"tenant"}}`, id, tenant, id)
	}
	nodes[0].Accepted(t, "/v1/events", event("a"))
	nodes[1].Accepted(t, "/v1/events", event("c"))
	status, answer := nodes[1].Post(t, "/v1/events/batch", `{"events":[`+event("a")+","+event("b")+","+event("c")+","+event("d")+","+event("b")+`]}`)
	if answer["code"] == "Unconfirmed" {
		return false
	}
	is.Equal(status, http.StatusAccepted)
	var duplicates []any
	var places []int
	for _, r := range answer["results"].([]any) {
		duplicates = append(duplicates, r.(map[string]any)["duplicate"])
		places = append(places, nodes[0].Place(t, tenant, r.(map[string]any)["cursor"].(string)))
	}
	is.Equal(duplicates, []any{true, false, true, false, true})
	is.Equal(places, []int{1, 3, 2, 4, 3})
	is.Equal(nodes[2].Payloads(t, tenant, client), []string{`"a" "c" "b" "d"`})
	return true
}
