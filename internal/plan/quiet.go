package plan

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// When memory is given back. A collection of a heap of a GiB costs a core a second.
const (
	quietLook   = 5 * time.Second
	quietBytes  = 4 << 20 // allocated meanwhile, or a part of the heap where that is more
	quietPart   = 64
	quietGrown  = 20 * time.Second  // at most so often where the heap has grown by an eighth,
	quietPerGiB = 100 * time.Second // and else as often as costs a hundredth of a core
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
	before, kept := read()
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
		every := quietGrown
		if heap <= kept+kept/8 {
			every = max(every, time.Duration(heap>>20)*(quietPerGiB>>10))
		}
		if fresh < max(quietBytes, heap/quietPart) && time.Since(freed) >= every {
			free()
			freed = time.Now()
			_, kept = read()
		}
	}
}
