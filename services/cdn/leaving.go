package cdn

import (
	"context"
	"time"

	"github.com/supernode-ha/supernode/pkg/cluster"
)

// Leaving is the part of a process that gives what this CDN owns to others when
// it is told to stop.
func (s *Service) Leaving(limit time.Duration, announcers ...*cluster.Announcer) func(context.Context) error {
	return cluster.Leaving(limit, s.log, s.Handover, announcers...)
}
