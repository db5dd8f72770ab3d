package engine

import (
	"context"

	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/fetch"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Seed makes this instance the owner of a task and returns the task with its current
// term. It starts a fetch if the task is not whole or is of another version than
// job.Expected, or if its whole copy was not checked since the start and job.Expected
// does not identify it. Seed blocks only until Run has started and an earlier task with
// this id is removed.
//
// Seed returns STALE_EPOCH if another CDN owns the task in this epoch or a newer one, and
// SOURCE_BROKEN if the fetch under way is of another version than job.Expected.
func (eng *Engine) Seed(ctx context.Context, job fetch.Job) (*Task, int, error) {
	select {
	case <-eng.started:
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	}
	for {
		t, term, removed, err := eng.seed(job)
		if err != nil || removed == nil {
			return t, term, err
		}
		select {
		case <-removed:
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		}
	}
}

func (eng *Engine) seed(job fetch.Job) (t *Task, term int, removed <-chan struct{}, err error) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	if eng.stopped {
		return nil, 0, nil, errStopping()
	}
	e := eng.entries[job.ID]
	if e != nil && (e.deleteAfterWork || e.removing) {
		return nil, 0, e.task.removed, nil
	}
	if err := eng.claimEpoch(e, job); err != nil {
		return nil, 0, nil, err
	}
	if e == nil {
		e = eng.addEntry(job.ID)
	}
	_, _, whole, version := e.task.state()
	other := job.Expected != nil && version != nil && !job.Expected.Same(*version)
	switch fetching := e.working && e.goal.kind == owning; {
	case fetching && other:
		return nil, 0, nil, errOtherVersion()
	case fetching:
	case other, whole && !e.checked && !identified(job.Expected):
		eng.replaceTask(e)
		e.task.becomeOwner(job.Epoch)
		eng.setGoal(e, goal{kind: owning, job: job})
	case whole:
		e.checked = true
	default:
		e.task.becomeOwner(job.Epoch)
		eng.setGoal(e, goal{kind: owning, job: job})
	}
	e.task.becomeOwner(job.Epoch)
	return e.task, e.task.currentTerm(), nil, nil
}

// claimEpoch returns STALE_EPOCH if the epoch of the job is older than the newest one
// that this instance has received, or if another CDN owns the task in it. Otherwise it
// stores a newer epoch in the standing of the task. The caller holds mu.
func (eng *Engine) claimEpoch(e *entry, job fetch.Job) error {
	s, known := eng.standings[job.ID]
	unclaimed := job.Epoch == 0 && s.Mine // the scheduler cannot reach the store
	if known && !unclaimed && (job.Epoch < s.Epoch || job.Epoch == s.Epoch && !s.Mine) {
		return ErrStale()
	}
	if e != nil {
		epoch, owner, _, _ := e.task.state()
		if job.Epoch > 0 && (job.Epoch < epoch || job.Epoch == epoch && !owner && !s.Mine) {
			return ErrStale()
		}
	}
	if known && job.Epoch > s.Epoch { // the record of this epoch has not arrived yet
		s.Epoch, s.Mine, s.Owner = job.Epoch, true, ""
		eng.standings[job.ID] = s
	}
	return nil
}

// identified reports whether an expected version has a length and validators, so that
// a copy on disk can be compared with it and the source need not be asked.
func identified(version *task.Facts) bool {
	return version != nil && version.Settled() && version.Named()
}

func errOtherVersion() error {
	return rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "the fetch under way is of another version than the one that peers have")
}

// Follow returns a task for a listener that must not start a fetch. It reads the local
// copy from disk if the task has no entry. It returns nil if there is no local copy.
func (eng *Engine) Follow(ctx context.Context, id task.ID) (*Task, error) {
	select {
	case <-eng.started:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	t, removing := eng.lookUp(id)
	switch {
	case removing:
		return nil, nil //nolint:nilnil // nothing is a good answer
	case t != nil:
		return t, nil
	}
	saved := eng.onDisk.find(id)
	if saved == nil && !eng.Files.HasPart(id) {
		return nil, nil //nolint:nilnil // nothing is a good answer
	}
	eng.mu.Lock()
	defer eng.mu.Unlock()
	if eng.stopped {
		return nil, errStopping()
	}
	if e := eng.entries[id]; e != nil { // another call has added it meanwhile
		return e.task, nil
	}
	e := eng.addEntry(id)
	if saved != nil {
		e.task = saved // its entry makes it end for its listeners if it is deleted
		if s, known := eng.standings[id]; known && s.Mine && s.Status == task.Running {
			saved.correctRecord(s) // an earlier process ended before it could report the result
		}
		return saved, nil
	}
	eng.setGoal(e, goal{kind: reading})
	return e.task, nil
}
