package task

import (
	"context"
	"maps"
	"time"

	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// State holds the state by which the manager decides how long to keep a task.
type State struct {
	// Err is the cause of the task's failure, and FailedAt its time.
	Err      error
	FailedAt time.Time
	// LastUsed is the time of the latest call from a peer.
	LastUsed time.Time
	// Peers is the number of peers. Unfinished is the number of those that have
	// not left and miss pieces.
	Peers      int
	Unfinished int
}

// State returns the task's state.
func (t *Task) State(ctx context.Context) (State, error) {
	return query(ctx, t, func() (State, error) {
		return State{
			Err: t.err, FailedAt: t.failedAt, LastUsed: t.lastUsed, Peers: t.swarm.Peers(), Unfinished: t.swarm.Unfinished(),
		}, nil
	})
}

// Downloading returns the number of peers that the end of the process would interrupt.
func (t *Task) Downloading(ctx context.Context) (int, error) {
	return query(ctx, t, func() (int, error) { return t.swarm.Downloading(time.Now()), nil })
}

// Outdated returns the ids of the peers that a task with another version of the
// source has to exclude.
func (t *Task) Outdated(ctx context.Context) (map[string]struct{}, error) {
	peers := maps.Clone(t.outdated)
	if peers == nil {
		peers = make(map[string]struct{})
	}
	ids, err := query(ctx, t, func() ([]string, error) { return t.swarm.PeerIDs(), nil })
	for _, id := range ids {
		peers[id] = struct{}{}
	}
	return peers, err
}

// Expire removes the peers that left before leftBefore, and those whose last sign
// of life is older than silentBefore. Other calls are processed in between.
func (t *Task) Expire(ctx context.Context, leftBefore, silentBefore time.Time) error {
	for more := true; more; {
		var err error
		more, err = query(ctx, t, func() (bool, error) { return t.swarm.Expire(leftBefore, silentBefore), nil })
		if err != nil {
			return err
		}
	}
	return nil
}

// Sources returns the ids of the peers that serve pieces.
func (t *Task) Sources(ctx context.Context) ([]string, error) {
	return query(ctx, t, func() ([]string, error) { return t.swarm.Sources(), nil })
}

// Holdings returns what the given peers serve, in their order, and the facts of the
// source. Peers that serve nothing are left out. It leaves out all peers that follow
// the one with which the number of pieces exceeds maxPieces.
func (t *Task) Holdings(ctx context.Context, ids []string, maxPieces int) ([]swarm.Holding, swarm.Facts, error) {
	type holdings struct {
		list  []swarm.Holding
		facts swarm.Facts
	}
	h, err := query(ctx, t, func() (out holdings, err error) {
		out.facts, _ = t.swarm.Facts()
		pieces := 0
		for _, id := range ids {
			h, found := t.swarm.Holding(id)
			if !found {
				continue
			}
			out.list = append(out.list, h)
			if pieces += len(h.Pieces); pieces > maxPieces {
				break
			}
		}
		return out, nil
	})
	return h.list, h.facts, err
}
