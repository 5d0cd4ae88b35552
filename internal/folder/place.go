package folder

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"
)

// How a hub looks for its place among peers.
const (
	placeTime  = time.Minute            // until it is found: an address may become known later than its hub starts
	placeEvery = 500 * time.Millisecond // all addresses are called
	callTime   = time.Second            // one of them may take
)

var errNoPlace = errors.New("no address in REALTIME_PEERS leads to this hub: one of them has to be where the others reach its REALTIME_PEERS_ADDR")

// nameOf is the name of the server at a place.
func nameOf(place int) string { return fmt.Sprint("hub-", place+1) }

// place finds which of the addresses leads here. Names and interfaces do not tell: there may
// be a container, or an address that is translated, between the two. So all are called, and
// the call that comes in here was its own.
func (p *Peers) place(logger *slog.Logger) (int, error) {
	l, err := net.Listen("tcp", p.Listen)
	if err != nil {
		return 0, err
	}
	word := rand.Text()
	var calls sync.WaitGroup
	defer calls.Wait()
	defer l.Close()
	calls.Go(func() { answer(l, word) })
	for n, begun := 0, time.Now(); time.Since(begun) < placeTime; n++ {
		if n > 0 {
			time.Sleep(placeEvery)
		}
		if n, found := p.call(word); found {
			return n, nil
		}
		if n%20 != 3 {
			continue
		}
		logger.Warn("this hub does not find its place among the others yet", "err", errNoPlace)
	}
	return 0, errNoPlace
}

// answer says the word to who calls and says nothing. Servers of peers that call wait for a
// word, and do not end what they say.
func answer(l net.Listener, word string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(callTime))
			if n, err := io.Copy(io.Discard, conn); n == 0 && err == nil {
				io.WriteString(conn, word)
			}
		}()
	}
}

// call calls all, and finds where the word is known.
func (p *Peers) call(word string) (place int, found bool) {
	at := make(chan int, len(p.Addrs))
	var calls sync.WaitGroup
	for n, addr := range p.Addrs {
		calls.Go(func() {
			if said(addr) == word {
				at <- n
			}
		})
	}
	calls.Wait()
	select {
	case place = <-at:
		return place, true
	default:
		return 0, false
	}
}

// said is what is said at an address to who says nothing.
func said(addr string) string {
	conn, err := net.DialTimeout("tcp", addr, callTime)
	if err != nil {
		return ""
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(callTime))
	conn.(*net.TCPConn).CloseWrite()
	var text strings.Builder
	io.Copy(&text, io.LimitReader(conn, 1<<10))
	return text.String()
}
