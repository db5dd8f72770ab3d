package cdn

import (
	"context"
	"time"

	"github.com/supernode-ha/supernode/pkg/cluster"
)

// Leaving returns the part of a process that announces that this CDN is draining and hands
// its tasks over, within limit, when the process is told to stop.
func (s *Service) Leaving(limit time.Duration, announcers ...*cluster.Announcer) func(context.Context) error {
	return cluster.Leaving(limit, s.log, s.Handover, announcers...)
}
