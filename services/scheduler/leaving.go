package scheduler

import (
	"context"
	"time"

	"github.com/supernode-ha/supernode/pkg/cluster"
)

// Leaving returns the part of a process that hands the scheduler's tasks over to their
// standbys when the process is stopped.
func (s *Service) Leaving(limit time.Duration, announcers ...*cluster.Announcer) func(context.Context) error {
	return cluster.Leaving(limit, s.log, s.tasks.HandOver, announcers...)
}
