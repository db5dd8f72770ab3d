package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/source"
)

// maxAttempts is how often a fetch is continued at one place. A source that
// cuts every answer off, but not before it has sent another piece, gets a fetch
// to its end.
const maxAttempts = 3

// maxRefusals is how often a source is asked that does not answer at all: it
// may just be restarted.
const maxRefusals = 4

// errCutOff is a source that was cut off and could not be gone on with in time.
// What is here is checked and of a version with a name.
var errCutOff = errors.New("the source was cut off for good")

// reading is the source being read into an assembly. One goroutine reads and
// cuts, one computes the MD5 of the whole in order, and for every piece one
// computes its MD5, writes and announces it. A piece holds one of the Fetcher's
// slots until all of that is done, which is what slows the reading down to the
// slowest of them.
type reading struct {
	*assembly
	job  Job
	work *errgroup.Group
	body *source.Response
	// requestFrom asks for what follows from an offset of the content on; it is nil when
	// the source cannot do that.
	requestFrom  func(ctx context.Context, offset int64) (*source.Response, error)
	attempts     int       // to go on at resumeOffset
	resumeOffset int64     // where the content was cut off last
	lastRead     time.Time // when the source was read last
}

// read lets readMissing read what is to be read and gives the number of all pieces, and
// waits until all that was read is on disk and in the MD5 of the whole.
func (a *assembly) read(ctx context.Context, job Job, readMissing func(context.Context, *reading) (int32, error)) error {
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error { return a.whole.run(ctx, a) })
	r := &reading{assembly: a, job: job, work: work, lastRead: time.Now()}
	defer r.close()
	count, err := readMissing(ctx, r)
	if err != nil {
		work.Go(func() error { return err }) // unless it ended because of another
	}
	a.whole.finish(count)
	return work.Wait()
}

func (r *reading) close() {
	if r.body != nil {
		r.body.Close()
	}
}

// readFromStart reads all of an answer. Pieces that are here already must come out
// the same.
func (r *reading) readFromStart(ctx context.Context, session *source.Session, first *source.Response) (int32, error) {
	// When a piece cannot be written, the reader may be waiting for the source.
	stop := context.AfterFunc(ctx, func() { first.Cancel(context.Cause(ctx)) })
	defer stop()
	defer first.Close()
	r.body = first
	if first.Resumable() {
		r.requestFrom = func(ctx context.Context, offset int64) (*source.Response, error) {
			return session.Resume(ctx, first, offset)
		}
	}
	length, count, err := r.readPieces(ctx, first.Length)
	if err != nil {
		return count, err
	}
	if first.Length >= 0 && length != first.Length {
		return count, source.Broken("the source sent %d bytes, not the %d it announced", length, first.Length)
	}
	for _, p := range r.held() {
		if p.Num >= count {
			return count, errPieceChanged(p.Num)
		}
	}
	return count, nil
}

// readPieces reads the content to its end and hands it on piece by piece.
func (r *reading) readPieces(ctx context.Context, announced int64) (length int64, count int32, err error) {
	for ended := false; !ended; {
		room := int64(math.MaxInt64)
		if announced >= 0 {
			// One byte more than announced, so that the source's end is seen.
			room = announced - length + piece.WrapLength + 1
		}
		b := r.buffers.get(r.facts.PieceSize, room)
		var n int
		n, ended, err = r.fill(ctx, b.content(), length)
		if err != nil {
			r.buffers.put(b)
			return length, count, err
		}
		if n == 0 && count > 0 { // the content ended with the piece before
			r.buffers.put(b)
			break
		}
		b.seal(count, n)
		if err := r.submit(ctx, b); err != nil {
			return length, count, err
		}
		length += int64(n)
		count++
	}
	return length, count, nil
}

// readRuns reads the runs of pieces that are missing and nothing else; first is the
// answer for the first of them.
func (r *reading) readRuns(ctx context.Context, session *source.Session, version source.Known, first *source.Response) (int32, error) {
	r.body = first
	content := int64(r.facts.PieceSize) - piece.WrapLength
	for _, run := range r.missing() {
		begin, end := int64(run[0])*content, min(int64(run[1])*content, r.facts.Length)
		r.requestFrom = func(ctx context.Context, offset int64) (*source.Response, error) {
			res, err := session.Range(ctx, version, offset, end-1)
			if err == nil && !res.Partial {
				res.Close()
				return nil, source.Wrong("the source changed while it was fetched")
			}
			return res, err
		}
		if r.body == nil {
			if err := r.resume(ctx, begin, nil); err != nil {
				return 0, err
			}
		}
		for num := run[0]; num < run[1]; num++ {
			length := r.facts.PieceLength(num)
			b := r.buffers.get(r.facts.PieceSize, int64(length))
			b.data = b.data[:length]
			n, _, err := r.fill(ctx, b.content(), int64(num)*content)
			if err == nil && n < len(b.content()) {
				err = source.Broken("the source sent %d bytes of piece %d, not the %d it announced", n, num, len(b.content()))
			}
			if err != nil {
				r.buffers.put(b)
				return 0, err
			}
			b.seal(num, n)
			if err := r.submit(ctx, b); err != nil {
				return 0, err
			}
		}
		r.body.Close()
		r.body = nil
	}
	return r.count(), nil
}

