//go:build linux

package main

import (
	"fmt"
	"net"
	"slices"
	"time"
)

const (
	limitedStreams = 1_000
	limitedRounds  = 100
	limitedRate    = 100 // events a second that a tenant may publish
	floodRate      = 300 // that another one tries
)

// limited measures how long the clients of a tenant wait for an event, alone and
// beside a tenant that tries three times its limit.
func (b *bench) limited() (figures, error) {
	if b.base != "" {
		return figures{}, errNotRestarted
	}
	note := ""
	all := map[string][]float64{}
	_, err := b.compare("limited, p99 in ms", 9, []string{"beside", "alone"}, func(kind string) (float64, error) {
		s, c, finish, err := b.client("hub", fmt.Sprint("REALTIME_PUBLISH_RATE=", limitedRate), "REALTIME_PRESENCE_AUDIENCE=none")
		if err != nil {
			return 0, err
		}
		defer finish()
		if err := c.open(limitedStreams, 0); err != nil {
			return 0, err
		}
		if err := c.settle(s.quiet()); err != nil {
			return 0, err
		}
		p, stop, err := newPoster(s.addr.String())
		if err != nil {
			return 0, err
		}
		defer stop()
		if kind == "beside" {
			end := make(chan struct{})
			ended := make(chan string, 1)
			go func() { ended <- flood(s, end) }()
			defer func() {
				close(end)
				note = <-ended
			}()
		}
		event := s.request("POST", "/v1/events", "application/json",
			fmt.Appendf(nil, `{"tenantId":%q,"type":"load.test","payload":"x","target":{"kind":"tenant"}}`, s.tenant))
		sent := 0
		rounds := func(n int) error {
			for range n {
				sent++
				c.sentAt = time.Now()
				if err := publish(c, p, 1, sent, func(int) []byte { return event }); err != nil {
					return err
				}
				if err := c.rest(10 * time.Millisecond); err != nil { // within the limit
					return err
				}
			}
			return nil
		}
		if err := rounds(limitedRounds / 5); err != nil { // warm
			return 0, err
		}
		c.waits = make([]time.Duration, 0, limitedRounds*limitedStreams)
		if err := rounds(limitedRounds); err != nil {
			return 0, err
		}
		slices.Sort(c.waits)
		figure := float64(c.waits[len(c.waits)*99/100]) / float64(time.Millisecond)
		c.waits = nil
		all[kind] = append(all[kind], figure)
		return figure, nil
	})
	if err != nil {
		return figures{}, err
	}
	return figures{new(median(all["beside"])), new(median(all["alone"])), "alone", note}, nil
}

func median(figures []float64) float64 {
	figures = slices.Sorted(slices.Values(figures))
	return figures[len(figures)/2]
}

// flood publishes for another tenant, and says what came of it.
func flood(s *server, end <-chan struct{}) string {
	conn, err := net.Dial("tcp", s.addr.String())
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	request := s.request("POST", "/v1/events", "application/json", []byte(`{"tenantId":"flooder","type":"load.test","payload":"x","target":{"kind":"tenant"}}`))
	answer := make([]byte, 4<<10)
	count := map[string]int{}
	ticker := time.NewTicker(time.Second / floodRate)
	defer ticker.Stop()
	start := time.Now()
	for {
		select {
		case <-ticker.C:
		case <-end:
			seconds := time.Since(start).Seconds()
			return fmt.Sprintf("a tenant with a limit of %d/s: %.0f/s taken, %.0f/s answered 429", limitedRate,
				float64(count["202"])/seconds, float64(count["429"])/seconds)
		}
		if _, err := conn.Write(request); err != nil {
			return err.Error()
		}
		n, err := conn.Read(answer) // a small answer comes in one piece; parsing it would cost the readers beside us
		if err != nil {
			return err.Error()
		}
		count[string(answer[9:min(n, 12)])]++
	}
}
