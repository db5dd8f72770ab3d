package peer

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/httpconn"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/record"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/wire"
	"github.com/supernode-ha/supernode/test/pace"
)

const (
	reportAttempts = 3
	// maxNotices bounds how many reports can end a later sleep.
	maxNotices = 1 << 20
)

type reportKind uint8

const (
	reportWritten reportKind = iota
	reportWrong
)

// report is a call beside the pulls.
type report struct {
	kind  reportKind
	lie   bool
	piece wire.Piece
	from  string
}

// reports are the calls beside the pulls. A goroutine sends them one after the
// other; it exists while there are any.
type reports struct {
	conn    *httpconn.Conn // the goroutine's, and behind its end the peer's
	buffer  []byte         // the same
	notices chan struct{}  // a piece was reported as written: ends a sleep
	sending sync.WaitGroup

	mu      sync.Mutex // guards what follows
	waiting []report
	busy    bool
	closed  bool
}

func newReports(address string) reports {
	return reports{conn: httpconn.New(address), notices: make(chan struct{}, maxNotices)}
}

// put queues a report, and starts send if it does not run. It returns false if the
// download has ended.
func (r *reports) put(one report, send func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.waiting = append(r.waiting, one)
	if !r.busy {
		r.busy = true
		r.sending.Go(send)
	}
	return true
}

// take returns the next report to send.
func (r *reports) take() (report, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 {
		r.busy = false
		return report{}, false
	}
	one := r.waiting[0]
	r.waiting = append(r.waiting[:0], r.waiting[1:]...) // there are few
	return one, true
}

// finish waits until all reports are sent, cancel drops those that are not under
// way. After either there are no more.
func (r *reports) finish() { r.close(false) }
func (r *reports) cancel() { r.close(true) }

func (r *reports) close(drop bool) {
	r.mu.Lock()
	r.closed = true
	if drop {
		r.waiting = nil
	}
	r.mu.Unlock()
	r.sending.Wait()
	r.conn.Close()
}

func (p *Peer) sendReports(ctx context.Context) {
	for {
		one, more := p.reports.take()
		if !more {
			return
		}
		p.sendReport(ctx, one)
	}
}

// sendReport sends a report three times at most. Any answer with status 200 will
// do for dfget. One that lies is sent once, and may be refused.
func (p *Peer) sendReport(ctx context.Context, one report) {
	r, kind := &p.reports, record.Report
	if one.kind == reportWrong {
		r.buffer = p.out.Wrong(r.buffer[:0], p.taskID, p.id.cid, one.from, one.piece)
		kind = record.Other
	} else {
		r.buffer = p.out.Written(r.buffer[:0], p.taskID, p.id.cid, one.from, one.piece)
	}
	for range reportAttempts {
		answer, err := r.conn.Do(ctx, r.buffer)
		if err == nil {
			p.deps.Record.Call(kind, answer.Took)
		}
		if one.lie || ctx.Err() != nil {
			return
		}
		if err == nil && answer.Status == http.StatusOK {
			if one.kind == reportWritten {
				select {
				case r.notices <- struct{}{}:
				default:
				}
			}
			return
		}
		p.deps.Record.Refused.Add(1)
		if one.kind == reportWrong || !pace.Pause(ctx, 50*time.Millisecond+rand.N(500*time.Millisecond)) { //nolint:gosec // a pause
			return
		}
	}
}
