package peer

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	idlePoll     = 2 * time.Second
	firstSleep   = 50 * time.Millisecond // up to twice that
	lastSleep    = 800 * time.Millisecond
	mergeAbove   = 2 // pieces under way
	maxNotices   = 1 << 20
	writeQueue   = 6
	failurePause = 20 * time.Millisecond
)

// session is one download through the cluster: the loop that pulls, and what
// it shares with the pieces under way, the writer and the reports.
type session struct {
	p         *Peer
	api       *api
	registrar *registrar
	first     registration // the one the download began with
	limiter   *rate.Limiter
	workers   *sync.WaitGroup

	queue   *queue
	writes  chan writeOrder
	notices chan struct{} // a piece was reported: ends a sleep
	broken  atomic.Bool   // a piece could not be written

	// The loop's own.
	sizes    [2]int32 // piece size in use, and of the latest registration
	pieces   map[string]bool
	minSleep time.Duration
	md5      string

	mu     sync.Mutex // guards node, taskID and the routes of items
	node   string
	taskID string
}

func newSession(p *Peer, calls *api, r *registrar, reg registration, workers *sync.WaitGroup) *session {
	s := &session{
		p: p, api: calls, registrar: r, first: reg, workers: workers,
		queue:   newQueue(),
		writes:  make(chan writeOrder, writeQueue),
		notices: make(chan struct{}, maxNotices),
		sizes:   [2]int32{reg.PieceSize, reg.PieceSize},
		pieces:  make(map[string]bool), minSleep: firstSleep,
		node: reg.node, taskID: reg.TaskID, md5: p.cfg.MD5,
	}
	if limit := p.cfg.LocalLimit; limit > 0 {
		s.limiter = rate.NewLimiter(rate.Limit(limit), max(int(limit/20), readStep))
	}
	s.queue.put(&item{node: s.node, taskID: s.taskID, status: statusStart, result: resultInvalid})
	return s
}

// route is where the download is now.
func (s *session) route() (node, taskID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node, s.taskID
}

// loop pulls until the task is finished. Like dfget it hangs, until the
// context ends, when an answer leaves it with nothing to say.
func (s *session) loop(ctx context.Context) error {
	var held *item
	for ctx.Err() == nil {
		var ready bool
		if ready, held = s.nextReport(ctx, held); !ready {
			continue
		}
		report := *held
		held = nil
		code, data, err := s.pull(ctx, &report)
		switch {
		case err != nil:
			return err
		case code == codeContinue:
			offers, err := parseOffers(data)
			if err != nil {
				return err
			}
			s.start(ctx, &report, offers)
		case code == codeFinish:
			return s.finish(ctx, data)
		case code == codeWait:
			continue
		}
		if s.broken.Load() {
			return errWrite
		}
	}
	return context.Cause(ctx)
}

func (s *session) finish(ctx context.Context, data []byte) error {
	if s.md5 == "" {
		f, err := parseFinished(data)
		if err != nil {
			return err
		}
		s.md5 = f.MD5
	}
	return s.flush(ctx)
}

// nextReport takes the next thing to tell from the queue. It gives it at once
// when it is a start or a failure; a semi-success is held back, and replaced
// by the next one, while more are waiting or more than two pieces run.
func (s *session) nextReport(ctx context.Context, held *item) (bool, *item) {
	merge := true
	if it := s.queue.poll(ctx, idlePoll); it == nil {
		merge = false
	} else {
		if it.size != 0 && it.size != s.sizes[1] {
			return false, held // cut for a piece size that is no more
		}
		s.reroute(it)
		if it.pieceRange != "" && !s.account(it) {
			return false, held
		}
		held = it
	}
	if held == nil || ctx.Err() != nil {
		return false, held
	}
	if held.result != resultSemi {
		merge = false
	}
	if merge && (s.queue.size() > 0 || s.running() > mergeAbove) {
		return false, held
	}
	return true, held
}

// reroute sends what was begun at another node to the present one, which
// cannot know whom the piece came from.
func (s *session) reroute(it *item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if it.node != s.node {
		it.dstCid, it.node, it.taskID = "", s.node, s.taskID
	}
}

