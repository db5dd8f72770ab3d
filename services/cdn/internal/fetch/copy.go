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

// The pause between two rounds over all copies doubles from initialPause to maxPause.
const (
	initialPause = 100 * time.Millisecond
	maxPause     = 5 * time.Second
)

// ErrOtherVersion is returned for a copy that must start from scratch, because the owner
// has another version than the pieces that were announced.
var ErrOtherVersion = errors.New("the owner has another version")

// errComplete ends the following of a copy whose result was received.
var errComplete = errors.New("the result was received")

// errNoMore is returned if a CDN has no missing piece at the moment.
var errNoMore = errors.New("the copy has no more pieces at the moment")

// CopyJob is a task to copy from other CDNs.
type CopyJob struct {
	ID task.ID
	// Standing returns the current standing of this instance to the task.
	Standing func() task.Standing
	// StandingChanged receives a value when the standing has changed.
	StandingChanged <-chan struct{}
	// Held is the announced partial copy. If it is nil, a partial copy on disk is used.
	Held *Held
}

// copier copies one task.
//
//	round: the owner is followed, each other copy is listed once
//	round --whole-------------------------------------------> done
//	round --the owner is this instance, nothing was copied--> done
//	round --otherwise, after a pause or a changed standing--> next round
//	round --disk error, other version, end of ctx-----------> failed
type copier struct {
	*Fetcher
	log           *zap.Logger
	job           CopyJob
	sink          Sink
	parts         *assembly     // nil until a version is known
	hashed        chan error    // receives the result of the hasher of parts
	pause         time.Duration // before the next round
	failureLogged bool          // a warning was logged since the last piece was copied
}

