package run

import (
	"context"
	"fmt"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/server"
	"github.com/supernode-ha/supernode/test/pace"
)

// memoryInterval is the time between two looks at the resident memory.
const memoryInterval = 50 * time.Millisecond

// memory follows the resident memory of a supernode. What the kernel records as the
// largest is that since the start of the process.
type memory struct {
	stop func()
	done chan struct{}

	// These are set when done is closed.
	peak int64
	err  error
}

func watchMemory(ctx context.Context, supernode *server.Server) *memory {
	ctx, stop := context.WithCancel(ctx)
	m := &memory{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		for more := true; more; more = pace.Pause(ctx, memoryInterval) {
			resident, err := supernode.Resident()
			if err != nil {
				m.err = fmt.Errorf("following the memory of the supernode: %w", err)
				return
			}
			m.peak = max(m.peak, resident)
		}
	}()
	return m
}

// end returns the largest resident memory so far, in bytes.
func (m *memory) end() (int64, error) {
	m.stop()
	<-m.done
	return m.peak, m.err
}
