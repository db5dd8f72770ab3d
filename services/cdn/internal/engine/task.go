package engine

import (
	"errors"
	"os"
	"slices"
	"sync"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn/internal/fetch"
	"github.com/supernode-ha/supernode/services/cdn/internal/report"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Task holds what is known of one version of a task: the facts of its source, its
// pieces, and its result or error.
//
//	no facts --Provisional--> provisional --Settle--> settled --Begin, Land--> pieces --Finish--> whole
//	    +-----------------------Settle------------------^
//	any --fail--> failed
//
// The pieces are a list that only grows. A listener therefore needs only the number of
// pieces that it has received, and a slow listener does not delay the others.
type Task struct {
	id       task.ID
	reporter Reporter
	// removed is closed when the entry of the task is removed and its files are closed.
	removed chan struct{}

	mu        sync.Mutex
	epoch     int64            // sent with reports to the registry, which refuses an older one; guarded by mu
	facts     *task.Facts      // replaced, never modified; guarded by mu
	settled   bool             // facts are the answer of the source, not provisional; guarded by mu
	pieces    []task.Piece     // in the order in which they landed; guarded by mu
	lengths   []int32          // wrapped lengths in bytes by piece number, 0 for a missing piece; guarded by mu
	result    *task.Result     // guarded by mu
	err       error            // guarded by mu
	content   *store.Content   // guarded by mu
	owner     bool             // this instance is the owner and reports to the registry; guarded by mu
	term      int              // counts the times that this instance stopped owning the task; guarded by mu
	withdrawn []*store.Content // withdrawn files, which closeFiles closes; guarded by mu
	active    bool             // a worker runs; guarded by mu
	changed   chan struct{}    // closed and replaced with every update; guarded by mu
}

func newTask(id task.ID, epoch int64, reporter Reporter) *Task {
	return &Task{
		id: id, epoch: epoch, reporter: reporter,
		removed: make(chan struct{}), changed: make(chan struct{}),
	}
}

// ID returns the id of the task.
func (t *Task) ID() task.ID { return t.id }

// View is a snapshot of a task.
type View struct {
	// Facts is nil until facts are known or announced provisionally.
	Facts *task.Facts
	// Settled is set if Facts is the answer of the source and final.
	Settled bool
	// Pieces are the pieces that landed since the previous view.
	Pieces []task.Piece
	// Result is set when the task is whole.
	Result *task.Result
	// Err is the reason why the task ended.
	Err error
	// Term counts the times that this instance stopped owning the task.
	Term int
	// Active is set while a worker runs, so that more pieces may land.
	Active bool
	// Changed is closed with the next change of the task.
	Changed <-chan struct{}
}

// View returns a snapshot for a listener that has received the first seen pieces.
func (t *Task) View(seen int) View {
	t.mu.Lock()
	defer t.mu.Unlock()
	// The pieces are shared with the view, because elements of the list never change.
	return View{
		Facts: t.facts, Settled: t.settled, Pieces: t.pieces[seen:len(t.pieces):len(t.pieces)], Result: t.result,
		Err: t.err, Term: t.term, Active: t.active, Changed: t.changed,
	}
}

// Provisional implements fetch.Sink.
func (t *Task) Provisional(facts task.Facts) {
	t.update(func() {
		// The timer of the fetch may fire after the fetch has failed or another CDN has
		// become the owner.
		if t.facts == nil && t.err == nil && t.owner {
			t.facts = &facts
			t.report(report.Running)
		}
	})
}

// Settle implements fetch.Sink.
func (t *Task) Settle(facts task.Facts) task.Facts {
	t.update(func() {
		if t.facts != nil {
			facts.PieceSize = t.facts.PieceSize // listeners may have received it
		}
		t.facts, t.settled = &facts, true
		t.report(report.Running)
	})
	return facts
}

// Begin implements fetch.Sink.
func (t *Task) Begin(content *store.Content) {
	t.update(func() { t.content = content })
}

// Withdraw implements fetch.Sink.
func (t *Task) Withdraw() {
	t.update(func() {
		content := t.content
		t.content = nil
		if content != nil {
			t.withdrawn = append(t.withdrawn, content)
		}
	})
}

// Land implements fetch.Sink.
func (t *Task) Land(pieces ...task.Piece) {
	t.update(func() {
		t.pieces = append(t.pieces, pieces...)
		for _, p := range pieces {
			for int(p.Num) >= len(t.lengths) {
				t.lengths = append(t.lengths, 0)
			}
			t.lengths[p.Num] = p.Length
		}
	})
}

// Finish implements fetch.Sink.
func (t *Task) Finish(result task.Result) {
	t.update(func() {
		t.result = &result
		t.report(report.Success)
	})
}

// fail ends the task with an error for its listeners. It reports the failure to the
// registry if reportFailure is set.
func (t *Task) fail(err error, reportFailure bool) {
	t.update(func() {
		t.err = err
		if reportFailure {
			t.report(report.Failed)
		}
	})
}

// closeFiles closes the files of the task, including withdrawn ones.
func (t *Task) closeFiles() error {
	t.mu.Lock()
	open := t.withdrawn
	if t.content != nil {
		open = append(open, t.content)
	}
	t.content, t.withdrawn = nil, nil
	t.mu.Unlock()
	var errs []error
	for _, c := range open {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// becomeOwner makes this instance the owner in an epoch. If it was not the owner, or the
// epoch is newer, becomeOwner reports the current state, because the record may be new.
func (t *Task) becomeOwner(epoch int64) {
	t.update(func() {
		if t.owner && epoch <= t.epoch {
			return
		}
		t.owner, t.epoch = true, max(epoch, t.epoch)
		switch {
		case t.result != nil:
			t.report(report.Success)
		case t.facts != nil:
			t.report(report.Running)
		}
	})
}

// stepDown ends the ownership of this instance, because another CDN owns the task in an
// epoch. The term changes, which ends the Seed streams. Provisional facts are dropped,
// because the new owner may have announced others.
func (t *Task) stepDown(epoch int64) {
	t.update(func() {
		if t.owner {
			t.owner = false
			t.term++
		}
		if !t.settled {
			t.facts = nil
		}
		t.epoch = max(epoch, t.epoch)
	})
}

// setActive records whether a worker runs.
func (t *Task) setActive(active bool) { t.update(func() { t.active = active }) }

// state returns what the engine's decisions depend on. version is nil until the facts
// are settled.
func (t *Task) state() (epoch int64, owner, whole bool, version *task.Facts) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.settled {
		version = t.facts
	}
	return t.epoch, t.owner, t.result != nil, version
}

// currentTerm returns the number of times that this instance stopped owning the task.
func (t *Task) currentTerm() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.term
}

// heldPart returns the pieces that listeners may have received and their files. It
// returns nil if the task has no files.
func (t *Task) heldPart() *fetch.Held {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.content == nil {
		return nil
	}
	return &fetch.Held{Content: t.content, Pieces: slices.Clone(t.pieces)}
}

// isWithdrawn reports whether the task has settled facts but no files, because the fetch
// has withdrawn them.
func (t *Task) isWithdrawn() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.content == nil && t.settled
}

