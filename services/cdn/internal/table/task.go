package table

import (
	"context"
	"os"
	"sync"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn/internal/report"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Task is one task from its first Seed to its end: waiting for the source,
// running, then whole or failed. What happened to it is a list that only
// grows, so a listener needs no more than its place in the list, and nobody
// who is slow holds up anybody else.
type Task struct {
	id       task.ID
	reporter Reporter
	cancel   context.CancelCauseFunc // ends the fetch; nil for one from disk
	// gone is closed when the task has left the table with all its files.
	gone chan struct{}

	mu      sync.Mutex
	epoch   int64          // fences what is told the registry; guarded by mu
	facts   *task.Facts    // replaced, never changed; guarded by mu
	settled bool           // facts are the source's, not provisional; guarded by mu
	pieces  []task.Piece   // in landing order, only appended to; guarded by mu
	lengths []int32        // wrapped length by number, 0 for what is not here; guarded by mu
	result  *task.Result   // guarded by mu
	err     error          // guarded by mu
	content *store.Content // guarded by mu
	changed chan struct{}  // closed and replaced whenever any of the above changes; guarded by mu
}

func newTask(id task.ID, epoch int64, reporter Reporter) *Task {
	return &Task{
		id: id, epoch: epoch, reporter: reporter,
		gone: make(chan struct{}), changed: make(chan struct{}),
	}
}

// View is a task at one moment.
type View struct {
	// Facts are nil while nothing is known of the source.
	Facts *task.Facts
	// Pieces are those that landed since the listener's place in the list.
	Pieces []task.Piece
	// Result is set when the task is whole.
	Result *task.Result
	// Err is why the task failed.
	Err error
	// Changed is closed when there is more to see.
	Changed <-chan struct{}
}

// View shows the task to a listener who has seen the first pieces already.
func (t *Task) View(seen int) View {
	t.mu.Lock()
	defer t.mu.Unlock()
	// The slice may be shared, because what is in it never changes.
	return View{Facts: t.facts, Pieces: t.pieces[seen:len(t.pieces):len(t.pieces)], Result: t.result, Err: t.err, Changed: t.changed}
}

// Provisional implements fetch.Sink.
func (t *Task) Provisional(facts task.Facts) {
	t.change(func() {
		if t.facts == nil && t.err == nil { // the fetch may have failed just now
			t.facts = &facts
			t.report(report.Running)
		}
	})
}

// Settle implements fetch.Sink.
func (t *Task) Settle(facts task.Facts) task.Facts {
	t.change(func() {
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
	t.change(func() { t.content = content })
}

// Land implements fetch.Sink.
func (t *Task) Land(pieces ...task.Piece) {
	t.change(func() {
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
	t.change(func() {
		t.result = &result
		t.report(report.Success)
	})
}

// fail tells everybody that the task is over.
func (t *Task) fail(err error, tellRegistry bool) {
	t.change(func() {
		t.err, t.content = err, nil
		if tellRegistry {
			t.report(report.Failed)
		}
	})
}

// raise remembers a higher epoch, and tells the registry under it what is
// known, because its record may be a new one.
func (t *Task) raise(epoch int64) {
	t.change(func() {
		if epoch <= t.epoch {
			return
		}
		t.epoch = epoch
		switch {
		case t.result != nil:
			t.report(report.Success)
		case t.facts != nil:
			t.report(report.Running)
		}
	})
}

func (t *Task) change(what func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	what()
	close(t.changed)
	t.changed = make(chan struct{})
}

// report is called under mu, so that the states are told in their order.
func (t *Task) report(status report.Status) {
	t.reporter.Report(report.Update{ID: t.id, Epoch: t.epoch, Status: status, Facts: t.facts})
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
func (t *Task) Open() (*os.File, error) {
	t.mu.Lock()
	content := t.content
	t.mu.Unlock()
	if content == nil {
		return nil, os.ErrNotExist
	}
	return content.Open()
}

// served tells whether pieces of it can be read.
func (t *Task) served() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.content != nil
}
