package fetch

import (
	"context"
	"fmt"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/copies"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

const (
	// mostTransfers is how many pieces of a task are fetched from another CDN at a time.
	mostTransfers = 4
	// mostPieces bounds what another CDN may make us remember of a task whose
	// length is not known.
	mostPieces = 1 << 22
)

// Copies is the other CDNs.
type Copies interface {
	// Follow tells what a CDN has of a task and gets, until it is whole there.
	Follow(ctx context.Context, cdn string, id task.ID, tell func(copies.Event) error) error
	// List gives what a CDN has of a task just now.
	List(ctx context.Context, cdn string, id task.ID) (task.Facts, []task.Piece, error)
	// Piece fetches a wrapped piece of a wrapped size.
	Piece(ctx context.Context, cdn string, id task.ID, num, size int32, into []byte) error
}

// gather takes from other copies what is missing here. Errors are those of the
// own disk, or the cause that ctx ended with.
func (a *assembly) gather(ctx context.Context, cdns []string) error {
	for _, cdn := range cdns {
		if a.facts.Length >= 0 && len(a.missing()) == 0 {
			return nil
		}
		before := len(a.held())
		err := a.gatherFrom(ctx, cdn)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case ofDisk(err):
			return err
		case err != nil:
			a.log.Warn("taking pieces from another copy", zap.String("cdn_id", cdn), zap.Error(err))
		}
		if got := len(a.held()) - before; got > 0 {
			a.log.Info("took pieces from another copy", zap.String("from", cdn), zap.Int("pieces", got))
		}
	}
	return nil
}

func (a *assembly) gatherFrom(ctx context.Context, cdn string) error {
	facts, pieces, err := a.copies.List(ctx, cdn, a.id)
	if err != nil || len(pieces) == 0 {
		return err
	}
	if !facts.Same(a.facts) {
		return fmt.Errorf("it has another version: %d bytes, %s %s", facts.Length, facts.ETag, facts.LastModified)
	}
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(mostTransfers)
	for _, p := range pieces {
		if _, here := a.has(p.Num); here || !a.possible(p) {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		work.Go(func() error { return a.transfer(ctx, cdn, p) })
	}
	return work.Wait()
}

// possible tells whether there can be such a piece. Only the first may hold
// nothing, that of an empty file.
func (a *assembly) possible(p task.Piece) bool {
	longest := a.facts.PieceLength(p.Num)
	return p.Num >= 0 && p.Num < mostPieces && p.Length <= longest && (a.facts.Length < 0 || p.Length == longest) &&
		(p.Length > piece.WrapLength || p.Length == piece.WrapLength && p.Num == 0)
}

// transfer fetches a piece from another CDN, checks it and lands it.
func (a *assembly) transfer(ctx context.Context, cdn string, p task.Piece) error {
	select {
	case a.transfers <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-a.transfers }()
	b := a.buffers.get(a.facts.PieceSize, int64(p.Length))
	defer a.buffers.put(b)
	b.num, b.data = p.Num, b.data[:p.Length]
	if err := a.copies.Piece(ctx, cdn, a.id, p.Num, a.facts.PieceSize, b.data); err != nil {
		return err
	}
	if got := b.piece(); got != p {
		return fmt.Errorf("cdn %s told the MD5 %s of piece %d and sent %s", cdn, p.MD5, p.Num, got.MD5)
	}
	a.metrics.copied.Add(float64(p.Length))
	return a.land(b, p)
}

// ofDisk tells an error of the own disk: no other CDN can help with it.
func ofDisk(err error) bool {
	reason := rpcerr.ReasonOf(err)
	return reason == rpcerr.DiskFull || reason == rpcerr.DiskFailed
}
