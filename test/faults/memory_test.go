package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/operator"
	"github.com/supernode-ha/supernode/test/peer"
)

// The memory of who has which piece outlives the scheduler that held it: peers
// that finished long ago and never announce themselves again are offered on.
func TestMemoryOutlivesSchedulers(t *testing.T) {
	t.Parallel()
	s := services(t, 3)
	attempts(t, "scheduler killed", func(t *attempt) {
		memoryAfter(t, s, true, func(scheduler, _ *cluster.Node) { scheduler.Kill() })
	})
	attempts(t, "scheduler told to stop", func(t *attempt) {
		memoryAfter(t, s, true, func(scheduler, _ *cluster.Node) { require.NoError(t, scheduler.Stop()) })
	})
	// Nobody asks for anything while the task changes hands.
	attempts(t, "scheduler told to stop between downloads", func(t *attempt) { memoryAtRest(t, s) })
	// Nobody remembers anything: what the gateways know, and the peers say, is
	// all there is.
	attempts(t, "scheduler and standby killed", func(t *attempt) {
		memoryAfter(t, s, false, func(scheduler, standby *cluster.Node) {
			scheduler.Kill()
			standby.Kill()
		})
	})
}

// wire is what a crowd of peers saw.
type wire struct {
	mu     sync.Mutex
	codes  map[int]int            // of all answers
	failed map[string]int         // of calls that had no answer
	lost   []time.Time            // when those ended
	offers map[string][]time.Time // by whom the peers were sent to
	bytes  int64                  // of all pieces that came
	pieces []arrival
}

// arrival is a piece that came to a peer.
type arrival struct {
	at      time.Time
	bytes   int64
	fromCDN bool
}

func newWire() *wire {
	return &wire{codes: make(map[int]int), failed: make(map[string]int), offers: make(map[string][]time.Time)}
}

func (w *wire) observe(e peer.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e.Kind {
	case peer.Registered, peer.Pulled, peer.Reported:
		if e.Err != nil {
			w.failed[e.Err.Error()]++
			w.lost = append(w.lost, e.Time)
			return
		}
		w.codes[e.Code]++
	case peer.Offered:
		w.offers[e.From] = append(w.offers[e.From], e.Time)
	case peer.Arrived:
		w.bytes += e.Bytes
		w.pieces = append(w.pieces, arrival{at: e.Time, bytes: e.Bytes, fromCDN: strings.HasPrefix(e.From, "cdnnode:")})
	default:
	}
}

func (w *wire) came() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes
}

// sentTo counts the offers after a moment, of some senders and of all, and
// gives how long after it the first of theirs was.
func (w *wire) sentTo(senders map[string]bool, moment time.Time) (first time.Duration, theirs, all int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for sender, offers := range w.offers {
		for _, at := range offers {
			if at.Before(moment) {
				continue
			}
			all++
			if !senders[sender] {
				continue
			}
			if d := at.Sub(moment); theirs == 0 || d < first {
				first = d
			}
			theirs++
		}
	}
	return first, theirs, all
}

// fromCDN is the share of what came between two moments that CDNs sent.
func (w *wire) fromCDN(from, to time.Time) float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all, theirs int64
	for _, p := range w.pieces {
		if p.at.Before(from) || !p.at.Before(to) {
			continue
		}
		all += p.bytes
		if p.fromCDN {
			theirs += p.bytes
		}
	}
	return ratio(theirs, max(all, 1))
}

// unanswered is how long after a moment calls ended that had no answer.
func (w *wire) unanswered(since time.Time) []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []time.Duration
	for _, at := range w.lost {
		all = append(all, at.Sub(since).Round(time.Millisecond))
	}
	return all
}

// answered says which calls had no answer.
func (w *wire) answered() error {
	return unless(len(w.failed) == 0, fmt.Sprintf("calls without an answer: %v", w.failed))
}

// requireExpected wants that no answer is one that dfget does not expect while
// the cluster is being repaired.
func (w *wire) requireExpected(t testing.TB) {
	t.Helper()
	for code := range w.codes {
		require.Contains(t, []int{200, 600, 601, 602, 611, 612}, code)
	}
}

// both tells two observers.
func both(a, b func(peer.Event)) func(peer.Event) {
	return func(e peer.Event) {
		a(e)
		b(e)
	}
}

