package soak

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/record"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/server"
	"github.com/supernode-ha/supernode/test/pace"
	"github.com/supernode-ha/supernode/test/usage"
)

// Report is how things are at a moment, and what happened since the last report.
type Report struct {
	// After is the time since the start, Interval that since the last report.
	After, Interval time.Duration
	// Peers is the number of those that are alive, Tasks that of the files so far.
	Peers, Tasks int64
	// Arrived, Finished, Crashed and Failed count peers since the start.
	Arrived, Finished, Crashed, Failed int64
	// Calls is the number of calls in the interval, Latency how long they took.
	Calls   int64
	Latency record.Latency
	// Usage is what the supernode uses. Processor is its processor time in the
	// interval, Generator that of this process.
	Usage                server.Usage
	Processor, Generator time.Duration
}

// totals are counts since the start at the time of a report.
type totals struct {
	at                   time.Time
	calls                int64
	processor, generator time.Duration
}

// report reports until the context ends.
func (k *soak) report(ctx context.Context, tell func(Report) error) error {
	began := time.Now()
	last, _, err := k.totals(ctx)
	if err != nil {
		return err
	}
	for pace.Pause(ctx, k.cfg.Interval) {
		now, used, err := k.totals(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it is over
		}
		if err != nil {
			return err
		}
		if err := tell(Report{
			After: now.at.Sub(began), Interval: now.at.Sub(last.at), Peers: k.alive.Load(), Tasks: k.file.Load() + 1,
			Arrived: k.counts.arrived.Load(), Finished: k.counts.finished.Load(), Crashed: k.counts.crashed.Load(), Failed: k.counts.failed.Load(),
			Calls: now.calls - last.calls, Latency: k.deps.Record.Latency(),
			Usage: used, Processor: now.processor - last.processor, Generator: now.generator - last.generator,
		}); err != nil {
			return err
		}
		last = now
	}
	return nil
}

func (k *soak) totals(ctx context.Context) (totals, server.Usage, error) {
	generator, err := usage.Processor(os.Getpid())
	if err != nil {
		return totals{}, server.Usage{}, err
	}
	used, err := k.supernode.Measure(ctx)
	if err != nil {
		return totals{}, server.Usage{}, fmt.Errorf("measuring the supernode: %w", err)
	}
	return totals{at: time.Now(), calls: k.deps.Record.Calls(), processor: used.Processor, generator: generator}, used, nil
}
