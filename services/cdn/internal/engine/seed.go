package engine

import (
	"context"

	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/fetch"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Seed gives the task, with its term, and begins to fetch it as its owner if it
// is not whole. It waits only for Run to begin, and for an earlier task of this
// id to be gone. Errors: STALE_EPOCH, and SOURCE_BROKEN for another version than
// the expected one.
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

// claimEpoch makes sure that the epoch is not older than what is known, and that no
// other is known to own the task in it. The caller holds mu.
func (eng *Engine) claimEpoch(e *entry, job fetch.Job) error {
	s, known := eng.standings[job.ID]
	unclaimed := job.Epoch == 0 && s.Mine // who asks cannot reach the store
	if known && !unclaimed && (job.Epoch < s.Epoch || job.Epoch == s.Epoch && !s.Mine) {
		return ErrStale()
	}
	if e != nil {
		epoch, owner, _, _ := e.task.state()
		if job.Epoch > 0 && (job.Epoch < epoch || job.Epoch == epoch && !owner && !s.Mine) {
			return ErrStale()
		}
	}
	if known && job.Epoch > s.Epoch { // its news is on its way
		s.Epoch, s.Mine, s.Owner = job.Epoch, true, ""
		eng.standings[job.ID] = s
	}
	return nil
}

// identified tells that a version is one that peers have and that has a name.
func identified(version *task.Facts) bool {
	return version != nil && version.Settled() && version.Named()
}

func errOtherVersion() error {
	return rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "another version of the task is here than peers have")
}

// Follow gives the task to whoever wants to know what is here and gets. What is
// on disk is read for that. It is nil if nothing is here.
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
	if e := eng.entries[id]; e != nil { // it came in the meantime
		return e.task, nil
	}
	e := eng.addEntry(id)
	if saved != nil {
		e.task = saved // from now on whoever follows hears of its end
		if s, known := eng.standings[id]; known && s.Mine && s.Status == task.Running {
			saved.correctRecord(s) // it was sealed, and this instance ended before it could say so
		}
		return saved, nil
	}
	eng.setGoal(e, goal{kind: reading})
	return e.task, nil
}
