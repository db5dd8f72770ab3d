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
	// maxTransfers bounds the pieces of a task that are downloaded from another CDN
	// concurrently.
	maxTransfers = 4
	// maxFailures is the number of consecutive failures after which a CDN is abandoned.
	// It is larger than the number of transfers that a broken connection interrupts.
	maxFailures = 2 * maxTransfers
	// maxPieces bounds the piece numbers of a task of unknown length, and so the memory
	// that another CDN can cause this one to use.
	maxPieces = 1 << 22
)

// Copies is a client for the copies of other CDNs.
type Copies interface {
	// Follow passes the events of a copy to handle until the copy is whole. It returns an
	// error if no fetch or copy adds pieces to it, and the error of handle.
	Follow(ctx context.Context, cdn string, id task.ID, handle func(copies.Event) error) error
	// List returns the pieces that a CDN has now.
	List(ctx context.Context, cdn string, id task.ID) (copies.Copy, error)
	// Piece downloads a wrapped piece into memory. size is the wrapped size of a full piece.
	Piece(ctx context.Context, cdn string, id task.ID, num, size int32, into []byte) error
}

// fetchFromCopies downloads missing pieces from other CDNs, one CDN after the other. It
// returns only errors of the local disk, or the cause of the end of ctx.
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
			a.log.Warn("cannot download all missing pieces from another CDN", zap.String("from", cdn), zap.Error(err))
		}
		if got := len(a.held()) - before; got > 0 {
			a.log.Info("downloaded pieces from another CDN", zap.String("from", cdn), zap.Int("pieces", got))
		}
	}
	return nil
}

func (a *assembly) fetchFromCopy(ctx context.Context, cdn string) error {
	copied, err := a.copies.List(ctx, cdn, a.id)
	if err != nil && ctx.Err() == nil { // the first answer may be late because of a cold disk
		copied, err = a.copies.List(ctx, cdn, a.id)
	}
	if err != nil || len(copied.Pieces) == 0 {
		return err
	}
	return a.fetchPiecesFrom(ctx, cdn, copied)
}

// fetchPiecesFrom downloads the missing pieces that another copy has. It tries each piece
// that fails once more, so that one damaged piece or a broken connection does not cause
// all the other pieces to be fetched from the source.
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
	return fmt.Errorf("%d pieces failed: %w", len(wanted), last)
}

// checkCopyVersion returns an error if another copy is of another version, or if that
// cannot be excluded. A version without validators is identified by its pieces only:
// both copies must have an equal piece, unless the local copy has none. Otherwise
// two versions of the same length could be mixed without an error.
func (a *assembly) checkCopyVersion(copied copies.Copy) error {
	if facts := copied.Facts; !facts.Same(a.facts) {
		return fmt.Errorf("the copy is of another version: %d bytes, %s %s", facts.Length, facts.ETag, facts.LastModified)
	}
	common := false
	for _, p := range copied.Pieces {
		here, ok := a.has(p.Num)
		if ok && here != p {
			return fmt.Errorf("the copy is of another version: piece %d differs", p.Num)
		}
		common = common || ok
	}
	if !a.facts.Named() && !common && len(a.held()) > 0 {
		return errors.New("the copy may be of another version: the source sends no validators, and the copies have no piece in common")
	}
	return nil
}

// failures holds the pieces that another CDN failed to send.
type failures struct {
	mu          sync.Mutex
	pieces      []task.Piece // guarded by mu, as all fields below
	last        error
	consecutive int
}

// record records the result of a transfer. It returns the error if there were maxFailures
// consecutive ones, so that the remaining transfers are stopped.
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

// transferAll downloads pieces from another CDN and returns those that failed. It returns
// an error for a failure of the local disk and after too many consecutive failures.
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

// isPossible reports whether the version can have such a piece. Only the first piece may
// be without content, for an empty file.
func (a *assembly) isPossible(p task.Piece) bool {
	longest := a.facts.PieceLength(p.Num)
	return p.Num >= 0 && p.Num < maxPieces && p.Length <= longest && (a.facts.Length < 0 || p.Length == longest) &&
		(p.Length > piece.WrapLength || p.Length == piece.WrapLength && p.Num == 0)
}

// transfer downloads a piece from another CDN, checks its MD5 and lands it.
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
		return fmt.Errorf("cdn %s announced the MD5 %s for piece %d and sent a piece with %s", cdn, p.MD5, p.Num, got.MD5)
	}
	a.metrics.copied.Add(float64(p.Length))
	return a.land(b, p)
}

// isDiskError reports whether an error is one of the local disk, so that trying another
// CDN does not help.
func isDiskError(err error) bool {
	reason := rpcerr.ReasonOf(err)
	return reason == rpcerr.DiskFull || reason == rpcerr.DiskFailed
}
