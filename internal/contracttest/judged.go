package contracttest

import (
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// judged has what was said of texts that were looked at: much of what tests send and get is
// the same to the byte, and under the race detector a look takes as long as what is tested.
// The zero value has nothing.
type judged struct {
	mu   sync.Mutex
	said map[look]error // guarded by mu
}

// look is at a text, by a schema or, if that is nil, as an event.
type look struct {
	schema *jsonschema.Schema
	folded bool
	text   string
}

// What is remembered, at most: little, as tests also weigh what a hub keeps.
const (
	mostLooks = 512
	mostText  = 1 << 10 // bytes
)

// once is what judge says, or has said of the same.
func (j *judged) once(l look, judge func() error) error {
	if len(l.text) > mostText {
		return judge()
	}
	j.mu.Lock()
	err, known := j.said[l]
	j.mu.Unlock()
	if known {
		return err
	}
	err = judge()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.said == nil || len(j.said) >= mostLooks {
		j.said = map[look]error{}
	}
	j.said[l] = err
	return err
}

// fits says whether a text is JSON as the schema has it, once fold, if it is not nil, has
// changed what was decoded; a nil schema wants JSON and no more.
func (j *judged) fits(schema *jsonschema.Schema, fold func(any), text []byte) error {
	return j.once(look{schema, fold != nil, string(text)}, func() error {
		value, err := decode(text)
		if err != nil || schema == nil {
			return err
		}
		if fold != nil {
			fold(value)
		}
		return schema.Validate(value)
	})
}
