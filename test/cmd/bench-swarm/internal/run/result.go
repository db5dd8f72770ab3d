package run

import (
	"errors"
	"fmt"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/peer"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/record"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/server"
)

// Result is what a run measured.
type Result struct {
	// Pieces is the number of pieces of the first file.
	Pieces int
	// Elapsed is the time from the first start of a download to the last end.
	Elapsed time.Duration
	// Ends holds when the download of each peer ended, as the time from that start; 0
	// if it never started.
	Ends []time.Duration
	// Calls is the number of calls in that time.
	Calls int64
	// Latency holds how long the calls took, the farewells after that time too.
	Latency record.Latency
	// Answers counts the pulls by the code of their answer.
	Answers map[int]int64
	// OfferedByCDN is the number of pieces that peers were told to fetch from the
	// CDN. Copies is how often each file was fetched from there, in the mean.
	OfferedByCDN int64
	Copies       float64
	// FailedPieces counts the downloads of pieces that failed, Refused the calls
	// other than pulls that failed.
	FailedPieces, Refused int64
	// Crashed counts the peers that crashed as planned, Failed those that did not
	// get their file.
	Crashed, Failed int

	// Before and After are what the supernode used then, since its start. Generator
	// is the processor time of this process in between.
	Before, After server.Usage
	Generator     time.Duration

	// Err says why peers did not get their file, and what the supernode logged.
	Err error
}

// add adds how the downloads ended.
func (r *Result) add(ends []end) {
	var first, last time.Time
	errs := make([]error, len(ends))
	for i, e := range ends {
		switch {
		case errors.Is(e.err, peer.ErrCrashed):
			r.Crashed++
		case e.err != nil:
			r.Failed++
			errs[i] = fmt.Errorf("peer %d: %w", i, e.err)
		}
		if e.began.IsZero() {
			continue
		}
		if first.IsZero() || e.began.Before(first) {
			first = e.began
		}
		if e.ended.After(last) {
			last = e.ended
		}
	}
	r.Elapsed = last.Sub(first)
	r.Ends = make([]time.Duration, len(ends))
	for i, e := range ends {
		if !e.began.IsZero() {
			r.Ends[i] = e.ended.Sub(first)
		}
	}
	r.Err = joinFew(errs)
}

func (r *Result) use(m meter) {
	r.Before, r.After, r.Generator = m.before, m.after, m.generator
}

// count adds what the peers recorded about a number of files.
func (r *Result) count(seen *record.Recorder, files int) {
	r.Latency, r.Answers = seen.Latency(), seen.Answers()
	r.OfferedByCDN = seen.OfferedByCDN.Load()
	r.FailedPieces, r.Refused = seen.FailedPieces.Load(), seen.Refused.Load()
	r.Copies = float64(seen.FromCDN.Load()) / float64(r.Pieces*files)
}
