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

// maxAttempts bounds the attempts to resume at the same offset. There is no bound for a
// source that interrupts every answer, as long as each answer completes another piece.
const maxAttempts = 3

// maxRefusals bounds the attempts while the source does not answer at all, for example
// because it is restarting.
const maxRefusals = 4

// errCutOff is returned if the source interrupts the download again and again. The
// pieces on disk are complete and of an identified version, so they are kept.
var errCutOff = errors.New("the source keeps interrupting the download")

// reading reads content from the source into an assembly. One goroutine reads and splits
// the content into pieces, one computes the MD5 of the whole in order, and for each piece
// one computes its MD5, writes and announces it. A piece holds one of the Fetcher's slots
// until all of that is done, so that the slowest of these steps limits the reading.
type reading struct {
	*assembly
	job  Job
	work *errgroup.Group
	body *source.Response
	// requestFrom requests the content from an offset on. It is nil if the source does not
	// support that.
	requestFrom  func(ctx context.Context, offset int64) (*source.Response, error)
	attempts     int       // number of attempts to resume at resumeOffset
	resumeOffset int64     // offset of the last interruption in bytes
	lastRead     time.Time // time of the last read from the source
}

// read runs readMissing, which reads the missing pieces and returns the number of all
// pieces. It returns when all pieces that were read are on disk and hashed.
func (a *assembly) read(ctx context.Context, job Job, readMissing func(context.Context, *reading) (int32, error)) error {
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error { return a.whole.run(ctx, a) })
	r := &reading{assembly: a, job: job, work: work, lastRead: time.Now()}
	defer r.close()
	count, err := readMissing(ctx, r)
	if err != nil {
		work.Go(func() error { return err }) // an earlier error of the group takes precedence
	}
	a.whole.finish(count)
	return work.Wait()
}

func (r *reading) close() {
	if r.body != nil {
		r.body.Close()
	}
}

// readFromStart reads a complete answer of the source. It returns SOURCE_BROKEN if a
// piece that is on disk already differs.
func (r *reading) readFromStart(ctx context.Context, session *source.Session, first *source.Response) (int32, error) {
	// If a piece cannot be written, this unblocks a read that waits for the source.
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

// readPieces reads the content to its end and submits it piece by piece. announced is the
// length of the content in bytes, negative if it is unknown.
func (r *reading) readPieces(ctx context.Context, announced int64) (length int64, count int32, err error) {
	for ended := false; !ended; {
		room := int64(math.MaxInt64)
		if announced >= 0 {
			// With room for one byte more than announced, the read finds the end of the content.
			room = announced - length + piece.WrapLength + 1
		}
		b := r.buffers.get(r.facts.PieceSize, room)
		var n int
		n, ended, err = r.fill(ctx, b.content(), length)
		if err != nil {
			r.buffers.put(b)
			return length, count, err
		}
		if n == 0 && count > 0 { // the content ended with the previous piece
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

// readRuns reads only the runs of missing pieces. first is the answer for the first run.
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

// submit waits for a slot and passes a piece to the goroutines that hash, write and
// announce it.
func (r *reading) submit(ctx context.Context, b *buffer) error {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	b.users.Store(2) // the hasher and the goroutine below
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
	return source.Wrong("the source changed: piece %d differs from the existing one", num)
}

// maxRead bounds a read, in bytes, if there is a bandwidth limit.
const maxRead = 64 << 10

// fill reads into dst until it is full or the content ends. offset is the offset of dst in
// the content, from which on an interrupted download is resumed.
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
				return n, false, fmt.Errorf("waiting for the bandwidth limit: %w", waitErr)
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
			n = 0 // the new answer begins at the start of the piece
		}
	}
	return n, false, nil
}

// checkOwnership returns STALE_EPOCH if this instance does not own the task any more. It
// asks the store only after a pause of PauseLimit, because another CDN may have taken the
// task over while this process was suspended. If the store does not answer, the fetch
// continues.
func (r *reading) checkOwnership(ctx context.Context) error {
	paused := time.Since(r.lastRead)
	r.lastRead = time.Now()
	if r.job.Epoch == 0 || r.options.StillOwner == nil || paused < r.options.PauseLimit {
		return nil
	}
	isOwner, err := r.options.StillOwner(ctx, r.id, r.job.Epoch)
	r.lastRead = time.Now() // the call itself is not a pause
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		r.log.Warn("cannot check the ownership of the task after a pause; continuing the fetch",
			zap.Duration("pause", paused), zap.Error(err))
	case !isOwner:
		r.log.Info("another CDN has taken the task over during a pause; stopping the fetch", zap.Duration("pause", paused))
		return errNotOwner()
	}
	return nil
}

func errNotOwner() error {
	return rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "another CDN owns the task")
}

// resume requests the content from offset on and replaces the body by the answer. cause is
// the error that interrupted the download, or nil if the content was not requested yet.
//
// If the source has another version now, or interrupts the download too often, resume
// returns SOURCE_BROKEN. If the source stops answering, resume returns SOURCE_UNREACHABLE.
// The partial copy is kept unless the source has changed or cannot resume.
func (r *reading) resume(ctx context.Context, offset int64, cause error) error {
	if r.requestFrom == nil {
		return source.Broken("%v at byte %d or later, and the source cannot resume there", cause, offset)
	}
	if offset != r.resumeOffset {
		r.attempts, r.resumeOffset = 0, offset
	}
	for cause == nil || r.attempts < maxAttempts || source.Transient(cause) && r.attempts < maxRefusals {
		if cause != nil {
			delay := r.options.RetryDelay << r.attempts
			r.attempts++
			r.log.Warn("the download from the source was interrupted; resuming it", zap.Error(cause),
				zap.Int64("offset", offset), zap.Int("attempt", r.attempts))
			// The jitter is half of the delay, because many fetches may be interrupted at once.
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
		return fmt.Errorf("resuming at byte %d, after %d attempts: %w", offset, r.attempts, cause)
	}
	return fmt.Errorf("%w: %w", errCutOff, source.Broken("%v at byte %d or later, after %d attempts to resume", cause, offset, r.attempts))
}

// sleep blocks for the delay. It returns the cause if ctx ends before.
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
