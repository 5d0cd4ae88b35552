package main

import "realtimehub/internal/event"

// DecodeStored reads an event as AppendWhole writes it, with its timestamp.
func DecodeStored(body []byte) (*event.Event, error) {
	d := eventDecoder{Event: new(event.Event), stored: true}
	if err := d.decode(body, nil, 0); err != nil {
		return nil, err
	}
	return d.Event, d.Err()
}
