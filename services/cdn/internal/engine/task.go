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

// Task is one task from its first Seed to its end: waiting for the source,
// running, then whole or failed, be it as owner or as replica. What happened to it is a list that only
// grows, so a listener needs no more than its place in the list, and nobody
// who is slow holds up anybody else.
type Task struct {
	id       task.ID
	reporter Reporter
	// removed is closed when the task has left the engine with all its files.
	removed chan struct{}

	mu        sync.Mutex
	epoch     int64            // fences what is told the registry; guarded by mu
	facts     *task.Facts      // replaced, never changed; guarded by mu
	settled   bool             // facts are the source's, not provisional; guarded by mu
	pieces    []task.Piece     // in landing order, only appended to; guarded by mu
	lengths   []int32          // wrapped length by number, 0 for what is not here; guarded by mu
	result    *task.Result     // guarded by mu
	err       error            // guarded by mu
	content   *store.Content   // guarded by mu
	owner     bool             // it is fetched, or was, as its owner: the registry is told; guarded by mu
	term      int              // grows whenever it ceases to be owned here; guarded by mu
	withdrawn []*store.Content // to be closed by whoever ends the work on it; guarded by mu
	active    bool             // something is under way for it; guarded by mu
	changed   chan struct{}    // closed and replaced whenever any of the above changes; guarded by mu
}

func newTask(id task.ID, epoch int64, reporter Reporter) *Task {
	return &Task{
		id: id, epoch: epoch, reporter: reporter,
		removed: make(chan struct{}), changed: make(chan struct{}),
	}
}

// ID names it.
func (t *Task) ID() task.ID { return t.id }

// View is a task at one moment.
type View struct {
	// Facts are nil while nothing is known of the source.
	Facts *task.Facts
	// Settled tells that the facts are the source's and will not change.
	Settled bool
	// Pieces are those that landed since the listener's place in the list.
	Pieces []task.Piece
	// Result is set when the task is whole.
	Result *task.Result
	// Err is why the task failed.
	Err error
	// Term is how often the task has ceased to be owned here.
	Term int
	// Active tells that something is under way that makes more of it.
	Active bool
	// Changed is closed when there is more to see.
	Changed <-chan struct{}
}

// View shows the task to a listener who has seen the first pieces already.
func (t *Task) View(seen int) View {
	t.mu.Lock()
	defer t.mu.Unlock()
	// The slice may be shared, because what is in it never changes.
	return View{
		Facts: t.facts, Settled: t.settled, Pieces: t.pieces[seen:len(t.pieces):len(t.pieces)], Result: t.result,
		Err: t.err, Term: t.term, Active: t.active, Changed: t.changed,
	}
}

// Provisional implements fetch.Sink.
func (t *Task) Provisional(facts task.Facts) {
	t.update(func() {
		if t.facts == nil && t.err == nil && t.owner { // the fetch may have failed just now, or have another owner
			t.facts = &facts
			t.report(report.Running)
		}
	})
}

// Settle implements fetch.Sink.
func (t *Task) Settle(facts task.Facts) task.Facts {
	t.update(func() {
		if t.facts != nil {
			facts.PieceSize = t.facts.PieceSize // some know it already
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

// fail tells everybody that the task is over.
func (t *Task) fail(err error, reportFailure bool) {
	t.update(func() {
		t.err = err
		if reportFailure {
			t.report(report.Failed)
		}
	})
}

// closeFiles lets the files go that it may hold open.
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

// becomeOwner makes this instance the owner in an epoch, and tells the registry under a
// higher one what is known, because its record may be a new one.
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

// stepDown makes another the owner in an epoch: whoever listened to this one
// as to the owner hears of it. What was announced before the source answered is
// of no more use: the new owner may have announced something else.
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

// setActive notes whether something is under way.
func (t *Task) setActive(active bool) { t.update(func() { t.active = active }) }

// state gives what decides about its place in the engine.
func (t *Task) state() (epoch int64, owner, whole bool, version *task.Facts) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.settled {
		version = t.facts
	}
	return t.epoch, t.owner, t.result != nil, version
}

// currentTerm tells how often it has ceased to be owned here.
func (t *Task) currentTerm() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.term
}

// heldPart gives what has been told of a task that is not whole, nil for nothing.
func (t *Task) heldPart() *fetch.Held {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.content == nil {
		return nil
	}
	return &fetch.Held{Content: t.content, Pieces: slices.Clone(t.pieces)}
}

// isWithdrawn tells that what was told of it is not there any more.
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

// report is called under mu, so that the states are told in their order.
func (t *Task) report(status report.Status) {
	if !t.owner {
		return
	}
	t.reporter.Report(report.Update{ID: t.id, Epoch: t.epoch, Status: status, Facts: t.facts})
}

// correctRecord reports how the task stands if its record says otherwise, which it
// does when the store has lost what it was told.
func (t *Task) correctRecord(s task.Standing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fits := t.facts != nil && (s.Facts.PieceSize == 0 || s.Facts.Same(*t.facts))
	if t.result != nil && fits && s.Epoch >= t.epoch && s.Status != task.Success {
		t.reporter.Report(report.Update{ID: t.id, Epoch: s.Epoch, Status: report.Success, Facts: t.facts})
	}
}

// Extent gives the last byte of the wrapped file, up to last, such that all
// from first on is here; last is beyond the end for a last piece. It is false
// if any of it is missing that the file has, or is going to have.
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
		if int64(t.lengths[num]) < size { // the last one
			break
		}
	}
	return end, end >= first
}

// Total gives the length of the wrapped file in bytes, -1 while it is unknown,
// and whether all of it is here.
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

// Open gives the wrapped file; the caller closes it. os.ErrNotExist means that
// there is none any more.
func (t *Task) Open() (*store.Reader, error) {
	t.mu.Lock()
	content := t.content
	t.mu.Unlock()
	if content == nil {
		return nil, os.ErrNotExist
	}
	return content.Open()
}

// isServable tells whether pieces of it can be read.
func (t *Task) isServable() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.content != nil
}