// Copy completes a task from other CDNs. It retries until the task is whole, or until
// this instance owns the task and the others have no more pieces.
//
// It returns ErrOtherVersion, errors of the local disk, or the cause of the end of ctx.
// The pieces stay on disk only in the last case.
func (f *Fetcher) Copy(ctx context.Context, job CopyJob, sink Sink) error {
	log := f.log.With(zap.String("task_id", string(job.ID)))
	c := &copier{Fetcher: f, log: log, job: job, sink: sink}
	hashing, stop := context.WithCancel(ctx)
	defer func() {
		stop()
		if c.parts != nil {
			<-c.hashed //nolint:errcheck // finishCopy has received the result, or the copy has failed
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

// setContent sets the files to copy to, and starts the hasher.
func (c *copier) setContent(ctx context.Context, content *store.Content) {
	c.parts = c.assemble(c.log, c.job.ID, content, content.Version().Facts, c.sink)
	c.hashed = make(chan error, 1)
	go func() {
		defer close(c.hashed)
		c.hashed <- c.parts.whole.run(ctx, c.parts)
	}()
}

// copyRounds runs rounds until the task is whole. If this instance is the owner, it
// returns as soon as the other copies have no more pieces: the task then waits for a Seed.
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

// copyRound copies from each of the other CDNs once. It returns whether the task is whole,
// and otherwise whether one of the CDNs has failed.
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

// copyFrom copies from one CDN. It follows the owner until the owner's copy is whole. It
// copies from a replica only the pieces that the replica has now: that replica may
// follow this instance, and then both would wait for each other forever while the
// owner is available again.
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

// hideOtherVersion replaces ErrOtherVersion by an error that does not make the copy start
// from scratch, because only the version of the owner counts.
func hideOtherVersion(err error) error {
	if errors.Is(err, ErrOtherVersion) {
		return errors.New("the replica has another version than the local copy")
	}
	return err
}

// logFailure logs a failure. Of consecutive failures only the first one is a warning,
// because a copy may retry for days.
func (c *copier) logFailure(cdn string, err error) {
	level := zap.WarnLevel
	if c.failureLogged {
		level = zap.DebugLevel
	}
	c.failureLogged = true
	c.log.Log(level, "cannot copy the task from another CDN; trying the other copies, and this one later",
		zap.String("from", cdn), zap.Int("pieces", c.pieceCount()), zap.Error(err))
}

// withSlot runs do with a slot, which bounds the tasks that are copied concurrently. A
// task between two rounds holds none.
func (c *copier) withSlot(ctx context.Context, do func() error) error {
	select {
	case c.copySlots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-c.copySlots }()
	return do()
}

// waitForNextRound blocks for the pause, or until the standing has changed. If the record
// says that the task has failed, only a changed standing ends the wait, because the
// owner has no new pieces before.
func (c *copier) waitForNextRound(ctx context.Context, standing task.Standing) error {
	var timeout <-chan time.Time
	if standing.Status != task.Failed {
		// The jitter is half of the pause, because many copies may have lost the same owner.
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

// followOwner copies from the owner until the owner's copy is whole.
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
		return failed // the failed transfer has ended Follow, so err is only its consequence
	}
	switch {
	case err != nil && !errors.Is(err, errComplete):
		return err
	case result == nil || c.parts == nil:
		return fmt.Errorf("cdn %s ended the stream without a result", cdn)
	}
	return c.finishCopy(ctx, cdn, standing, *result)
}

// acceptVersion compares the version of another CDN with the record and with the local
// copy. It returns an error if the record differs, and ErrOtherVersion if the local copy
// differs. If there is no local copy yet, acceptVersion opens the partial copy on disk if
// that is of the same version, or else creates an empty one.
func (c *copier) acceptVersion(ctx, hashing context.Context, standing task.Standing, facts task.Facts) error {
	if !facts.Possible() {
		return fmt.Errorf("the copy has impossible facts: %d bytes in pieces of %d bytes", facts.Length, facts.PieceSize)
	}
	if standing.Facts.PieceSize > 0 && !standing.Facts.Same(facts) {
		return fmt.Errorf("the copy is of another version (%d bytes, %s %s) than the record (%d bytes, %s %s)",
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
	case store.TimedOut(err):
		return err
	case err == nil && part.Facts.Same(facts):
	default:
		if err == nil {
			_ = part.Close() // Create removes its files
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
	c.log.Info("copying the task from other CDNs", zap.Int64("length", facts.Length), zap.Int("on_disk", len(part.Pieces)))
	return c.parts.verify(ctx, part.Pieces, true)
}

// fetchPiece starts to download a piece that another CDN has announced, if it is missing.
func (c *copier) fetchPiece(ctx context.Context, work *errgroup.Group, cdn string, p task.Piece) error {
	if c.parts == nil || !c.parts.isPossible(p) {
		return fmt.Errorf("cdn %s announced an impossible piece %d of %d bytes", cdn, p.Num, p.Length)
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

// finishCopy seals the copy if its pieces are those of the announced result.
func (c *copier) finishCopy(ctx context.Context, cdn string, standing task.Standing, result task.Result) error {
	var length int64
	pieces := c.parts.held()
	for _, p := range pieces {
		length += int64(p.Length) - piece.WrapLength
	}
	if len(pieces) != int(result.PieceCount) || length != result.Length {
		return fmt.Errorf("cdn %s announced a result of %d pieces with %d bytes, but the copy has %d pieces with %d bytes",
			cdn, result.PieceCount, result.Length, len(pieces), length)
	}
	for num := range result.PieceCount {
		if _, ok := c.parts.has(num); !ok { // the hasher would wait for it forever
			return fmt.Errorf("cdn %s announced a result of %d pieces, but not piece %d", cdn, result.PieceCount, num)
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
		c.log.Error("the copied content does not have the announced MD5; copying it again from scratch", zap.String("from", cdn),
			zap.String("md5", got), zap.String("announced", result.MD5))
		if err := sleep(ctx, maxPause); err != nil {
			return err
		}
		return ErrOtherVersion
	}
	if _, err := c.parts.seal(standing.URL, ""); err != nil {
		return err
	}
	c.log.Info("copied the task", zap.String("from", cdn), zap.Int64("length", length), zap.Int("pieces", len(pieces)))
	return nil
}

// LoadPart verifies and announces the pieces of a partial copy on disk, so that other
// instances can download them. It returns store.ErrAbsent if there is none.
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
