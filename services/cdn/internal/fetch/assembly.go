package fetch

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn/internal/source"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// assembly is a copy under construction, from the source or from other CDNs.
type assembly struct {
	*Fetcher
	log     *zap.Logger
	id      task.ID
	content *store.Content
	facts   task.Facts
	sink    Sink
	whole   *hasher

	mu        sync.Mutex
	pieces    []task.Piece // in the order in which they landed; guarded by mu
	positions []int32      // by piece number: 1 + its index in pieces, 0 for a missing piece; guarded by mu
}

func (f *Fetcher) assemble(log *zap.Logger, id task.ID, content *store.Content, facts task.Facts, sink Sink) *assembly {
	return &assembly{Fetcher: f, log: log, id: id, content: content, facts: facts, sink: sink, whole: newHasher()}
}

// has returns the piece with a number, if it is on disk.
func (a *assembly) has(num int32) (task.Piece, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if int(num) >= len(a.positions) || a.positions[num] == 0 {
		return task.Piece{}, false
	}
	return a.pieces[a.positions[num]-1], true
}

// add records pieces that are on disk. A piece must not be added twice.
func (a *assembly) add(pieces ...task.Piece) {
	a.mu.Lock()
	for _, p := range pieces {
		for int(p.Num) >= len(a.positions) {
			a.positions = append(a.positions, 0)
		}
		a.pieces = append(a.pieces, p)
		a.positions[p.Num] = int32(len(a.pieces))
	}
	a.mu.Unlock()
	a.whole.signal()
}

// land writes a piece to disk and announces it.
func (a *assembly) land(b *buffer, p task.Piece) error {
	if err := a.content.Write(p, b.data); err != nil {
		if store.TimedOut(err) {
			b.pinned.Store(true)
		}
		return err
	}
	a.add(p)
	a.sink.Land(p)
	return nil
}

// release ends one use of a buffer. With the last one it returns the buffer to the pool
// and releases the slot.
func (a *assembly) release(b *buffer) {
	if b.users.Add(-1) == 0 {
		a.buffers.put(b)
		<-a.slots
	}
}

// count returns the number of pieces, or 0 while the length is unknown.
func (a *assembly) count() int32 { return piece.Count(a.facts.Length, a.facts.PieceSize) }

// missing returns the runs of missing pieces, each as its first number and the number
// after its last one. It returns none while the length is unknown.
func (a *assembly) missing() [][2]int32 {
	var runs [][2]int32
	for num := range a.count() {
		if _, ok := a.has(num); ok {
			continue
		}
		if last := len(runs) - 1; last >= 0 && runs[last][1] == num {
			runs[last][1]++
			continue
		}
		runs = append(runs, [2]int32{num, num + 1})
	}
	return runs
}

// held returns all pieces that are on disk.
func (a *assembly) held() []task.Piece {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.pieces)
}

// seal marks the copy on disk as whole and announces the result. wanted is the MD5 that
// the client requested, or empty. The hasher must have ended before.
func (a *assembly) seal(url, wanted string) (task.Result, error) {
	result := task.Result{MD5: a.whole.md5()}
	pieces := a.held()
	for _, p := range pieces {
		result.Length += int64(p.Length) - piece.WrapLength
	}
	result.PieceCount = int32(len(pieces))
	err := a.content.Seal(store.Meta{
		TaskID: string(a.id), URL: url, PieceSize: a.facts.PieceSize,
		HTTPFileLen: result.Length, FileLength: result.Length + int64(result.PieceCount)*piece.WrapLength,
		AccessTime: time.Now().UnixMilli(), MD5: wanted, RealMD5: result.MD5,
		LastModified: store.Milliseconds(a.facts.LastModified), ETag: a.facts.ETag,
	}, pieces)
	if err != nil {
		return task.Result{}, err
	}
	a.sink.Finish(result)
	return result, nil
}

// adoptHeld adds the pieces of a held copy. It also verifies and announces the pieces in
// the journal that are not held, because an earlier verification was interrupted.
func (a *assembly) adoptHeld(ctx context.Context, held *Held) error {
	a.add(held.Pieces...)
	noted, err := a.content.JournalPieces()
	switch {
	case store.TimedOut(err):
		return err
	case err != nil:
		a.log.Warn("cannot read the journal; using only the pieces that were verified before", zap.Error(err))
		return nil
	}
	return a.verify(ctx, slices.DeleteFunc(noted, func(p task.Piece) bool {
		_, here := a.has(p.Num)
		return here
	}), true)
}

// verify reads pieces from disk and adds those whose MD5s match. It announces each of
// them if announce is set.
func (a *assembly) verify(ctx context.Context, pieces []task.Piece, announce bool) error {
	lost := 0
	for _, p := range pieces {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		b := a.buffers.get(a.facts.PieceSize, int64(p.Length))
		b.num, b.data = p.Num, b.data[:p.Length]
		err := a.content.Read(p.Num, b.data)
		if store.TimedOut(err) {
			return err
		}
		if err != nil || b.piece() != p {
			lost++
			a.buffers.put(b)
			continue
		}
		a.buffers.put(b)
		a.add(p)
		if announce {
			a.sink.Land(p)
		}
	}
	if lost > 0 {
		a.log.Warn("some pieces on disk are damaged or missing; fetching them again", zap.Int("lost", lost), zap.Int("kept", len(pieces)-lost))
	}
	return nil
}

// knownVersion converts the version of a copy for requests to the source.
func knownVersion(v store.Version) source.Known {
	return source.Known{
		Validators: source.Validators{ETag: v.Facts.ETag, LastModified: v.Facts.LastModified},
		Length:     v.Facts.Length, At: time.UnixMilli(v.Known),
	}
}
