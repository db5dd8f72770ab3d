package fetch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/copies"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

const (
	// maxTransfers is how many pieces of a task are fetched from another CDN at a time.
	maxTransfers = 4
	// maxFailures is how many may fail in a row until it is left alone: more
	// than are under way when a connection breaks.
	maxFailures = 2 * maxTransfers
	// maxPieces bounds what another CDN may make us remember of a task whose
	// length is not known.
	maxPieces = 1 << 22
)

// Copies is the other CDNs.
type Copies interface {
	// Follow tells what a CDN has of a task and gets, until it is whole there.
	Follow(ctx context.Context, cdn string, id task.ID, handle func(copies.Event) error) error
	// List gives what a CDN has of a task just now.
	List(ctx context.Context, cdn string, id task.ID) (copies.Copy, error)
	// Piece fetches a wrapped piece of a wrapped size.
	Piece(ctx context.Context, cdn string, id task.ID, num, size int32, into []byte) error
}

// fetchFromCopies takes from other copies what is missing here. Errors are those of the
// own disk, or the cause that ctx ended with.
func (a *assembly) fetchFromCopies(ctx context.Context, cdns []string) error {
	for _, cdn := range cdns {
		if a.facts.Length >= 0 && len(a.missing()) == 0 {
			return nil
		}
		before := len(a.held())
		err := a.fetchFromCopy(ctx, cdn)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isDiskError(err):
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

func (a *assembly) fetchFromCopy(ctx context.Context, cdn string) error {
	copied, err := a.copies.List(ctx, cdn, a.id)
	if err != nil && ctx.Err() == nil { // its disk may have been cold
		copied, err = a.copies.List(ctx, cdn, a.id)
	}
	if err != nil || len(copied.Pieces) == 0 {
		return err
	}
	return a.fetchPiecesFrom(ctx, cdn, copied)
}

// fetchPiecesFrom takes from another copy what is missing here. A piece that does not
// come is asked for once more: one bad piece, or a connection that breaks, is no
// reason to fetch all the rest from the source.
func (a *assembly) fetchPiecesFrom(ctx context.Context, cdn string, copied copies.Copy) error {
	if err := a.checkCopyVersion(copied); err != nil {
		return err
	}
	wanted := slices.DeleteFunc(slices.Clone(copied.Pieces), func(p task.Piece) bool {
		_, here := a.has(p.Num)
		return here || !a.isPossible(p)
	})
	var last error
	for range 2 {
		failed, err := a.transferAll(ctx, cdn, wanted)
		if err != nil || len(failed.pieces) == 0 {
			return err
		}
		wanted, last = failed.pieces, failed.last
	}
	return fmt.Errorf("%d pieces did not come: %w", len(wanted), last)
}

// checkCopyVersion makes sure that another copy is of the same version. One that its source
// gave no name is only known by its pieces: there must be one that both have,
// unless nothing is here yet. Else two versions of one length could be mixed,
// and nobody would notice.
func (a *assembly) checkCopyVersion(copied copies.Copy) error {
	if facts := copied.Facts; !facts.Same(a.facts) {
		return fmt.Errorf("it has another version: %d bytes, %s %s", facts.Length, facts.ETag, facts.LastModified)
	}
	common := false
	for _, p := range copied.Pieces {
		here, ok := a.has(p.Num)
		if ok && here != p {
			return fmt.Errorf("it has another version: its piece %d is another one", p.Num)
		}
		common = common || ok
	}
	if !a.facts.Named() && !common && len(a.held()) > 0 {
		return errors.New("nothing tells whether it has the same version")
	}
	return nil
}

// failures are the pieces that another CDN was asked for in vain.
type failures struct {
	mu          sync.Mutex
	pieces      []task.Piece // guarded by mu, like all below
	last        error
	consecutive int
}

// record takes how asking for a piece went, and gives the error back when there
// is no use in asking for more.
func (f *failures) record(p task.Piece, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.consecutive = 0
		return nil
	}
	f.pieces, f.last = append(f.pieces, p), err
	if f.consecutive++; f.consecutive < maxFailures {
		return nil
	}
	return err
}

// transferAll fetches pieces from another CDN and gives those that did not come.
// Errors are those of the own disk, or that too many failed in a row.
func (a *assembly) transferAll(ctx context.Context, cdn string, pieces []task.Piece) (*failures, error) {
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(maxTransfers)
	failed := new(failures)
	for _, p := range pieces {
		if ctx.Err() != nil {
			break
		}
		work.Go(func() error {
			err := a.transfer(ctx, cdn, p)
			if isDiskError(err) || ctx.Err() != nil {
				return err
			}
			return failed.record(p, err)
		})
	}
	return failed, work.Wait()
}

// isPossible tells whether there can be such a piece. Only the first may hold
// nothing, that of an empty file.
func (a *assembly) isPossible(p task.Piece) bool {
	longest := a.facts.PieceLength(p.Num)
	return p.Num >= 0 && p.Num < maxPieces && p.Length <= longest && (a.facts.Length < 0 || p.Length == longest) &&
		(p.Length > piece.WrapLength || p.Length == piece.WrapLength && p.Num == 0)
}

// transfer fetches a piece from another CDN, checks it and lands it.
func (a *assembly) transfer(ctx context.Context, cdn string, p task.Piece) error {
	select {
	case a.transferSlots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-a.transferSlots }()
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

// isDiskError tells an error of the own disk: no other CDN can help with it.
func isDiskError(err error) bool {
	reason := rpcerr.ReasonOf(err)
	return reason == rpcerr.DiskFull || reason == rpcerr.DiskFailed
}