// memoryAfter has some peers finish and serve on, others begin, and something
// happen to the task's scheduler in the midst. Everybody knows one gateway. If
// anybody remembers, those who had finished are offered on.
func memoryAfter(t *attempt, s *site, remembered bool, fault func(scheduler, standby *cluster.Node)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), trialLimit)
	defer cancel()
	s.comeBack(t)
	f := s.newFile(sizeOfFile, 0)
	gateways := s.there(cluster.Gateway)
	before := peersAt(t, finishedBefore, f.url, gateways, true)
	finished := make(map[string]bool)
	through, done := beginSwarm(ctx, t, before)
	requireRight(t, f, <-done)
	for _, p := range through.Peers {
		finished[p.Cid()] = true
	}

	saw, tape := newWire(), newTape(underWay)
	late := peersAt(t, underWay, f.url, gateways, true)
	for i := range late {
		late[i].Observe = both(saw.observe, tape.of(i))
		late[i].LocalLimit = sizeOfFile / 4 // in the midst of it for seconds
		late[i].IP = cluster.Net(t)(1)      // nobody is nearer than those that finished
	}
	done = begin(ctx, t, late)
	await(t, trialLimit, "a third of the pieces is to be there", func() error {
		return unless(saw.came() >= int64(len(late))*f.Size/3, "there is less")
	})
	rec := s.record(t, f.id)
	scheduler := s.Member(cluster.Scheduler, rec.GetScheduler())
	faulted := time.Now()
	fault(scheduler, s.standbyOf(f.id, scheduler))
	tally := <-done
	saw.requireExpected(t)
	requireRight(t, f, tally)
	t.within(errors.Join(stayed(tally.Migrations), saw.answered()))
	first, theirs, all := saw.sentTo(finished, faulted)
	t.Logf("of %d offers after the fault %d were of peers that had finished, the first after %s; longest pull %s; answers %v",
		all, theirs, first.Round(time.Millisecond), tally.LongestPull.Round(time.Millisecond), saw.codes)
	const while = 30 * time.Second
	t.Logf("next piece: %s; %s before the fault: %s; share of CDNs in the %s before %.3f, and after %.3f",
		tape.after(faulted), while/6, tape.after(faulted.Add(-while/6)), while,
		saw.fromCDN(faulted.Add(-while), faulted), saw.fromCDN(faulted, faulted.Add(while)))
	if remembered {
		require.Positive(t, theirs, "peers that had finished are offered again")
	}
	after := s.record(t, f.id)
	require.NotEqual(t, rec.GetScheduler(), after.GetScheduler())
	t.within(errors.Join(
		unless(after.GetOwner() == rec.GetOwner(), "the task has another owner"),
		unless(s.sent(f) == f.Size, "the source was asked for something twice")))
}

// memoryAtRest has peers finish, their scheduler stop, and others begin a while
// later.
func memoryAtRest(t *attempt, s *site) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), trialLimit)
	defer cancel()
	s.comeBack(t)
	f := s.newFile(sizeOfFile, 0)
	gateways := s.there(cluster.Gateway)
	through, done := beginSwarm(ctx, t, peersAt(t, finishedBefore, f.url, gateways, true))
	requireRight(t, f, <-done)
	finished := make(map[string]bool)
	for _, p := range through.Peers {
		finished[p.Cid()] = true
	}
	rec := s.record(t, f.id)
	require.NoError(t, s.Member(cluster.Scheduler, rec.GetScheduler()).Stop())
	after := s.record(t, f.id)
	t.within(unless(after.GetScheduler() == s.standbyOf(f.id, nil).ID, "it was not handed over, but lost"))

	saw, stopped := newWire(), time.Now()
	late := peersAt(t, 3, f.url, gateways, true)
	for i := range late {
		late[i].Observe = saw.observe
	}
	requireRight(t, f, <-begin(ctx, t, late))
	_, theirs, all := saw.sentTo(finished, stopped)
	t.Logf("of %d offers %d were of peers that had finished", all, theirs)
	require.Positive(t, theirs)
}

// standbyOf is who takes a task over from a scheduler.
func (s *site) standbyOf(task string, scheduler *cluster.Node) *cluster.Node {
	var ready []string
	for _, n := range s.there(cluster.Scheduler) {
		if n != scheduler {
			ready = append(ready, n.ID)
		}
	}
	return s.Member(cluster.Scheduler, operator.Standby(task, "", ready))
}
