package task

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// abandonedTTL is how long a pull is remembered behind its time that nobody waited
// for: together that is about as long as a client gives a call.
const abandonedTTL = 2 * time.Second

// Outcome is how a piece ended at the peer that pulls.
type Outcome int

// The outcomes.
const (
	NoReport    Outcome = iota // nothing is said of any piece
	Written                    // it is on the peer's disk
	SemiSuccess                // it is at the peer and will be written now
	Failed                     // it could not be had
)

// Stage is where the peer says that it is.
type Stage int

// The stages.
const (
	Running Stage = iota
	Started
	Finished
)

// Pull is a peer's report on one piece, and its wish for more.
type Pull struct {
	PeerID  string
	Stage   Stage
	Outcome Outcome
	// Num and Size are the piece that Outcome is about, From where it came from.
	Num, Size int32
	From      string
	// MaxWait is how long the pull may be held.
	MaxWait time.Duration
	// Adopt has the peer taken in if it is not known and another scheduler had
	// the task before: nobody knows its registration. It may fetch, and nobody is
	// sent to it.
	Adopt bool
}

// Answer is one of: offers, the result, or neither: wait.
type Answer struct {
	// Offers are what to fetch.
	Offers []swarm.Offer
	// Result is the whole task, which the peer has.
	Result *swarm.Result
	// PieceSize is the wrapped size of a piece in bytes.
	PieceSize int32
}

// pull is a pull that is held.
type pull struct {
	Pull
	until      time.Time
	superseded bool           // by another one of the peer
	reply      chan pullReply // has room for the one reply
}

// sameRequest tells whether a pull says and asks the same as another one.
func (p *pull) sameRequest(other *pull) bool {
	return p.PeerID == other.PeerID && p.Stage == other.Stage && p.Outcome == other.Outcome &&
		p.Num == other.Num && p.Size == other.Size && p.From == other.From
}

type pullReply struct {
	answer Answer
	err    error
}

// Pull takes the report and answers as soon as there is something to give, or
// when the pull has been held for long enough.
func (t *Task) Pull(ctx context.Context, req Pull) (Answer, error) {
	p := &pull{Pull: req, reply: make(chan pullReply, 1)}
	err := t.do(ctx, func() error { return t.accept(p) })
	switch {
	case err == nil:
		select {
		case r := <-p.reply:
			return r.answer, r.err
		case <-t.ended:
			return Answer{}, errEnded
		case <-ctx.Done():
		}
	case ctx.Err() == nil:
		return Answer{}, err
	}
	// Nobody listens any more: what may have been given, or is going to be when
	// the loop comes to it, is taken back. The loop does that on its own
	// account; if it has ended there is nothing to do.
	select {
	case t.calls <- func() { t.abandon(p) }:
	case <-t.ended:
	}
	return Answer{}, ctx.Err()
}

func (t *Task) accept(p *pull) error {
	now := time.Now()
	t.markUsed()
	if err := t.admit(p.PeerID); err != nil {
		return err
	}
	err := t.swarm.Seen(p.PeerID, now)
	if p.Adopt && t.restored && errors.Is(err, swarm.ErrNoPeer) {
		t.swarm.AddPeer(swarm.PeerInfo{ID: p.PeerID}, now)
		err = nil
	}
	if err != nil {
		return t.rpcError(err)
	}
	if p.Stage == Started {
		if err := t.swarm.Restarted(p.PeerID); err != nil {
			return t.rpcError(err)
		}
	}
	// A client that was sent here from elsewhere tells with its first pull of a
	// piece from there. It may be cut otherwise here: then that is no news, and
	// an error would only send the client on.
	if err := t.report(p, now); err != nil && (p.Stage != Started || !errors.Is(err, swarm.ErrNoPiece)) {
		if err := t.rpcError(err); err != nil {
			return err
		}
	}
	p.until = t.holdDeadline(p, now)
	// A peer pulls one after another: an earlier pull that is still held is
	// one that it has given up.
	t.held = slices.DeleteFunc(t.held, func(old *pull) bool {
		if old.PeerID != p.PeerID {
			return false
		}
		old.superseded = true
		old.reply <- pullReply{}
		return true
	})
	if p.Stage == Finished && p.Outcome != Written {
		if err := t.swarm.Down(p.PeerID, now); err != nil {
			return t.rpcError(err)
		}
		p.reply <- pullReply{}
		return nil
	}
	t.held = append(t.held, p)
	return nil
}

// holdDeadline is until when a pull may be held. Behind a balancer a client whose
// gateway dies asks the same again at another one, and gives both together no
// more time than it gives one: what it has waited counts.
func (t *Task) holdDeadline(p *pull, now time.Time) time.Time {
	until := now.Add(p.MaxWait)
	bound := func(old *pull) {
		if old.sameRequest(p) && old.until.Before(until) {
			until = old.until
		}
	}
	for _, old := range t.held {
		bound(old)
	}
	t.abandoned = slices.DeleteFunc(t.abandoned, func(old *pull) bool {
		if expired := now.Sub(old.until) > abandonedTTL; expired {
			return true
		}
		bound(old)
		return old.PeerID == p.PeerID
	})
	return until
}

func (t *Task) report(p *pull, now time.Time) error {
	if p.Size == 0 {
		return nil
	}
	switch p.Outcome {
	case Written:
		return t.swarm.Written(p.PeerID, p.Num, p.Size, now)
	case SemiSuccess:
		return t.swarm.SemiSuccess(p.PeerID, p.Num, p.Size, now)
	case Failed:
		isNew, err := t.swarm.Failed(p.PeerID, p.Num, p.Size, p.From, now)
		if !isNew {
			return err
		}
		if swarm.IsCDN(p.From) {
			notify(t.copySuspected)
		}
		t.deps.Stats.failed(p.From)
		return err
	}
	return nil
}

// answerHeld answers what can be answered, the longest held first.
func (t *Task) answerHeld(now time.Time) {
	t.held = slices.DeleteFunc(t.held, func(p *pull) bool {
		reply, ready := t.tryAnswer(p, now)
		if ready {
			p.reply <- reply
		}
		return ready
	})
}

func (t *Task) tryAnswer(p *pull, now time.Time) (pullReply, bool) {
	if t.swarm.Finished(p.PeerID) {
		result, _ := t.swarm.Result()
		return pullReply{answer: Answer{Result: &result}}, true
	}
	if t.err != nil {
		return pullReply{err: t.err}, true
	}
	facts, _ := t.swarm.Facts()
	if offers := t.swarm.Offer(p.PeerID, now); len(offers) > 0 {
		t.deps.Stats.offered(offers)
		return pullReply{answer: Answer{Offers: offers, PieceSize: facts.PieceSize}}, true
	}
	if now.Before(p.until) {
		return pullReply{}, false
	}
	return pullReply{answer: Answer{Offers: t.swarm.Reoffer(p.PeerID, now), PieceSize: facts.PieceSize}}, true
}

// abandon takes back what was given to a pull that nobody waits for any more.
func (t *Task) abandon(p *pull) {
	t.held = slices.DeleteFunc(t.held, func(held *pull) bool { return held == p })
	if !p.superseded && !p.until.IsZero() {
		t.abandoned = append(t.abandoned, p)
	}
	select {
	case r := <-p.reply:
		t.swarm.Undelivered(p.PeerID, r.answer.Offers)
	default:
	}
}

// releaseHeld lets every held pull go with err.
func (t *Task) releaseHeld(err error) {
	for _, p := range t.held {
		p.reply <- pullReply{err: err}
	}
	t.held = nil
	for _, c := range t.factWaiters {
		close(c)
	}
	t.factWaiters = nil
}
