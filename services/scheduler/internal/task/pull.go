package task

import (
	"context"
	"errors"
	"time"

	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// Outcome is the result of a download, as a pull reports it.
type Outcome int

// The outcomes.
const (
	NoReport    Outcome = iota // the pull reports no piece
	Written                    // the piece is on the peer's disk
	SemiSuccess                // the piece is downloaded but not written yet
	Failed                     // the download failed
)

// Stage is the phase of the peer's download, as a pull reports it.
type Stage int

// The stages.
const (
	Running Stage = iota
	Started
	Finished
)

// Pull is a peer's report on one piece and its request for more.
type Pull struct {
	PeerID  string
	Stage   Stage
	Outcome Outcome
	// Num and Size identify the piece that Outcome is about, and From its source.
	Num, Size int32
	From      string
	// MaxWait is the maximum time for which the pull is held.
	MaxWait time.Duration
	// Adopt makes a restored task add the peer if it is unknown, since no gateway
	// has its registration any more, unless the task is full. An adopted peer may download. As its address
	// is unknown, it is not offered as a source.
	Adopt bool
}

// Answer holds either offers or the result. If it holds neither, the peer must
// wait and pull again.
type Answer struct {
	// Offers are the pieces to download.
	Offers []swarm.Offer
	// Result describes the complete content. It is set once the peer has all pieces.
	Result *swarm.Result
	// PieceSize is the wrapped size of a piece in bytes.
	PieceSize int32
}

// pull is a Pull that is being processed or held.
type pull struct {
	Pull
	until      time.Time
	superseded bool           // by a newer pull of the peer
	reply      chan pullReply // buffered: there is exactly one reply
}

// sameRequest reports whether two pulls are the same request of one peer.
func (p *pull) sameRequest(other *pull) bool {
	return p.PeerID == other.PeerID && p.Stage == other.Stage && p.Outcome == other.Outcome &&
		p.Num == other.Num && p.Size == other.Size && p.From == other.From
}

type pullReply struct {
	answer     Answer
	err        error
	superseded bool
}

// supersededDelay is the time after which a superseded pull returns. A dfget has
// cut off such a pull before it sends the next one, so it loses nothing. A client
// that pulls in parallel without pause would otherwise get thousands of answers a
// second and take the processor time of all others.
const supersededDelay = 250 * time.Millisecond

// Pull applies the report and returns an answer as soon as there are offers or the
// result, or after MaxWait. If the peer sends another pull before that, it returns
// an empty answer supersededDelay later.
func (t *Task) Pull(ctx context.Context, req Pull) (Answer, error) {
	p := &pull{Pull: req, reply: make(chan pullReply, 1)}
	err := t.enqueue(ctx, func() {
		if err := t.accept(p); err != nil {
			p.reply <- pullReply{err: err}
		}
	})
	if err != nil {
		return Answer{}, err
	}
	select {
	case r := <-p.reply:
		if r.superseded {
			return Answer{}, t.sleep(ctx, supersededDelay)
		}
		return r.answer, r.err
	case <-t.ended:
		return Answer{}, errEnded
	case <-ctx.Done():
	}
	// The caller has left. Offers that were made for the pull, or will be when the
	// loop processes it, must be revoked. The loop does this by itself; if it has
	// ended, there is nothing to revoke.
	select {
	case t.calls <- func() { t.abandon(p) }:
	case <-t.ended:
	}
	return Answer{}, ctx.Err()
}

// sleep returns after d, or when ctx or the task ends.
func (t *Task) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-t.ended:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *Task) accept(p *pull) error {
	now := time.Now()
	t.markUsed()
	if err := t.admit(p.PeerID); err != nil {
		return err
	}
	err := t.swarm.Seen(p.PeerID, now)
	if p.Adopt && t.restored && errors.Is(err, swarm.ErrNoPeer) {
		err = t.addPeer(swarm.PeerInfo{ID: p.PeerID}, now)
	}
	if err != nil {
		return t.rpcError(err)
	}
	if p.Stage == Started {
		if err := t.swarm.Restarted(p.PeerID); err != nil {
			return t.rpcError(err)
		}
	}
	// A client that another scheduler redirected here may report with its first
	// pull a piece that this task does not have, for example of another size.
	// Such a report is ignored: an error would make the client leave.
	if err := t.report(p, now); err != nil && (p.Stage != Started || !errors.Is(err, swarm.ErrNoPiece)) {
		if err := t.rpcError(err); err != nil {
			return err
		}
	}
	p.until = t.holdDeadline(p, now)
	// A peer sends one pull at a time, so it has abandoned an earlier one that is
	// still held.
	if old := t.held[p.PeerID]; old != nil {
		old.superseded = true
		t.reply(old, pullReply{superseded: true})
	}
	if p.Stage == Finished && p.Outcome != Written {
		if err := t.swarm.Down(p.PeerID, now); err != nil {
			return t.rpcError(err)
		}
		p.reply <- pullReply{}
		return nil
	}
	t.held[p.PeerID] = p
	t.swarm.Hold(p.PeerID, p.until)
	return nil
}

// reply answers a held pull.
func (t *Task) reply(p *pull, r pullReply) {
	delete(t.held, p.PeerID)
	t.swarm.Release(p.PeerID)
	p.reply <- r
}

// holdDeadline returns the time until which a pull may be held. A client whose
// gateway dies sends the same pull through another gateway, within the timeout of
// the first one. Therefore a repeated pull keeps the deadline of the first.
func (t *Task) holdDeadline(p *pull, now time.Time) time.Time {
	until := now.Add(p.MaxWait)
	for _, old := range []*pull{t.held[p.PeerID], t.abandoned.take(p.PeerID, now)} {
		if old != nil && old.sameRequest(p) && old.until.Before(until) {
			until = old.until
		}
	}
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

// answerHeld tries to answer the held pulls for which something has changed. It
// returns true if there are more of them than it tries.
func (t *Task) answerHeld(now time.Time) (more bool) {
	for range pullsInRow {
		id, found := t.swarm.Next(now)
		if !found {
			return false
		}
		p := t.held[id]
		if p == nil {
			continue // more sources may have room for a pull
		}
		if reply, ready := t.tryAnswer(p, now); ready {
			t.reply(p, reply)
		} else {
			t.swarm.Denied(id, now)
		}
	}
	return true
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
	if offers := t.swarm.Reoffer(p.PeerID); len(offers) > 0 {
		return pullReply{answer: Answer{Offers: offers, PieceSize: facts.PieceSize}}, true
	}
	return pullReply{answer: Answer{PieceSize: facts.PieceSize}}, !now.Before(p.until)
}

// abandon removes a pull whose caller has left, and revokes its offers.
func (t *Task) abandon(p *pull) {
	if t.held[p.PeerID] == p {
		delete(t.held, p.PeerID)
		t.swarm.Release(p.PeerID)
	}
	if !p.superseded && !p.until.IsZero() {
		t.abandoned.add(p, time.Now())
	}
	select {
	case r := <-p.reply:
		t.swarm.Undelivered(p.PeerID, r.answer.Offers)
	default:
	}
}

// releaseHeld answers every held pull with err and ends all waiting registrations.
func (t *Task) releaseHeld(err error) {
	for _, p := range t.held {
		p.reply <- pullReply{err: err}
	}
	clear(t.held)
	for _, c := range t.factWaiters {
		close(c)
	}
	t.factWaiters = nil
}
