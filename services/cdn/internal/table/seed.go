package table

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
func (tb *Table) Seed(ctx context.Context, job fetch.Job) (*Task, int, error) {
	select {
	case <-tb.started:
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	}
	for {
		t, term, leaving, err := tb.seed(job)
		if err != nil || leaving == nil {
			return t, term, err
		}
		select {
		case <-leaving:
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		}
	}
}

func (tb *Table) seed(job fetch.Job) (t *Task, term int, leaving <-chan struct{}, err error) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if tb.stopped {
		return nil, 0, nil, errStopping()
	}
	e := tb.entries[job.ID]
	if e != nil && (e.doomed || e.leaving) {
		return nil, 0, e.task.gone, nil
	}
	if err := tb.claim(e, job); err != nil {
		return nil, 0, nil, err
	}
	if e == nil {
		e = tb.add(job.ID)
	}
	_, _, whole, version := e.task.stands()
	other := job.Expected != nil && version != nil && !job.Expected.Same(*version)
	switch fetching := e.busy && e.want.kind == owning; {
	case fetching && other:
		return nil, 0, nil, errVersion()
	case fetching:
	case other, whole && !e.checked && !agreed(job.Expected):
		tb.renew(e)
		e.task.own(job.Epoch)
		tb.set(e, want{kind: owning, job: job})
	case whole:
		e.checked = true
	default:
		e.task.own(job.Epoch)
		tb.set(e, want{kind: owning, job: job})
	}
	e.task.own(job.Epoch)
	return e.task, e.task.termNow(), nil, nil
}

// claim makes sure that the epoch is not older than what is known, and that no
// other is known to own the task in it. The caller holds mu.
func (tb *Table) claim(e *entry, job fetch.Job) error {
	s, known := tb.standings[job.ID]
	unclaimed := job.Epoch == 0 && s.Mine // who asks cannot reach the store
	if known && !unclaimed && (job.Epoch < s.Epoch || job.Epoch == s.Epoch && !s.Mine) {
		return ErrStale()
	}
	if e != nil {
		epoch, owner, _, _ := e.task.stands()
		if job.Epoch > 0 && (job.Epoch < epoch || job.Epoch == epoch && !owner && !s.Mine) {
			return ErrStale()
		}
	}
	if known && job.Epoch > s.Epoch { // its news is on its way
		s.Epoch, s.Mine, s.Owner = job.Epoch, true, ""
		tb.standings[job.ID] = s
	}
	return nil
}

// agreed tells that a version is one that peers have and that has a name.
func agreed(version *task.Facts) bool {
	return version != nil && version.Settled() && version.Named()
}

func errVersion() error {
	return rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "another version of the task is here than peers have")
}

// Follow gives the task to whoever wants to know what is here and gets. What is
// on disk is read for that. It is nil if nothing is here.
func (tb *Table) Follow(ctx context.Context, id task.ID) (*Task, error) {
	select {
	case <-tb.started:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	t, leaving := tb.lookUp(id)
	switch {
	case leaving:
		return nil, nil //nolint:nilnil // nothing is a good answer
	case t != nil:
		return t, nil
	}
	saved := tb.resting.find(id)
	if saved == nil && !tb.Files.HasPart(id) {
		return nil, nil //nolint:nilnil // nothing is a good answer
	}
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if tb.stopped {
		return nil, errStopping()
	}
	if e := tb.entries[id]; e != nil { // it came in the meantime
		return e.task, nil
	}
	e := tb.add(id)
	if saved != nil {
		e.task = saved // from now on whoever follows hears of its end
		if s, known := tb.standings[id]; known && s.Mine && s.Status == task.Running {
			saved.correct(s) // it was sealed, and this instance ended before it could say so
		}
		return saved, nil
	}
	tb.set(e, want{kind: reading})
	return e.task, nil
}
