package plan

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// When memory is given back.
const (
	quietLook  = 5 * time.Second
	quietHeap  = 16 << 20         // bytes: a smaller heap is treated as one of this size
	quietEvery = 20 * time.Second // at most so often; of a GiB each 100 s: a collection of it costs a core a second
)

// GiveBack gives memory that is not in use back to the system in quiet times, until ctx
// ends. Go collects when the heap has grown, and keeps what was free then for when it
// grows again: so after a storm a process would keep nearly all that it took, as long as
// hardly anything happens. With GOGC=off it gives nothing back.
func GiveBack(ctx context.Context) {
	const allocated, heap, percent = 0, 1, 2
	samples := []metrics.Sample{
		allocated: {Name: "/gc/heap/allocs:bytes"},
		heap:      {Name: "/memory/classes/heap/objects:bytes"},
		percent:   {Name: "/gc/gogc:percent"},
	}
	if metrics.Read(samples); samples[percent].Value.Uint64() == math.MaxUint64 {
		return
	}
	giveBack(ctx, func() (uint64, uint64) {
		metrics.Read(samples)
		return samples[allocated].Value.Uint64(), samples[heap].Value.Uint64()
	}, debug.FreeOSMemory)
}

// giveBack calls free in quiet times; read says how many bytes were allocated so far,
// and how many the heap has.
func giveBack(ctx context.Context, read func() (allocated, heap uint64), free func()) {
	ticker := time.NewTicker(quietLook)
	defer ticker.Stop()
	before, _ := read()
	freed := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		allocated, heap := read()
		fresh := allocated - before
		before = allocated
		every := max(quietEvery, time.Duration(heap>>20)*(100*time.Second>>10))
		if fresh < max(heap, quietHeap)/4 && time.Since(freed) >= every {
			free()
			freed = time.Now()
		}
	}
}
