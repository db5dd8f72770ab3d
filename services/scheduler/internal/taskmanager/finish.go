package taskmanager

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// finishCheckInterval is how often AwaitDownloads looks for peers that download.
const finishCheckInterval = 100 * time.Millisecond

// Alone reports whether there is no other scheduler that could take over.
func (m *Manager) Alone() bool {
	_, found := m.deps.Replicator.Standby("")
	return !found
}

// AwaitDownloads refuses registrations from now on, so that clients go to their next
// supernode or to the source, and waits until no peer downloads any more. It is for a
// scheduler without a standby. If ctx ends before, it returns an error with the number
// of peers that are interrupted.
func (m *Manager) AwaitDownloads(ctx context.Context) error {
	m.enter(finishing)
	left := m.downloading(ctx)
	if left == 0 {
		return nil
	}
	m.deps.Log.Info("no other scheduler can take over; waiting for the downloads in progress", zap.Int("peers", left))
	check := time.NewTicker(finishCheckInterval)
	defer check.Stop()
	for left > 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the downloads in progress: %d peers are not finished: %w", left, ctx.Err())
		case <-check.C:
			left = m.downloading(ctx)
		}
	}
	m.deps.Log.Info("all downloads in progress have ended")
	return nil
}

// downloading returns the number of peers of all tasks that are not finished.
func (m *Manager) downloading(ctx context.Context) int {
	n := 0
	for _, e := range m.entries() {
		if peers, err := e.Downloading(ctx); err == nil { // a task that has ended has no peers
			n += peers
		}
	}
	return n
}