func (t *Task) update(apply func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	apply()
	close(t.changed)
	t.changed = make(chan struct{})
}

// report reports a state to the registry if this instance is the owner. The caller holds
// mu, so that states are reported in their order.
func (t *Task) report(status report.Status) {
	if !t.owner {
		return
	}
	t.reporter.Report(report.Update{ID: t.id, Epoch: t.epoch, Status: status, Facts: t.facts})
}

// correctRecord reports the result of a whole task whose record does not have it, for
// example because the store has lost the report. It reports nothing if the record is of
// another version or of an older epoch.
func (t *Task) correctRecord(s task.Standing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fits := t.facts != nil && (s.Facts.PieceSize == 0 || s.Facts.Same(*t.facts))
	if t.result != nil && fits && s.Epoch >= t.epoch && s.Status != task.Success {
		t.reporter.Report(report.Update{ID: t.id, Epoch: s.Epoch, Status: report.Success, Facts: t.facts})
	}
}

// Extent returns the offset of the last byte of the range from first to last that the
// wrapped file has. It is smaller than last if last is beyond the end of the file, as it
// is for a short last piece. Extent returns false if a piece of the range is missing, or
// if first is beyond the end.
func (t *Task) Extent(first, last int64) (end int64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.content == nil || t.facts == nil || first < 0 || last < first {
		return 0, false
	}
	size := int64(t.facts.PieceSize)
	if total := t.total(); total >= 0 {
		last = min(last, total-1)
	}
	end = first - 1
	for num := first / size; end < last; num++ {
		if num >= int64(len(t.lengths)) || t.lengths[num] == 0 {
			return 0, false
		}
		pieceEnd := num*size + int64(t.lengths[num]) - 1
		if pieceEnd < first {
			return 0, false
		}
		end = min(last, pieceEnd)
		if int64(t.lengths[num]) < size { // the last piece
			break
		}
	}
	return end, end >= first
}

// Total returns the length of the wrapped file in bytes, or -1 while it is unknown, and
// whether the file is complete.
func (t *Task) Total() (total int64, whole bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total(), t.result != nil && t.content != nil
}

func (t *Task) total() int64 {
	switch {
	case t.result != nil:
		return t.result.Length + int64(t.result.PieceCount)*piece.WrapLength
	case t.settled && t.facts.Length >= 0:
		return t.facts.Length + int64(piece.Count(t.facts.Length, t.facts.PieceSize))*piece.WrapLength
	default:
		return -1
	}
}

// Open opens the wrapped file for reading. The caller closes it. Open returns
// os.ErrNotExist if there is no file any more.
func (t *Task) Open() (*store.Reader, error) {
	t.mu.Lock()
	content := t.content
	t.mu.Unlock()
	if content == nil {
		return nil, os.ErrNotExist
	}
	return content.Open()
}

// isServable reports whether the task has files to read pieces from.
func (t *Task) isServable() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.content != nil
}