// account notes that a piece has arrived or failed. It is false for one that
// is neither under way nor here.
func (s *session) account(it *item) bool {
	here, known := s.pieces[it.pieceRange]
	switch {
	case !known:
		return false
	case here:
	case it.result == resultSemi || it.result == resultSuccess:
		s.pieces[it.pieceRange] = true
	default:
		delete(s.pieces, it.pieceRange)
	}
	return true
}

func (s *session) running() int {
	n := 0
	for _, here := range s.pieces {
		if !here {
			n++
		}
	}
	return n
}

// pull tells the report and gets an answer that is not an error, migrating as
// often as that takes. 602 is given only when there is more to tell.
func (s *session) pull(ctx context.Context, report *item) (int, []byte, error) {
	for {
		code, data, err := s.pullHere(ctx, report)
		if ctx.Err() != nil {
			return 0, nil, context.Cause(ctx)
		}
		if errors.Is(err, ErrDies) {
			return 0, nil, err
		}
		if err == nil {
			switch code {
			case codeContinue, codeFinish, codeLimited, codeSuccess, codeWait:
				return code, data, nil
			}
		}
		// All else migrates, 610 too: dfget looks at that code only after the
		// list of nodes is used up, and then it does not matter any more.
		reg, err := s.registrar.register(ctx)
		if err != nil {
			return 0, nil, err
		}
		s.sizes[1] = reg.PieceSize
		// The range, the result and dstCid stay. The loop's own node stays
		// the old one until pieces are offered: whatever else is reported
		// before that goes to the old node.
		report.status, report.node, report.taskID = statusStart, reg.node, reg.TaskID
		s.p.rec.migrated(reg.node)
	}
}

// pullHere pulls from one node, sleeping after every 602.
func (s *session) pullHere(ctx context.Context, report *item) (int, []byte, error) {
	for {
		began := time.Now()
		body, err := s.api.get(ctx, report.node, "/peer/task", pullQuery(s.p.cid, report))
		var code int
		var data []byte
		if err == nil {
			code, data, err = parseEnvelope(body)
		}
		if ctx.Err() == nil {
			s.p.rec.pulled(report, code, err, time.Since(began))
		}
		if err != nil || code != codeWait || s.queue.size() > 0 {
			return code, data, err
		}
		if err := s.rest(ctx); err != nil {
			return 0, nil, err
		}
	}
}

// rest sleeps after a 602, longer each time, and is woken by a piece that was
// reported. Notices that came while nothing slept are not forgotten.
func (s *session) rest(ctx context.Context) error {
	began := time.Now()
	timer := time.NewTimer(s.minSleep + rand.N(s.minSleep))
	defer timer.Stop()
	defer func() { s.p.rec.slept(time.Since(began)) }()
	if s.minSleep < lastSleep {
		s.minSleep *= 2
	}
	select {
	case <-timer.C:
		return nil
	case <-s.notices:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// start begins the pieces offered. One that is here already is only told
// again, one that is under way is ignored.
func (s *session) start(ctx context.Context, report *item, offers []*offer) {
	s.refresh(ctx, report)
	node, taskID := s.route()
	for _, o := range offers {
		here, known := s.pieces[o.Range]
		s.p.rec.offered(o, known, here)
		switch {
		case here:
			s.queue.put(&item{
				node: node, taskID: taskID, dstCid: o.Cid, pieceRange: o.Range,
				result: resultSemi, status: statusRunning,
			})
		case !known:
			s.pieces[o.Range] = false
			s.workers.Go(func() { s.fetch(ctx, o, node, taskID) })
		}
	}
}

// refresh takes over the node that has answered, and begins anew when it cuts
// pieces of another size.
func (s *session) refresh(ctx context.Context, report *item) {
	if s.sizes[0] != s.sizes[1] {
		s.sizes[0] = s.sizes[1]
		s.write(ctx, writeOrder{reset: true})
		clear(s.pieces)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.node != report.node {
		s.node, s.taskID = report.node, report.taskID
	}
}
