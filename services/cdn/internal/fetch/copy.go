package fetch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn/internal/copies"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// The pause between two rounds of asking all copies doubles up to a bound.
const (
	initialPause = 100 * time.Millisecond
	maxPause     = 5 * time.Second
)

// ErrOtherVersion is a copy that has to be begun anew, because the owner has
// another version than the one that has been told of here.
var ErrOtherVersion = errors.New("the owner has another version")

// errComplete ends the following of a copy that has told all.
var errComplete = errors.New("all is told")

// errNoMore is a CDN of which all was taken that it has just now.
var errNoMore = errors.New("it has no more just now")

// CopyJob is a task that is to be copied from other CDNs.
type CopyJob struct {
	// ID names it.
	ID task.ID
	// Standing is what the record says just now.
	Standing func() task.Standing
	// StandingChanged says that it says something else than before.
	StandingChanged <-chan struct{}
	// Held is what is here already, nil for what may be found on disk.
	Held *Held
}

// copier is one copy under way.
type copier struct {
	*Fetcher
	log           *zap.Logger
	job           CopyJob
	sink          Sink
	parts         *assembly     // nil until a version is known
	hashed        chan error    // what the hashing of parts came to
	pause         time.Duration // before the next round
	failureLogged bool          // a failure was told of since something came
}

// Copy makes the task whole from other CDNs, and goes on trying until it is, or
// until this instance is to own it and the others have no more. Errors are
// ErrOtherVersion, those of the own disk, or the cause that ctx ended with; in
// the last case alone what is here stays.
func (f *Fetcher) Copy(ctx context.Context, job CopyJob, sink Sink) error {
	log := f.log.With(zap.String("task_id", string(job.ID)))
	c := &copier{Fetcher: f, log: log, job: job, sink: sink}
	hashing, stop := context.WithCancel(ctx)
	defer func() {
		stop()
		if c.parts != nil {
			<-c.hashed //nolint:errcheck // what it came to does not matter any more
		}
	}()
	return f.keepOrRemove(ctx, log, job.ID, sink, c.run(ctx, hashing))
}

func (c *copier) run(ctx, hashing context.Context) error {
	if held := c.job.Held; held != nil {
		c.setContent(hashing, held.Content)
		if err := c.parts.adoptHeld(ctx, held); err != nil {
			return err
		}
	}
	return c.copyRounds(ctx, hashing)
}

// setContent makes the place for what is copied.
func (c *copier) setContent(ctx context.Context, content *store.Content) {
	c.parts = c.assemble(c.log, c.job.ID, content, content.Version().Facts, c.sink)
	c.hashed = make(chan error, 1)
	go func() {
		defer close(c.hashed)
		c.hashed <- c.parts.whole.run(ctx, c.parts)
	}()
}

// copyRounds asks the owner and then the others, again and again. An instance that
// is to be the owner itself ends when the others have no more: its task waits
// for a Seed.
func (c *copier) copyRounds(ctx, hashing context.Context) error {
	c.pause = initialPause
	for {
		standing := c.job.Standing()
		before := c.pieceCount()
		whole, failed, err := c.copyRound(ctx, hashing, standing)
		if whole || err != nil {
			return err
		}
		if c.pieceCount() > before {
			c.pause = initialPause
		} else if standing.Mine && (!failed || c.pause == maxPause) {
			return nil
		}
		if err := c.waitForNextRound(ctx, standing); err != nil {
			return err
		}
	}
}

// copyRound asks each of the others once, and tells whether all is here, and else
// whether one of them failed.
func (c *copier) copyRound(ctx, hashing context.Context, standing task.Standing) (whole, failed bool, err error) {
	for _, cdn := range standing.Others {
		before := c.pieceCount()
		err := c.withSlot(ctx, func() error { return c.copyFrom(ctx, hashing, standing, cdn) })
		if c.pieceCount() > before {
			c.failureLogged = false
		}
		switch {
		case err == nil:
			return true, false, nil
		case ctx.Err() != nil:
			return false, false, context.Cause(ctx)
		case isDiskError(err), errors.Is(err, ErrOtherVersion):
			return false, false, err
		case errors.Is(err, errNoMore):
			continue
		}
		failed = true
		c.logFailure(cdn, err)
	}
	return false, failed, nil
}

