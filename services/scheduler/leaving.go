package scheduler

import (
	"context"
	"time"

	"github.com/supernode-ha/supernode/pkg/cluster"
)

// Leaving is the part of a process that gives the tasks that are here to their
// standbys when it is told to stop.
func (s *Service) Leaving(limit time.Duration, announcers ...*cluster.Announcer) func(context.Context) error {
	return cluster.Leaving(limit, s.log, s.tasks.HandOver, announcers...)
}
