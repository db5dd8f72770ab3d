package run

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/supernode-ha/supernode/pkg/taskid"
	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/lab"
	"github.com/supernode-ha/supernode/test/operator"
	"github.com/supernode-ha/supernode/test/pace"
)

const lookEvery = 50 * time.Millisecond

// killOwner kills the owner of the task when the clients have received their
// share of all bytes. It returns at once if none is to be killed.
func (r *run) killOwner(ctx context.Context) error {
	share := r.cfg.Scenario.KillOwner
	if share == 0 {
		return nil
	}
	before, err := lab.Received(r.hosts)
	if err != nil {
		return err
	}
	asks := operator.New(func() []*cluster.Node { return r.layout.Running(cluster.Registry) })
	defer asks.Close()
	for {
		now, err := lab.Received(r.hosts)
		if err != nil {
			return err
		}
		if r.share(before, now) >= share {
			break
		}
		if !pace.Pause(ctx, lookEvery) {
			return errors.New("the clients ended before")
		}
	}
	task := taskid.Compute(r.origin.URL(path), "", "", nil)
	rec, err := asks.Record(task)
	if err != nil {
		return fmt.Errorf("asking which supernode owns %s: %w", task, err)
	}
	owner := r.layout.Member(cluster.CDN, rec.GetOwner())
	if owner == nil {
		return fmt.Errorf("the owner is %q, which is no member", rec.GetOwner())
	}
	if err := r.samples.take(ctx, owner); err != nil {
		return err
	}
	owner.Kill()
	return nil
}

// share returns which part of all bytes has arrived. Hosts that are killed do
// not count, nor does what a host receives beyond the file.
func (r *run) share(before, now []int64) float64 {
	var got, want int64
	for i, c := range r.plan {
		if c.Crash == 0 {
			got += min(now[i]-before[i], r.cfg.Scenario.Size)
			want += r.cfg.Scenario.Size
		}
	}
	return float64(got) / float64(want)
}
