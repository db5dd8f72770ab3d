package scheduler

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/cluster"
)

// Leaving is a part of a process that does nothing until it is told to stop.
// Then the announcers' members take nothing new any more, and the standbys get
// the tasks that are here, within limit. Added behind the scheduler itself it
// is stopped before: tasks are answered meanwhile.
func (s *Service) Leaving(limit time.Duration, announcers ...*cluster.Announcer) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		cluster.DrainAll(ctx, limit/2, s.log, announcers...)
		if err := s.table.HandOver(ctx); err != nil {
			s.log.Warn("leaving although not everything is handed over", zap.Error(err))
		}
		return nil
	}
}
