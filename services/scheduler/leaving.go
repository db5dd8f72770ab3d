package scheduler

import (
	"context"
	"time"

	"github.com/supernode-ha/supernode/pkg/cluster"
)

// Leaving returns the part of a process that hands the scheduler's tasks over to their
// standbys within handOver when the process is stopped. If there is no other scheduler,
// it refuses registrations and waits for the downloads in progress instead, for at most
// finish.
func (s *Service) Leaving(handOver, finish time.Duration, announcers ...*cluster.Announcer) func(context.Context) error {
	toStandbys := cluster.Leaving(handOver, s.log, s.tasks.HandOver, announcers...)
	untilFinished := cluster.Leaving(finish, s.log, s.tasks.AwaitDownloads, announcers...)
	return func(ctx context.Context) error {
		<-ctx.Done()
		if s.tasks.Alone() {
			return untilFinished(ctx)
		}
		return toStandbys(ctx)
	}
}
