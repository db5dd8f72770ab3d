package engine

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

// newTestEngine returns an engine with a real store, on which Run is not called.
func newTestEngine(t *testing.T) (*Engine, task.ID) {
	t.Helper()
	files, err := store.Open(t.TempDir(), time.Minute)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, files.Close()) })
	eng, err := New(Deps{Logger: zap.NewNop(), Files: files, Reporter: new(statuses)})
	require.NoError(t, err)
	id, err := task.ParseID(taskid.Compute(t.Name(), "", "", nil))
	require.NoError(t, err)
	return eng, id
}

// createContent creates an empty partial copy of a task.
func createContent(t *testing.T, eng *Engine, id task.ID) *store.Content {
	t.Helper()
	content, err := eng.Files.Create(id, store.Version{Facts: task.Facts{Length: -1, PieceSize: 100}})
	require.NoError(t, err)
	return content
}

// A record may name this instance for a task after the registry has answered that the
// copy is not needed and before it is removed.
func TestDiscardKeepsACopyThatARecordNames(t *testing.T) {
	eng, id := newTestEngine(t)
	require.NoError(t, createContent(t, eng, id).Close())
	eng.Assign(id, task.Standing{Epoch: 1, Owner: "a", Mine: true})
	require.Equal(t, rpcerr.StaleEpoch, rpcerr.ReasonOf(eng.Discard(t.Context(), id)))
	require.True(t, eng.Files.HasPart(id))
	eng.Release(id)
	require.NoError(t, eng.Discard(t.Context(), id))
	require.False(t, eng.Files.HasPart(id))
}

// Delete may be called after a task was replaced and before the worker has closed the
// files of the earlier version.
func TestDeleteClosesTheFilesOfAReplacedVersion(t *testing.T) {
	eng, id := newTestEngine(t)
	content := createContent(t, eng, id)
	eng.mu.Lock()
	e := eng.addEntry(id)
	e.task.Begin(content)
	eng.replaceTask(e)
	eng.mu.Unlock()
	require.NoError(t, eng.Delete(t.Context(), id))
	require.ErrorIs(t, content.Read(0, make([]byte, 1)), os.ErrClosed)
}

// The piece size that an owner announced before its source answered does not apply to
// the copy of the next owner's pieces.
func TestStepDownDiscardsProvisionalFacts(t *testing.T) {
	provisional, theirs := task.Facts{Length: -1, PieceSize: 100}, task.Facts{Length: 5000, PieceSize: 200}
	e := newTask("", 0, new(statuses))
	e.becomeOwner(1)
	e.Provisional(provisional)
	e.stepDown(2)
	require.Nil(t, e.View(0).Facts)
	e.Provisional(provisional) // the timer of the fetch fires late
	require.Equal(t, theirs, e.Settle(theirs))
}
