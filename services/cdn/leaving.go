package cdn

import (
	"context"
	"sync"
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
		s.drain(ctx, limit/4, announcers)
		if err := s.Handover(ctx); err != nil {
			s.log.Warn("leaving although not everything is handed over", zap.Error(err))
		}
		return nil
	}
}

// drain is given up after a while: a registry that is away hears nothing, and
// sees the members leave in the end.
func (s *Service) drain(ctx context.Context, limit time.Duration, announcers []*cluster.Announcer) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var all sync.WaitGroup
	for _, a := range announcers {
		all.Go(func() {
			if err := a.Drain(ctx); err != nil {
				s.log.Warn("the registry does not know that this member is about to leave", zap.Error(err))
			}
		})
	}
	all.Wait()
}
