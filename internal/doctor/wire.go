// Package doctor finds what stands between a client and a hub: whether a stream's
// events come through at once, how long it may be silent, how long it lives at all.
// It opens streams that are for this alone, and judges by what arrives, and when.
package doctor

// The events of a probe, in this order; a silent one has no ticks, and is told of no
// other probe's end.
const (
	EventHello = "doctor.hello"
	EventTick  = "doctor.tick"
	EventGone  = "doctor.gone"
	EventDone  = "doctor.done"
)

// Hello is what the hub saw of the request: what the last proxy made of it.
type Hello struct {
	ID          string              `json:"id"`    // the probe's; empty: the hub is older
	Tells       bool                `json:"tells"` // the probe that was named is told of this one's end
	At          string              `json:"at"`
	Protocol    string              `json:"protocol"`
	TLS         bool                `json:"tls"`
	Host        string              `json:"host"`
	Headers     map[string][]string `json:"headers"` // of ShownHeaders, those that came
	EveryMS     int64               `json:"everyMs"` // 0: silent
	ForMS       int64               `json:"forMs"`
	HeartbeatMS int64               `json:"heartbeatMs"` // of real streams; 0: none
}

// ShownHeaders is all that Hello repeats. A list and no prefix: there are proxies
// that put a token in X-Forwarded-Access-Token, and a person in X-Forwarded-User.
func ShownHeaders() []string {
	return []string{
		"Accept-Encoding", "Cf-Ray", "Forwarded", "Via", "X-Amzn-Trace-Id", "X-Envoy-Expected-Rq-Timeout-Ms",
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Proto", "X-Forwarded-Server", "X-Real-Ip",
	}
}

// Tick is one of a probe's, and its EventDone. ElapsedMS is since the hello, by the
// hub's clock that nobody sets: a client compares it with its own.
type Tick struct {
	Seq       int    `json:"seq"` // from 1; of EventDone how many there were
	At        string `json:"at"`
	ElapsedMS int64  `json:"elapsedMs"`
}

// Gone says that another probe ended before its time, and how. ElapsedMS is since the
// hello of the probe that is told.
type Gone struct {
	ID        string `json:"id"`
	How       string `json:"how"`
	At        string `json:"at"`
	ElapsedMS int64  `json:"elapsedMs"`
}

// How a probe ended, as the hub saw it.
const (
	Left     = "left"     // its client, or a proxy, closed the connection
	Vanished = "vanished" // TCP's own messages were not acknowledged
	GivenUp  = "givenUp"  // a limit of the hub's own
)
