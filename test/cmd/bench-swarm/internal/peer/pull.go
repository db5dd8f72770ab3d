package peer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/record"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/wire"
)

const (
	idlePoll   = 2 * time.Second
	firstSleep = 50 * time.Millisecond // up to twice that
	lastSleep  = 800 * time.Millisecond
	// mergeAbove is the number of downloads above which a semi-success is not
	// reported by itself.
	mergeAbove = 2
)

// errStuck is returned where dfget waits until the whole download times out.
var errStuck = errors.New("nothing is under way, and there is nothing to report: dfget would hang")

// codeError is an answer to a pull that makes dfget leave the server.
type codeError struct{ code int }

func (e *codeError) Error() string { return fmt.Sprintf("a pull was answered %d", e.code) }

// pullAll reports and asks for pieces until the server says that there are no more.
func (p *Peer) pullAll(ctx context.Context) error {
	p.queue.put(item{status: wire.StatusStart, result: wire.ResultInvalid})
	for {
		report, err := p.nextReport(ctx)
		if err != nil {
			return err
		}
		if p.crashes() {
			p.pulls.Abandon(ctx, p.pullRequest(report))
			return ErrCrashed
		}
		code, err := p.pull(ctx, report)
		if err != nil {
			return err
		}
		switch code {
		case wire.CodeContinue:
			if err := p.start(ctx, p.answer.Offers); err != nil {
				return err
			}
		case wire.CodeFinished:
			if arrived := int(p.arrived.Load()); arrived < len(p.pieces) && !p.cfg.Lies {
				return fmt.Errorf("the server says that the peer has all pieces, and it has %d of %d", arrived, len(p.pieces))
			}
			return nil
		}
	}
}

// crashes reports whether the peer crashes with its next pull.
func (p *Peer) crashes() bool {
	after := max(1, int32(p.cfg.CrashAfter*float64(len(p.pieces))))
	return p.cfg.CrashAfter > 0 && p.arrived.Load() >= after
}

// nextReport returns what the next pull reports. A start or a failure is reported
// at once. A semi-success is held back, and replaced by the next one, while more
// are waiting or more than two downloads run.
func (p *Peer) nextReport(ctx context.Context) (item, error) {
	var held item
	holds := false
	for {
		it, got := p.queue.poll(ctx, idlePoll)
		switch {
		case ctx.Err() != nil:
			return item{}, context.Cause(ctx)
		case got:
			p.account(it)
			held, holds = it, true
		case !holds && p.running == 0:
			return item{}, errStuck
		case !holds:
			continue
		}
		mayMerge := got && held.result == wire.ResultSemi
		if !mayMerge || p.queue.size() == 0 && p.running <= mergeAbove {
			return held, nil
		}
	}
}

// account records that a download has ended.
func (p *Peer) account(it item) {
	if it.piece.Size == 0 || it.repeated {
		return
	}
	p.running--
	p.pieces[it.piece.Num] = missing
	if it.result == wire.ResultSemi {
		p.pieces[it.piece.Num] = present
	}
}

// pull reports an item. A peer that lies may report something else in its place,
// or first, if the server refuses that.
func (p *Peer) pull(ctx context.Context, it item) (int, error) {
	if p.cfg.Lies {
		if lie, lies := p.lie(ctx, it); lies {
			code, err := p.pullUntilAnswered(ctx, lie)
			var refused *codeError
			if !errors.As(err, &refused) {
				return code, err
			}
		}
	}
	return p.pullUntilAnswered(ctx, it)
}

// pullUntilAnswered pulls, and sleeps after each 602. It returns 602 only if there
// is more to report. A code on which dfget leaves the server is an error.
func (p *Peer) pullUntilAnswered(ctx context.Context, it item) (int, error) {
	for {
		code, err := p.pullOnce(ctx, it)
		if err != nil {
			return 0, err
		}
		switch code {
		case wire.CodeContinue, wire.CodeFinished, wire.CodeLimited, wire.CodeSuccess:
			return code, nil
		case wire.CodeWait:
		default:
			return 0, &codeError{code: code}
		}
		if p.queue.size() > 0 {
			return code, nil
		}
		if err := p.rest(ctx); err != nil {
			return 0, err
		}
	}
}

func (p *Peer) pullOnce(ctx context.Context, it item) (int, error) {
	began := time.Now()
	answer, err := p.pulls.Do(ctx, p.pullRequest(it))
	code := answer.Status
	if err == nil && code == http.StatusOK {
		err = p.answer.Read(answer.Body)
		code = p.answer.Code
	}
	if err != nil {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		p.deps.Record.Pull(record.NoAnswer, time.Since(began))
		return 0, fmt.Errorf("pulling: %w", err)
	}
	p.deps.Record.Pull(code, answer.Took)
	return code, nil
}

func (p *Peer) pullRequest(it item) []byte {
	p.buffer = p.out.Pull(p.buffer[:0], wire.Pull{
		TaskID: p.taskID, Cid: p.id.cid, From: it.from, Piece: it.piece, Result: it.result, Status: it.status,
	})
	return p.buffer
}

// rest sleeps after a 602, longer each time. A piece that was reported as written
// ends the sleep; reports that were made while the peer did not sleep count.
func (p *Peer) rest(ctx context.Context) error {
	timer := time.NewTimer(p.minSleep + time.Duration(p.random.Int64N(int64(p.minSleep))))
	defer timer.Stop()
	if p.minSleep < lastSleep {
		p.minSleep *= 2
	}
	select {
	case <-timer.C:
		return nil
	case <-p.reports.notices:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
