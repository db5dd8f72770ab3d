package run

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/server"
	"github.com/supernode-ha/supernode/test/usage"
)

// meter measures what the supernode and this process use in a span of time.
type meter struct {
	supernode     *server.Server
	before, after server.Usage
	generator     time.Duration // processor time of this process
}

func (m *meter) start(ctx context.Context) error {
	var err error
	if m.before, err = m.supernode.Measure(ctx); err != nil {
		return fmt.Errorf("measuring the supernode before the run: %w", err)
	}
	m.generator, err = usage.Processor(os.Getpid())
	return err
}

func (m *meter) stop(ctx context.Context) error {
	used, err := usage.Processor(os.Getpid())
	if err != nil {
		return err
	}
	m.generator = used - m.generator
	if m.after, err = m.supernode.Measure(ctx); err != nil {
		return fmt.Errorf("measuring the supernode after the run: %w", err)
	}
	return nil
}
