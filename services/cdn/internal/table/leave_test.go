package table

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/taskid"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// bench is a table on which nothing works, with a real store.
func bench(t *testing.T) (*Table, task.ID) {
	t.Helper()
	files, err := store.Open(t.TempDir(), time.Minute)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, files.Close()) })
	tb, err := New(Deps{Logger: zap.NewNop(), Files: files, Reporter: new(statuses)})
	require.NoError(t, err)
	id, err := task.ParseID(taskid.Compute(t.Name(), "", "", nil))
	require.NoError(t, err)
	return tb, id
}

// created gives content of a task on disk.
func created(t *testing.T, tb *Table, id task.ID) *store.Content {
	t.Helper()
	content, err := tb.Files.Create(id, store.Version{Facts: task.Facts{Length: -1, PieceSize: 100}})
	require.NoError(t, err)
	return content
}

// Between the registry's word that a copy is not wanted and its removal a
// record may have come to name this instance for it.
func TestCopyThatHasBecomeWantedIsNotDiscarded(t *testing.T) {
	tb, id := bench(t)
	require.NoError(t, created(t, tb, id).Close())
	tb.Assign(id, task.Standing{Epoch: 1, Owner: "a", Mine: true})
	require.Equal(t, rpcerr.StaleEpoch, rpcerr.ReasonOf(tb.Discard(t.Context(), id)))
	require.True(t, tb.Files.HasPart(id))
	tb.Release(id)
	require.NoError(t, tb.Discard(t.Context(), id))
	require.False(t, tb.Files.HasPart(id))
}

// A delete may come when another version has just taken the place of one that
// nobody has let go yet.
func TestDeleteLetsGoOfTheVersionBefore(t *testing.T) {
	tb, id := bench(t)
	content := created(t, tb, id)
	tb.mu.Lock()
	e := tb.add(id)
	e.task.Begin(content)
	tb.renew(e)
	tb.mu.Unlock()
	require.NoError(t, tb.Delete(t.Context(), id))
	require.ErrorIs(t, content.Read(0, make([]byte, 1)), os.ErrClosed)
}

// What an owner announced before its source answered does not cut what it
// copies from the next one.
func TestProvisionalFactsEndWithTheOwner(t *testing.T) {
	provisional, theirs := task.Facts{Length: -1, PieceSize: 100}, task.Facts{Length: 5000, PieceSize: 200}
	e := newTask("", 0, new(statuses))
	e.own(1)
	e.Provisional(provisional)
	e.standDown(2)
	require.Nil(t, e.View(0).Facts)
	e.Provisional(provisional) // its timer fires late
	require.Equal(t, theirs, e.Settle(theirs))
}
