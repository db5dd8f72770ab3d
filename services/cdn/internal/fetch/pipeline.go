package fetch

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn/internal/source"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// take turns the source's answer into the task.
func (f *Fetcher) take(
	ctx context.Context, log *zap.Logger, id task.ID, spec *source.Spec,
	session *source.Session, res *source.Response, sink Sink,
) error {
	content, err := f.store.Create(id)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }() // sealed already, or of no use
	facts := sink.Settle(task.Facts{
		Length: res.Length, PieceSize: piece.SizeFor(res.Length), ETag: res.ETag, LastModified: res.LastModified,
	})
	sink.Begin(content)
	log.Info("fetching from the source", zap.Int64("length", facts.Length), zap.Int32("piece_size", facts.PieceSize))
	began := time.Now()

	p := &pipeline{
		Fetcher: f, log: log, session: session, first: res, body: res,
		content: content, sink: sink, size: facts.PieceSize, whole: md5.New(),
	}
	defer p.close()
	result, err := p.run(ctx)
	if err != nil {
		return err
	}
	if spec.MD5 != "" && spec.MD5 != result.MD5 {
		return mismatch(result.MD5, spec.MD5)
	}
	err = content.Seal(store.Meta{
		TaskID: string(id), URL: spec.Address(), PieceSize: facts.PieceSize,
		HTTPFileLen: result.Length, FileLength: result.Length + int64(result.PieceCount)*piece.WrapLength,
		AccessTime: time.Now().UnixMilli(), MD5: spec.MD5, RealMD5: result.MD5,
		LastModified: store.Milliseconds(facts.LastModified), ETag: facts.ETag,
	}, p.pieces)
	if err != nil {
		return err
	}
	sink.Finish(result)
	log.Info("fetched", zap.Int64("length", result.Length), zap.Duration("took", time.Since(began)))
	return nil
}

// pipeline is one fetch under way. One goroutine reads and cuts, one computes
// the MD5 of the whole in order, and for every piece one computes its MD5,
// writes and announces it. A piece holds one of the Fetcher's slots until all
// of that is done, which is what slows the reading down to the slowest of them.
type pipeline struct {
	*Fetcher
	log      *zap.Logger
	session  *source.Session
	first    *source.Response
	body     *source.Response // first, or what continues it
	attempts int              // to go on at resumed
	resumed  int64            // where the content was cut off last
	content  *store.Content
	sink     Sink
	size     int32
	whole    hash.Hash // of the hashing goroutine until it has ended

	mu     sync.Mutex
	pieces []task.Piece // in landing order; guarded by mu
}

func (p *pipeline) close() {
	if p.body != p.first {
		p.body.Close() // first is the caller's
	}
}

func (p *pipeline) run(ctx context.Context) (task.Result, error) {
	work, ctx := errgroup.WithContext(ctx)
	// When a piece cannot be written, the reader may be waiting for the source.
	stop := context.AfterFunc(ctx, func() { p.first.Cancel(context.Cause(ctx)) })
	defer stop()

	// A slot is taken before a piece is sent here, so that sending never waits.
	inOrder := make(chan *buffer, cap(p.slots))
	work.Go(func() error {
		for b := range inOrder {
			p.whole.Write(b.content())
			p.release(b)
		}
		return nil
	})
	length, count, err := p.cut(ctx, func(b *buffer) {
		inOrder <- b
		work.Go(func() error {
			defer p.release(b)
			return p.land(b)
		})
	})
	close(inOrder)
	if landErr := work.Wait(); landErr != nil {
		return task.Result{}, landErr // it ended the reading, so it came first
	}
	if err != nil {
		return task.Result{}, err
	}
	if p.first.Length >= 0 && length != p.first.Length {
		return task.Result{}, brokenLength(length, p.first.Length)
	}
	return task.Result{MD5: hex.EncodeToString(p.whole.Sum(nil)), Length: length, PieceCount: count}, nil
}

// cut reads the content to its end and hands it on piece by piece.
func (p *pipeline) cut(ctx context.Context, hand func(*buffer)) (length int64, count int32, err error) {
	for ended := false; !ended; {
		room := int64(math.MaxInt64)
		if p.first.Length >= 0 {
			// One byte more than announced, so that the source's end is seen.
			room = p.first.Length - length + piece.WrapLength + 1
		}
		b := p.buffers.get(p.size, room)
		var n int
		n, ended, err = p.fill(ctx, b.content(), length)
		if err != nil {
			p.buffers.put(b)
			return length, count, err
		}
		if n == 0 && count > 0 { // the content ended with the piece before
			p.buffers.put(b)
			break
		}
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return length, count, context.Cause(ctx)
		}
		b.seal(count, n)
		b.users.Store(2) // the whole's MD5 and the landing
		hand(b)
		length += int64(n)
		count++
	}
	return length, count, nil
}

// land makes a piece readable for everybody.
func (p *pipeline) land(b *buffer) error {
	sum := md5.Sum(b.data)
	if err := p.content.WriteAt(b.data, int64(b.num)*int64(p.size)); err != nil {
		return err
	}
	landed := task.Piece{Num: b.num, MD5: hex.EncodeToString(sum[:]), Length: int32(len(b.data))}
	p.mu.Lock()
	p.pieces = append(p.pieces, landed)
	p.mu.Unlock()
	p.sink.Land(landed)
	return nil
}

func (p *pipeline) release(b *buffer) {
	if b.users.Add(-1) == 0 {
		p.buffers.put(b)
		<-p.slots
	}
}

// readAtMost is how much is read between two looks at the bandwidth limit.
const readAtMost = 64 << 10

// fill reads into dst until it is full or the content ends. offset is where in
// the content dst begins: there a source that was cut off is asked to go on.
func (p *pipeline) fill(ctx context.Context, dst []byte, offset int64) (n int, ended bool, err error) {
	for n < len(dst) {
		part := dst[n:]
		if p.limiter != nil && len(part) > readAtMost {
			part = part[:readAtMost]
		}
		m, err := p.body.Read(part)
		n += m
		p.metrics.bytes.Add(float64(m))
		if p.limiter != nil && m > 0 {
			if waitErr := p.limiter.WaitN(ctx, m); waitErr != nil && ctx.Err() == nil {
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
			if err := p.resume(ctx, offset, err); err != nil {
				return n, false, err
			}
			n = 0 // the piece is read again from its start
		}
	}
	return n, false, nil
}