// copyFrom copies from one CDN. The owner is followed for as long as it has more.
// The others are not: one of them may be following this instance, and both
// would wait for ever while the owner is back.
func (c *copier) copyFrom(ctx, hashing context.Context, standing task.Standing, cdn string) error {
	if cdn == standing.Owner {
		return c.followOwner(ctx, hashing, standing, cdn)
	}
	copied, err := c.copies.List(ctx, cdn, c.job.ID)
	switch {
	case err != nil:
		return err
	case len(copied.Pieces) == 0:
		return errNoMore
	}
	if err := c.acceptVersion(ctx, hashing, standing, copied.Facts); err != nil {
		return hideOtherVersion(err)
	}
	if err := c.parts.fetchPiecesFrom(ctx, cdn, copied); err != nil {
		return err
	}
	if copied.Result == nil {
		return errNoMore
	}
	return c.finishCopy(ctx, cdn, standing, *copied.Result)
}

// hideOtherVersion is for a failure of a CDN that is not the owner: it is no reason to
// begin anew that it has another version.
func hideOtherVersion(err error) error {
	if errors.Is(err, ErrOtherVersion) {
		return errors.New("it has another version than is here")
	}
	return err
}

// logFailure tells of a failure, but not aloud of every one in a row: a copy may
// go on trying for days.
func (c *copier) logFailure(cdn string, err error) {
	level := zap.WarnLevel
	if c.failureLogged {
		level = zap.DebugLevel
	}
	c.failureLogged = true
	c.log.Log(level, "copying from another CDN", zap.String("from", cdn), zap.Int("pieces", c.pieceCount()), zap.Error(err))
}

// withSlot bounds how many are copied at a time. Those that wait for a CDN that
// has nothing do not count.
func (c *copier) withSlot(ctx context.Context, do func() error) error {
	select {
	case c.copySlots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-c.copySlots }()
	return do()
}

