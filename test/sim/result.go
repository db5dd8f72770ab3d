package sim

import (
	"slices"
	"time"

	"github.com/supernode-ha/supernode/services/scheduler/sim/policy"
)

// Result is what a run gave.
type Result struct {
	// Policy is its name, Bound the fluid bound of the scenario.
	Policy string
	Bound  time.Duration
	// Times are how long each peer took that finished, ascending.
	Times []time.Duration
	// FirstLanded is when the first piece was at a CDN instance, LastPiece when the
	// last one was at a peer.
	FirstLanded, LastPiece time.Duration
	// Copies is how often the CDN sent the file, per task.
	Copies float64
	// Calls is the number of calls to the scheduler, Pieces that of pieces that
	// arrived in each of the Bins of time.
	Calls  int64
	Pieces []int
	Bin    time.Duration
	// Idle is the share of the time of the peers that finished in which no bytes
	// came to them, in the mean.
	Idle float64
	// PieceCount is the number of pieces of a file, PieceSize their wrapped size.
	PieceCount, PieceSize int32
	// Failures are pieces that could not be fetched, Ignored offers of pieces
	// that were under way, Crashed peers that did not finish for that reason, Left
	// those that had not finished when the run was ended.
	Failures, Ignored, Crashed, Left int
	// Looked is the policy's work, if it counts it.
	Looked policy.Looked
	// Events is the number of events, Solves that of the times that rates were found.
	Events, Solves int64

	first bool
}

// Last returns the time of the last peer.
func (r *Result) Last() time.Duration { return r.Quantile(1) }

// Quantile returns the time within which a share of the peers finished.
func (r *Result) Quantile(share float64) time.Duration {
	if len(r.Times) == 0 {
		return 0
	}
	return r.Times[min(int(share*float64(len(r.Times))), len(r.Times)-1)]
}

// Ratio returns a time in units of the bound.
func (r *Result) Ratio(d time.Duration) float64 { return d.Seconds() / r.Bound.Seconds() }

// Span returns the time from the first landing to the last piece.
func (r *Result) Span() time.Duration { return r.LastPiece - r.FirstLanded }

func (w *world) landed() {
	if !w.result.first {
		w.result.first, w.result.FirstLanded = true, w.clock.Now()
	}
}

func (w *world) arrived(now time.Duration) {
	r := &w.result
	r.LastPiece = now
	bin := int(now / w.config.Bin)
	for len(r.Pieces) <= bin {
		r.Pieces = append(r.Pieces, 0)
	}
	r.Pieces[bin]++
}

func (w *world) sum(p policy.Policy) *Result {
	r := &w.result
	r.Policy, r.Bound, r.Bin = p.Name(), w.scenario.Bound(), w.config.Bin
	r.Left = w.left
	r.Calls, r.Events, r.Solves = w.calls, w.clock.Ran(), w.network.Solves()
	r.Copies = w.fromCDN / float64(w.scenario.Length) / float64(w.scenario.Tasks)
	for _, t := range w.tasks {
		r.PieceCount, r.PieceSize = t.info.Pieces, t.info.PieceSize
		if c, ok := t.policy.(policy.Counter); ok {
			looked := c.Looked()
			r.Looked.Choices += looked.Choices
			r.Looked.Pieces += looked.Pieces
			r.Looked.Holders += looked.Holders
		}
		for _, peer := range t.peers {
			if peer.state == finished {
				took := peer.ends - peer.arrives
				r.Times = append(r.Times, took)
				r.Idle += 1 - peer.busy.Seconds()/took.Seconds()
			}
		}
	}
	r.Idle /= float64(max(len(r.Times), 1))
	slices.Sort(r.Times)
	return r
}
