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

// assembly is a copy that is being made, whoever its pieces come from.
type assembly struct {
	*Fetcher
	log     *zap.Logger
	id      task.ID
	content *store.Content
	facts   task.Facts
	sink    Sink
	whole   *hasher

	mu        sync.Mutex
	pieces    []task.Piece // in landing order; guarded by mu
	positions []int32      // 1 + the place in pieces by number, 0 for what is not here; guarded by mu
}

func (f *Fetcher) assemble(log *zap.Logger, id task.ID, content *store.Content, facts task.Facts, sink Sink) *assembly {
	return &assembly{Fetcher: f, log: log, id: id, content: content, facts: facts, sink: sink, whole: newHasher()}
}

// has gives a piece that is here.
func (a *assembly) has(num int32) (task.Piece, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if int(num) >= len(a.positions) || a.positions[num] == 0 {
		return task.Piece{}, false
	}
	return a.pieces[a.positions[num]-1], true
}

// add remembers pieces that are on disk, each once.
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

// land makes a piece readable for everybody.
func (a *assembly) land(b *buffer, p task.Piece) error {
	if err := a.content.Write(p, b.data); err != nil {
		if store.Hangs(err) {
			b.pinned.Store(true)
		}
		return err
	}
	a.add(p)
	a.sink.Land(p)
	return nil
}

// release gives the memory of a piece back, and its slot.
func (a *assembly) release(b *buffer) {
	if b.users.Add(-1) == 0 {
		a.buffers.put(b)
		<-a.slots
	}
}

// count is the number of pieces, 0 while the length is not known.
func (a *assembly) count() int32 { return piece.Count(a.facts.Length, a.facts.PieceSize) }

// missing gives the runs of pieces that are not here, each from its first to
// behind its last.
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

// held gives all pieces that are here.
func (a *assembly) held() []task.Piece {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.pieces)
}

// seal makes the copy whole on disk and for everybody; wanted is the MD5 that
// was asked for, or empty. The MD5 of the whole must be there.
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

// adoptHeld begins with what is held, and checks those pieces on disk that nobody
// has been told of because the check of them was interrupted.
func (a *assembly) adoptHeld(ctx context.Context, held *Held) error {
	a.add(held.Pieces...)
	noted, err := a.content.Noted()
	switch {
	case store.Hangs(err):
		return err
	case err != nil:
		a.log.Warn("finding what else is on disk", zap.Error(err))
		return nil
	}
	return a.verify(ctx, slices.DeleteFunc(noted, func(p task.Piece) bool {
		_, here := a.has(p.Num)
		return here
	}), true)
}

// verify gives those of the pieces that the disk has kept, telling each that it
// finds if announce is set.
func (a *assembly) verify(ctx context.Context, pieces []task.Piece, announce bool) error {
	lost := 0
	for _, p := range pieces {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		b := a.buffers.get(a.facts.PieceSize, int64(p.Length))
		b.num, b.data = p.Num, b.data[:p.Length]
		err := a.content.Read(p.Num, b.data)
		if store.Hangs(err) {
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
		a.log.Warn("the disk has not kept all pieces", zap.Int("lost", lost), zap.Int("kept", len(pieces)-lost))
	}
	return nil
}

// knownVersion is the version for the source.
func knownVersion(v store.Version) source.Known {
	return source.Known{
		Validators: source.Validators{ETag: v.Facts.ETag, LastModified: v.Facts.LastModified},
		Length:     v.Facts.Length, At: time.UnixMilli(v.Known),
	}
}