// waitForNextRound waits before the next round, unless there is news. Of a task that has
// failed nothing comes before there is.
func (c *copier) waitForNextRound(ctx context.Context, standing task.Standing) error {
	var timeout <-chan time.Time
	if standing.Status != task.Failed {
		// Half of the pause is left to chance: many copies may have lost one owner.
		timer := time.NewTimer(c.pause/2 + rand.N(c.pause/2+1))
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-timeout:
		c.pause = min(2*c.pause, maxPause)
	case <-c.job.StandingChanged:
		c.pause = initialPause
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

func (c *copier) pieceCount() int {
	if c.parts == nil {
		return 0
	}
	return len(c.parts.held())
}

// followOwner copies from one CDN for as long as it has more.
func (c *copier) followOwner(ctx, hashing context.Context, standing task.Standing, cdn string) error {
	work, working := errgroup.WithContext(ctx)
	work.SetLimit(maxTransfers)
	var result *task.Result
	err := c.copies.Follow(working, cdn, c.job.ID, func(e copies.Event) error {
		switch {
		case e.Facts != nil:
			return c.acceptVersion(working, hashing, standing, *e.Facts)
		case e.Piece != nil:
			return c.fetchPiece(working, work, cdn, *e.Piece)
		case e.Result != nil:
			result = e.Result
			return errComplete
		}
		return nil
	})
	if failed := work.Wait(); failed != nil {
		return failed // it ended the following, so it came first
	}
	switch {
	case err != nil && !errors.Is(err, errComplete):
		return err
	case result == nil || c.parts == nil:
		return fmt.Errorf("cdn %s ended without a result", cdn)
	}
	return c.finishCopy(ctx, cdn, standing, *result)
}

// acceptVersion takes the version of another CDN, unless it is not the one of the
// record or not the one that is here.
func (c *copier) acceptVersion(ctx, hashing context.Context, standing task.Standing, facts task.Facts) error {
	if !facts.Possible() {
		return fmt.Errorf("it tells of pieces of %d bytes of %d", facts.PieceSize, facts.Length)
	}
	if standing.Facts.PieceSize > 0 && !standing.Facts.Same(facts) {
		return fmt.Errorf("it has another version (%d bytes, %s %s) than the record (%d bytes, %s %s)",
			facts.Length, facts.ETag, facts.LastModified,
			standing.Facts.Length, standing.Facts.ETag, standing.Facts.LastModified)
	}
	if c.parts != nil {
		if !c.parts.facts.Same(facts) {
			return ErrOtherVersion
		}
		return nil
	}
	part, err := c.store.OpenPart(c.job.ID)
	switch {
	case store.Hangs(err):
		return err
	case err == nil && part.Facts.Same(facts):
	default:
		if err == nil {
			_ = part.Close() // it is going to be removed
		}
		content, err := c.store.Create(c.job.ID, store.Version{
			URL: standing.URL, Facts: facts, Epoch: standing.Epoch, Known: time.Now().Add(-ageOfFacts).UnixMilli(),
		})
		if err != nil {
			return err
		}
		part = &store.Part{Content: content}
	}
	c.setContent(hashing, part.Content)
	c.sink.Settle(part.Content.Version().Facts)
	c.sink.Begin(part.Content)
	c.log.Info("copying", zap.Int64("length", facts.Length), zap.Int("on_disk", len(part.Pieces)))
	return c.parts.verify(ctx, part.Pieces, true)
}

// fetchPiece has a piece fetched that another CDN told of.
func (c *copier) fetchPiece(ctx context.Context, work *errgroup.Group, cdn string, p task.Piece) error {
	if c.parts == nil || !c.parts.isPossible(p) {
		return fmt.Errorf("cdn %s tells of an impossible piece %d of %d bytes", cdn, p.Num, p.Length)
	}
	if here, ok := c.parts.has(p.Num); ok {
		if here != p {
			return ErrOtherVersion
		}
		return nil
	}
	work.Go(func() error { return c.parts.transfer(ctx, cdn, p) })
	return ctx.Err()
}

// finishCopy makes the copy whole, if it comes to what the other CDN says.
func (c *copier) finishCopy(ctx context.Context, cdn string, standing task.Standing, result task.Result) error {
	var length int64
	pieces := c.parts.held()
	for _, p := range pieces {
		length += int64(p.Length) - piece.WrapLength
	}
	if len(pieces) != int(result.PieceCount) || length != result.Length {
		return fmt.Errorf("cdn %s told %d pieces with %d bytes, not the %d with %d of its result",
			cdn, len(pieces), length, result.PieceCount, result.Length)
	}
	for num := range result.PieceCount {
		if _, ok := c.parts.has(num); !ok { // nobody would ever hash it
			return fmt.Errorf("cdn %s told %d pieces, but not piece %d", cdn, len(pieces), num)
		}
	}
	c.parts.whole.finish(result.PieceCount)
	select {
	case err, first := <-c.hashed:
		if first && err != nil {
			return err
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if got := c.parts.whole.md5(); got != result.MD5 {
		c.log.Error("the pieces do not make the content that was told", zap.String("from", cdn),
			zap.String("md5", got), zap.String("told", result.MD5))
		if err := sleep(ctx, maxPause); err != nil {
			return err
		}
		return ErrOtherVersion
	}
	if _, err := c.parts.seal(standing.URL, ""); err != nil {
		return err
	}
	c.log.Info("copied", zap.String("from", cdn), zap.Int64("length", length), zap.Int("pieces", len(pieces)))
	return nil
}

// LoadPart tells what is on disk of a task that is not whole, for others to take.
// ErrAbsent means that there is nothing.
func (f *Fetcher) LoadPart(ctx context.Context, id task.ID, sink Sink) error {
	part, err := f.store.OpenPart(id)
	if err != nil {
		return err
	}
	facts := part.Content.Version().Facts
	sink.Settle(facts)
	sink.Begin(part.Content)
	a := f.assemble(f.log.With(zap.String("task_id", string(id))), id, part.Content, facts, sink)
	return a.verify(ctx, part.Pieces, true)
}
