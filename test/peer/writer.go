package peer

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/supernode-ha/supernode/pkg/piece"
)

const reportAttempts = 3

var errWrite = errors.New("a piece could not be written")

// writeOrder is what the writer is told, in the order of arrival: write a
// piece, throw the file away, or say that all before is done.
type writeOrder struct {
	piece   *item
	content *bytes.Buffer // wrapped; goes back when it is written
	reset   bool
	done    chan<- struct{}
}

// write waits while the writer is behind, as the piece that arrived does.
func (s *session) write(ctx context.Context, order writeOrder) {
	select {
	case s.writes <- order:
	case <-ctx.Done():
	}
}

// flush waits until everything that arrived is in the file.
func (s *session) flush(ctx context.Context) error {
	done := make(chan struct{})
	s.write(ctx, writeOrder{done: done})
	select {
	case <-done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if s.broken.Load() {
		return errWrite
	}
	return nil
}

// writer puts pieces into the file one after the other, and lets each be
// reported when it is there. It ends with the context.
func (s *session) writer(ctx context.Context, file *os.File) {
	written := 0
	for {
		var order writeOrder
		select {
		case order = <-s.writes:
		case <-ctx.Done():
			return
		}
		switch {
		case order.done != nil:
			close(order.done)
		case order.reset:
			if file.Truncate(0) != nil {
				s.broken.Store(true)
			}
		case s.broken.Load():
		default:
			if err := s.writePiece(ctx, file, order.piece, order.content); err != nil {
				s.broken.Store(true)
				s.p.rec.tell(Event{Kind: Failed, Piece: order.piece.num, Range: order.piece.pieceRange, Err: err})
				continue
			}
			written++
			if written == s.p.cfg.Faults.CrashAfter {
				s.p.Vanish()
				return
			}
			s.workers.Go(func() { s.report(ctx, order.piece) })
		}
	}
}

func (s *session) writePiece(ctx context.Context, file *os.File, it *item, buffer *bytes.Buffer) error {
	faults := &s.p.cfg.Faults
	if faults.BeforeWrite != nil {
		faults.BeforeWrite(ctx, it.num)
	}
	if err := sleep(ctx, faults.WriteDelay); err != nil {
		return err
	}
	content := buffer.Bytes()
	if !s.fromSource() {
		if len(content) < piece.WrapLength {
			return fmt.Errorf("piece %d has %d bytes: %w", it.num, len(content), piece.ErrFormat)
		}
		// Head and tail are not looked at: the MD5 was the check.
		content = content[piece.HeadLength : len(content)-1]
	}
	_, err := file.WriteAt(content, int64(it.num)*(int64(it.size)-int64(s.wrapLength())))
	s.p.cfg.Buffers.put(buffer)
	if err != nil {
		return fmt.Errorf("writing piece %d: %w", it.num, err)
	}
	s.p.rec.tell(Event{Kind: Written, Piece: it.num, Range: it.pieceRange})
	return nil
}

// report says that a piece is there, three times at most. Any answer that can
// be read will do, whatever its code.
func (s *session) report(ctx context.Context, it *item) {
	if s.p.loseReport() {
		s.p.rec.tell(Event{Kind: ReportLost, Piece: it.num, Range: it.pieceRange})
		return
	}
	s.mu.Lock()
	arguments := query("taskId", it.taskID, "cid", s.p.cid, "dstCid", it.dstCid, "pieceRange", it.pieceRange)
	s.mu.Unlock()
	for range reportAttempts {
		s.mu.Lock()
		node := it.node
		s.mu.Unlock()
		body, err := s.api.get(ctx, node, "/peer/piece/suc", arguments)
		code := 0
		if err == nil {
			code, err = parseCode(body)
		}
		if ctx.Err() != nil {
			return
		}
		s.p.rec.tell(Event{Kind: Reported, Node: node, Piece: it.num, Range: it.pieceRange, Code: code, Err: err})
		if err == nil {
			select {
			case s.notices <- struct{}{}:
			default:
			}
			return
		}
		if sleep(ctx, 50*time.Millisecond+rand.N(500*time.Millisecond)) != nil {
			return
		}
	}
}

// sumFile gives the length and the MD5 of a file.
func sumFile(path string) (int64, string, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, "", fmt.Errorf("opening the downloaded file: %w", err)
	}
	defer file.Close() //nolint:errcheck // only read
	sum := md5.New()
	n, err := io.Copy(sum, file)
	if err != nil {
		return 0, "", fmt.Errorf("reading the downloaded file: %w", err)
	}
	return n, hex.EncodeToString(sum.Sum(nil)), nil
}
