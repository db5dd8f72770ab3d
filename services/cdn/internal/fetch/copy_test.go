package fetch_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/cdn/internal/copies"
	"github.com/supernode-ha/supernode/services/cdn/internal/fetch"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// emptyCopies is a client of CDNs without copies that counts its calls.
type emptyCopies struct {
	fetch.Copies
	asked atomic.Int32
}

func (d *emptyCopies) Follow(context.Context, string, task.ID, func(copies.Event) error) error {
	d.asked.Add(1)
	return errors.New("no local copy")
}

// The record of a failed task stays for a long time. Its replicas do not call the owner
// until the record changes.
func TestReplicaOfAFailedTaskWaitsForAChange(t *testing.T) {
	for name, c := range map[string]struct {
		status task.Status
		asks   bool
	}{"failed": {task.Failed, false}, "running": {task.Running, true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				others, changed := new(emptyCopies), make(chan struct{})
				f := fetch.NewFetcher(zap.NewNop(), nil, nil, others, fetch.Options{PoolSize: 1})
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() {
					ended <- f.Copy(ctx, fetch.CopyJob{StandingChanged: changed, Standing: func() task.Standing {
						return task.Standing{Owner: "owner", Others: []string{"owner"}, Status: c.status}
					}}, nil)
				}()
				<-time.After(time.Hour)
				before := others.asked.Load()
				require.Equal(t, c.asks, before > 1)
				changed <- struct{}{}
				synctest.Wait()
				require.Equal(t, before+1, others.asked.Load())
				cancel()
				require.ErrorIs(t, <-ended, context.Canceled)
			})
		})
	}
}
