package ndjson

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
)

// How long a line may be does not depend on where in the buffer it ends, nor on how it ends.
func TestTheLongestLineIsTaken(t *testing.T) {
	for _, end := range []string{"\n", "\r\n", "\r", ""} {
		for _, max := range []int{lineBuffer - 2, lineBuffer - 1, lineBuffer, 2*lineBuffer - 1} {
			for _, over := range []int{0, 1} {
				is := is.New(t)
				body := strings.NewReader(strings.Repeat("x", max+over) + end)
				memory := (&allowance.Pools{}).Body(event.TenantProfile{})
				lines := lineReader{in: bufio.NewReaderSize(body, lineBuffer), max: max, memory: memory}
				line, err := lines.next()
				_, tooLong := errors.AsType[*http.MaxBytesError](err)
				is.Equal(tooLong, over == 1)
				is.Equal(len(strings.TrimRight(string(line), "\r\n")), max*(1-over))
				_, err = lines.next()
				is.Equal(err, io.EOF) // nothing of it is left
			}
		}
	}
}

// One \r is of a line's end, wherever in the buffer that is; what is before it is of the line.
func TestOneReturnIsOfALinesEnd(t *testing.T) {
	for n := lineBuffer - 4; n <= lineBuffer; n++ {
		for _, max := range []int{n, n + 1} {
			is := is.New(t)
			body := strings.NewReader(strings.Repeat("x", n) + "\r\r\n")
			memory := (&allowance.Pools{}).Body(event.TenantProfile{})
			lines := lineReader{in: bufio.NewReaderSize(body, lineBuffer), max: max, memory: memory}
			_, err := lines.next()
			_, tooLong := errors.AsType[*http.MaxBytesError](err)
			is.Equal(tooLong, max == n)
		}
	}
}

// A line of nothing but carriage returns is bounded as any other.
func TestALineOfReturnsIsBounded(t *testing.T) {
	is := is.New(t)
	body := strings.NewReader(strings.Repeat("\r", 10*lineBuffer) + "\n")
	memory := (&allowance.Pools{}).Body(event.TenantProfile{})
	lines := lineReader{in: bufio.NewReaderSize(body, lineBuffer), max: lineBuffer, memory: memory}
	_, err := lines.next()
	_, tooLong := errors.AsType[*http.MaxBytesError](err)
	is.True(tooLong)
	is.True(cap(lines.text) <= 4*lineBuffer)
}
