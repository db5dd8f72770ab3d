package taskmanager

import (
	"context"
	"crypto/sha256"
	"time"
)

// maxRefusals is the maximum number of refusals that are kept: the source is asked
// again for the tasks of those that are dropped.
const maxRefusals = 10_000

// refusal is what is kept of a task whose source refused before anything of it was
// known. Nobody has a piece of such a task, and a refusal takes a hundredth of its
// memory.
type refusal struct {
	requester [sha256.Size]byte
	err       error
	at        time.Time
}

// refused returns the error with which the source refused a task of late, or nil.
func (m *Manager) refused(id string) (r refusal, found bool) {
	r, found = m.refusals.Get(id)
	return r, found && time.Since(r.at) < m.cfg.FailAccessInterval
}

// endRefused replaces a failed task by a refusal, if the facts of its source are
// unknown. It reports whether it has done that.
func (m *Manager) endRefused(ctx context.Context, e *entry, cause error) bool {
	at := time.Now()
	if facts, _, err := e.Expected(ctx); err != nil || facts.PieceSize != 0 {
		return false
	}
	select { // calls that have found the task get its error
	case <-ctx.Done():
	case <-time.After(endGrace):
	}
	m.refusals.Add(e.ID, refusal{e.requester, cause, at})
	m.discard(e)
	return true
}
