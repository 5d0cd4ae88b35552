package outage

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// callAt sends a request to a hub, and is the answer's status; 0: there was none.
func callAt(method, addr, path, body string) int {
	req, err := http.NewRequest(method, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		return 0
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	res.Body.Close()
	return res.StatusCode
}

// While a hub sleeps, the others give it up and change a room without it. When it wakes it
// has what was said since then waiting, and people who publish, come back and ask.
func TestMembershipAtAHubThatSlept(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	servers := natstest.StartProcesses(t, 1)
	settings := hubtest.Shared(1, "test", servers.URLs())
	awake, asleep := hubtest.Start(t, settings...), hubtest.Start(t, settings...)
	members := "/v1/tenants/acme/conversations/r/members"
	eventually(t, func() bool {
		return callAt("PUT", awake.Addr, members, `{"members":["leaver","stayer"]}`) == http.StatusNoContent
	})
	people := map[string]*listener{}
	for _, who := range []string{"leaver", "stayer", "joiner"} {
		people[who] = listen(t, asleep.Addr, who)
	}
	eventually(t, func() bool { // all are there
		return callAt("POST", awake.Addr, "/v1/events", eventJSON("acme", "a.b", `{"kind":"tenant"}`, "0")) == http.StatusAccepted
	})
	for _, l := range people {
		l.until(t, "a.b 0")
	}

	testkit.Pause(t, asleep.PID)
	t.Cleanup(func() { asleep.Signal(syscall.SIGCONT) })
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	eventually(t, func() bool { return callAt("DELETE", awake.Addr, members+"/leaver", "") == http.StatusNoContent })
	eventually(t, func() bool { return callAt("PUT", awake.Addr, members+"/joiner", "") == http.StatusNoContent })
	for n := range 20 {
		say := eventJSON("acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, fmt.Sprint("1", n))
		awake.Accepted(t, "/v1/events", say)
	}
	asleep.Signal(syscall.SIGCONT)
	// It publishes what it is given, too.
	asleep.Publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, "2")
	awake.Publish(t, "acme", "a.b", `{"kind":"tenant"}`, "3")
	for _, l := range people {
		l.until(t, "a.b 3")
	}
	of := func(who string) int {
		return len(slices.DeleteFunc(slices.Clone(people[who].seen), func(word string) bool {
			return !strings.HasPrefix(word, "a.b 1") && word != "a.b 2"
		}))
	}
	is.Equal(of("leaver"), 0)  // nothing that was said after it was removed
	is.Equal(of("stayer"), 21) // all
	is.Equal(of("joiner"), 21) // all
}