// submit gives a piece to those who hash, write and announce it.
func (r *reading) submit(ctx context.Context, b *buffer) error {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	b.users.Store(2) // the whole's MD5 and the landing
	if !r.whole.offer(b) {
		b.users.Store(1)
	}
	r.work.Go(func() error {
		defer r.release(b)
		p := b.piece()
		if here, ok := r.has(p.Num); ok {
			if here != p {
				return errPieceChanged(p.Num)
			}
			return nil
		}
		return r.land(b, p)
	})
	return nil
}

func errPieceChanged(num int32) error {
	return source.Wrong("the source changed: piece %d is another one than before", num)
}

// maxRead is how much is read between two looks at the bandwidth limit.
const maxRead = 64 << 10

// fill reads into dst until it is full or the content ends. offset is where in
// the content dst begins: there a source that was cut off is asked to go on.
func (r *reading) fill(ctx context.Context, dst []byte, offset int64) (n int, ended bool, err error) {
	for n < len(dst) {
		part := dst[n:]
		if r.limiter != nil && len(part) > maxRead {
			part = part[:maxRead]
		}
		if err := r.checkOwnership(ctx); err != nil {
			return n, false, err
		}
		m, err := r.body.Read(part)
		n += m
		r.metrics.bytes.Add(float64(m))
		if r.limiter != nil && m > 0 {
			if waitErr := r.limiter.WaitN(ctx, m); waitErr != nil && ctx.Err() == nil {
				return n, false, fmt.Errorf("keeping to the bandwidth: %w", waitErr)
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return n, true, nil
		case ctx.Err() != nil:
			return n, false, context.Cause(ctx)
		default:
			if err := r.resume(ctx, offset, err); err != nil {
				return n, false, err
			}
			n = 0 // the piece is read again from its start
		}
	}
	return n, false, nil
}

// checkOwnership asks, after a pause, whether the task is still owned here: this
// process may have been stopped, and another may have taken it over.
func (r *reading) checkOwnership(ctx context.Context) error {
	paused := time.Since(r.lastRead)
	r.lastRead = time.Now()
	if r.job.Epoch == 0 || r.options.StillOwner == nil || paused < r.options.PauseLimit {
		return nil
	}
	isOwner, err := r.options.StillOwner(ctx, r.id, r.job.Epoch)
	r.lastRead = time.Now() // the answer may have taken its time
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		r.log.Warn("reading on after a pause, the registry does not say whether the task is still owned here",
			zap.Duration("pause", paused), zap.Error(err))
	case !isOwner:
		r.log.Info("another owns the task since a pause", zap.Duration("pause", paused))
		return errNotOwner()
	}
	return nil
}

func errNotOwner() error {
	return rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "another CDN owns the task")
}

// resume asks for the content from offset on, because it was cut off there or,
// with no cause, because it is wanted from there. What comes is of the same
// version as before, or the fetch is broken. A source that does not answer any
// more is not: what is here can be gone on with.
func (r *reading) resume(ctx context.Context, offset int64, cause error) error {
	if r.requestFrom == nil {
		return source.Broken("%v at byte %d or later, and it cannot go on there", cause, offset)
	}
	if offset != r.resumeOffset {
		r.attempts, r.resumeOffset = 0, offset
	}
	for cause == nil || r.attempts < maxAttempts || source.Transient(cause) && r.attempts < maxRefusals {
		if cause != nil {
			delay := r.options.RetryDelay << r.attempts
			r.attempts++
			r.log.Warn("the source was cut off, going on", zap.Error(cause),
				zap.Int64("offset", offset), zap.Int("attempt", r.attempts))
			// Half of the delay is left to chance: many fetches may have been cut at once.
			if err := sleep(ctx, delay/2+rand.N(delay/2+1)); err != nil {
				return err
			}
		}
		if err := r.checkOwnership(ctx); err != nil {
			return err
		}
		next, err := r.requestFrom(ctx, offset)
		if err == nil {
			r.close()
			r.body = next
			return nil
		}
		if ctx.Err() != nil || !source.Transient(err) {
			return err
		}
		cause = err
	}
	if source.Transient(cause) {
		return fmt.Errorf("going on at byte %d after %d attempts: %w", offset, r.attempts, cause)
	}
	return fmt.Errorf("%w: %w", errCutOff, source.Broken("%v at byte %d or later, after %d attempts to go on", cause, offset, r.attempts))
}

func sleep(ctx context.Context, delay time.Duration) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
