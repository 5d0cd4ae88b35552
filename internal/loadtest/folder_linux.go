//go:build linux

package main

import (
	"fmt"
	"sync"
	"time"
)

const inFolder = "with a folder"

var folderSetups = []setup{{inMemory, 1, 0, false}, {inFolder, 1, 0, true}}

// folderRows are the rows of -data: a hub that keeps all in a folder, beside one in memory.
func folderRows() []row {
	list := []row{{"idle", "MiB", "≤ 30 MiB more than in memory", (*bench).idle}}
	for _, l := range loads {
		if l.streams > 0 && l.streams < 1000 {
			continue // of several hubs
		}
		asked := "≥ 0.7 × in memory"
		if l.streams > 0 {
			asked = "≥ 0.8 × in memory"
		}
		var once sync.Once
		var got costs
		var err error
		measured := func(b *bench) (costs, error) {
			once.Do(func() { got, err = b.shared(l, folderSetups) })
			return got, err
		}
		note := func(b *bench) string { return fmt.Sprintf("%s, %d streams", l.note, min(b.streams, l.streams)) }
		list = append(list, row{l.name, l.unit, asked, func(b *bench) (figures, error) {
			got, err := measured(b)
			if err != nil {
				return figures{}, err
			}
			return figures{new(1e6 / got.took[inFolder]), new(1e6 / got.took[inMemory]), inMemory, note(b)}, nil
		}})
		if l.streams == 0 {
			list = append(list, row{l.name, "CPU µs a POST", "≤ 1.5 × in memory", func(b *bench) (figures, error) {
				got, err := measured(b)
				return figures{got.hubs.get(inFolder), got.hubs.get(inMemory), inMemory, note(b)}, err
			}})
		}
	}
	return list
}

// idle is what a hub takes that does nothing.
func (b *bench) idle() (figures, error) {
	if b.base != "" {
		return figures{}, errNotRestarted
	}
	took, err := b.compare("idle, MiB", sharedTimes, []string{inMemory, inFolder}, func(name string) (float64, error) {
		var g group
		defer g.stop()
		if err := g.start(b, setup{name, 1, 0, name == inFolder}); err != nil {
			return 0, err
		}
		time.Sleep(2 * time.Second) // it has begun
		bytes, err := pssOf(g.hubs[0].pids)
		return float64(bytes) / (1 << 20), err
	})
	return figures{took.get(inFolder), took.get(inMemory), inMemory, ""}, err
}
