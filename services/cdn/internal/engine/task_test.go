package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/cdn/internal/report"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// taskWithPieces returns a task with pieces of 10 bytes. lengths are their wrapped
// lengths by number, 0 for a piece that has not landed.
func taskWithPieces(length int64, lengths ...int32) *Task {
	t := newTask("", 0, new(statuses))
	t.Settle(task.Facts{Length: length, PieceSize: 10})
	t.Begin(new(store.Content))
	for num, l := range lengths {
		if l > 0 {
			t.Land(task.Piece{Num: int32(num), Length: l})
		}
	}
	return t
}

func TestExtentCoversOnlyPiecesOnDisk(t *testing.T) {
	whole := taskWithPieces(-1, 10, 10, 7)
	whole.Finish(task.Result{Length: 12, PieceCount: 3})
	exact := taskWithPieces(-1, 10, 10)
	exact.Finish(task.Result{Length: 10, PieceCount: 2})
	empty := taskWithPieces(0, 5)
	for _, c := range []struct {
		name        string
		task        *Task
		first, last int64
		end         int64
		ok          bool
	}{
		{"a piece", taskWithPieces(12, 10, 0, 7), 0, 9, 9, true},
		{"the last piece", taskWithPieces(12, 10, 0, 7), 20, 29, 26, true},
		{"the last piece of unknown length", taskWithPieces(-1, 10, 0, 7), 20, 29, 26, true},
		{"part of a piece", taskWithPieces(12, 10, 0, 7), 3, 5, 5, true},
		{"a hole", taskWithPieces(12, 10, 0, 7), 10, 19, 0, false},
		{"into a hole", taskWithPieces(12, 10, 0, 7), 5, 10, 0, false},
		{"over a hole", taskWithPieces(12, 10, 0, 7), 0, 29, 0, false},
		{"not landed", taskWithPieces(12, 10), 10, 19, 0, false},
		{"not landed, end not known", taskWithPieces(-1, 10), 0, 19, 0, false},
		{"behind the last piece", taskWithPieces(12, 10, 10, 7), 27, 29, 0, false},
		{"behind the end", taskWithPieces(12, 10, 10, 7), 30, 39, 0, false},
		{"all", taskWithPieces(12, 10, 10, 7), 0, 1 << 60, 26, true},
		{"whole", whole, 0, 1 << 60, 26, true},
		{"whole, a part", whole, 9, 20, 20, true},
		{"whole, behind", whole, 27, 30, 0, false},
		{"exact", exact, 10, 19, 19, true},
		{"exact, behind", exact, 20, 29, 0, false},
		{"empty", empty, 0, 9, 4, true},
		{"backwards", whole, 5, 3, 0, false},
		{"negative", whole, -5, 3, 0, false},
	} {
		end, ok := c.task.Extent(c.first, c.last)
		require.Equal(t, c.ok, ok, c.name)
		if c.ok {
			require.Equal(t, c.end, end, c.name)
		}
	}
	failed := taskWithPieces(12, 10, 10, 7)
	failed.Withdraw()
	_, ok := failed.Extent(0, 9)
	require.False(t, ok)
}

// statuses is a reporter that records the reported states.
type statuses []report.Status

func (s *statuses) Report(u report.Update) { *s = append(*s, u.Status) }

// The timer behind Provisional may fire while the fetch fails.
func TestProvisionalFactsAreNotReportedAfterAFailure(t *testing.T) {
	var reported statuses
	late := newTask("", 0, &reported)
	late.becomeOwner(1)
	late.fail(errStopping(), true)
	late.Provisional(task.Facts{Length: -1, PieceSize: 10})
	require.Equal(t, statuses{report.Failed}, reported)
}
