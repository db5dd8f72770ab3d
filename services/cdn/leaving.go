package cdn

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/cluster"
)

// Leaving is a part of a process that does nothing until it is told to stop.
// Then the announcers' members take nothing new any more, and other CDNs get
// what this one owns, within limit. As the last part that is added it is the
// first that is stopped: everything else goes on serving meanwhile.
func (s *Service) Leaving(limit time.Duration, announcers ...*cluster.Announcer) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		cluster.DrainAll(ctx, limit/4, s.log, announcers...)
		if err := s.Handover(ctx); err != nil {
			s.log.Warn("leaving although not everything is handed over", zap.Error(err))
		}
		return nil
	}
}
