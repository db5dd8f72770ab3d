package fetch_test

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/taskid"
	"github.com/supernode-ha/supernode/services/cdn/internal/fetch"
	"github.com/supernode-ha/supernode/services/cdn/internal/source"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

const pieceSize = 1 << 10

// recordingSink is a Sink that records its calls.
type recordingSink struct {
	onLand func(count int)

	mu      sync.Mutex
	content *store.Content // guarded by mu
	pieces  []task.Piece   // guarded by mu
	result  *task.Result   // guarded by mu
}

func (l *recordingSink) Provisional(task.Facts)             {}
func (l *recordingSink) Settle(facts task.Facts) task.Facts { return facts }
func (l *recordingSink) Withdraw()                          {}

func (l *recordingSink) Begin(content *store.Content) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.content = content
}

func (l *recordingSink) Land(pieces ...task.Piece) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pieces = append(l.pieces, pieces...)
	l.onLand(len(l.pieces))
}

func (l *recordingSink) Finish(result task.Result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.result = &result
}

func (l *recordingSink) held() *fetch.Held {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &fetch.Held{Content: l.content, Pieces: slices.Clone(l.pieces)}
}

// writePart writes count pieces of a version to disk.
func writePart(t *testing.T, files *store.Store, id task.ID, facts task.Facts, count int32) {
	t.Helper()
	content, err := files.Create(id, store.Version{Facts: facts})
	require.NoError(t, err)
	for num := range count {
		wrapped := make([]byte, facts.PieceLength(num))
		piece.PutHead(wrapped, len(wrapped)-piece.WrapLength, facts.PieceSize)
		wrapped[len(wrapped)-1] = piece.Tail
		sum := md5.Sum(wrapped)
		require.NoError(t, content.Write(task.Piece{
			Num: num, MD5: hex.EncodeToString(sum[:]), Length: int32(len(wrapped)),
		}, wrapped))
	}
	require.NoError(t, content.Close())
}

// A fetch or a copy continues the verification of a partial copy that was interrupted.
func TestInterruptedVerificationIsResumed(t *testing.T) {
	const count = 5
	interrupted := errors.New("the goal of the task has changed")
	spec, err := source.Parse(source.Raw{URL: "http://127.0.0.1:1/nobody"})
	require.NoError(t, err)
	for name, resume := range map[string]func(context.Context, *fetch.Fetcher, task.ID, *recordingSink) error{
		"owner": func(ctx context.Context, f *fetch.Fetcher, id task.ID, l *recordingSink) error {
			err := f.Fetch(ctx, fetch.Job{ID: id, Spec: spec, Held: l.held()}, l)
			require.NotNil(t, l.result, "all pieces are on disk, and the source need not be asked")
			return err
		},
		"replica": func(ctx context.Context, f *fetch.Fetcher, id task.ID, l *recordingSink) error {
			ctx, cancel := context.WithCancelCause(ctx)
			l.onLand = func(landed int) {
				if landed == count {
					cancel(interrupted)
				}
			}
			err := f.Copy(ctx, fetch.CopyJob{
				ID: id, Held: l.held(), StandingChanged: make(chan struct{}), Standing: func() task.Standing { return task.Standing{} },
			}, l)
			require.ErrorIs(t, err, interrupted)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			files, err := store.Open(t.TempDir(), time.Minute)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, files.Close()) })
			id, err := task.ParseID(taskid.Compute(name, "", "", nil))
			require.NoError(t, err)
			facts := task.Facts{Length: count * (pieceSize - piece.WrapLength), PieceSize: pieceSize, ETag: `"v1"`}
			writePart(t, files, id, facts, count)
			f := fetch.NewFetcher(zap.NewNop(), files, source.NewClient(source.Timeouts{}), new(emptyCopies), fetch.Options{PoolSize: 1})

			ctx, cancel := context.WithCancelCause(t.Context())
			l := &recordingSink{onLand: func(int) { cancel(interrupted) }}
			require.ErrorIs(t, f.LoadPart(ctx, id, l), interrupted)
			require.Len(t, l.pieces, 1)

			l.onLand = func(int) {}
			patient, end := context.WithTimeout(t.Context(), 20*time.Second)
			defer end()
			require.NoError(t, resume(patient, f, id, l))
			require.Len(t, l.pieces, count)
			require.NoError(t, l.content.Close())
		})
	}
}
