// Package record counts what the simulated peers see of the server: how long it
// takes to answer, what it answers, and from where it has them fetch pieces.
package record

import (
	"sync/atomic"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/histogram"
)

// Kind is a kind of call. Pulls are told apart by their answer, because a client
// cannot see for how long one was held.
type Kind int

// The kinds.
const (
	Register  Kind = iota
	Pieces         // a pull that is answered with pieces, 601
	Finished       // a pull of a peer that has all pieces, 600
	Wait           // a pull that is answered with nothing, 602
	OtherPull      // any other pull
	Report         // piece/suc
	Other          // piece/error, service/down, task/metrics
	kinds
)

// The codes of pulls by which kinds are told apart. NoAnswer counts those that
// were not answered.
const (
	NoAnswer     = 0
	codeFinished = 600
	codePieces   = 601
	codeWait     = 602
	mostCode     = 999
)

// Recorder counts. Its methods and fields may be used by all peers at the same
// time. The zero value is empty.
type Recorder struct {
	latency [kinds]histogram.Histogram
	answers [mostCode + 1]atomic.Int64
	calls   atomic.Int64

	// OfferedByCDN and OfferedByPeers count the pieces that peers were told to
	// fetch there, FromCDN and FromPeers those that arrived. FailedPieces counts
	// those that did not.
	OfferedByCDN, OfferedByPeers atomic.Int64
	FromCDN, FromPeers           atomic.Int64
	FailedPieces                 atomic.Int64
	// RepeatedOffers counts the offers of pieces that the peer had or was fetching.
	RepeatedOffers atomic.Int64
	// Refused counts the calls beside pulls that were answered with an error,
	// except for those that reported what is not true.
	Refused atomic.Int64
}

// Call counts a call that is not a pull.
func (r *Recorder) Call(kind Kind, took time.Duration) {
	r.calls.Add(1)
	r.latency[kind].Add(took)
}

// Pull counts a pull by the code of its answer.
func (r *Recorder) Pull(code int, took time.Duration) {
	if code < 0 || code > mostCode {
		code = NoAnswer
	}
	r.answers[code].Add(1)
	kind := OtherPull
	switch code {
	case codeFinished:
		kind = Finished
	case codePieces:
		kind = Pieces
	case codeWait:
		kind = Wait
	}
	r.Call(kind, took)
}

// Calls returns the number of calls so far.
func (r *Recorder) Calls() int64 { return r.calls.Load() }

// Latency returns the latencies by kind since the previous call.
func (r *Recorder) Latency() Latency {
	var l Latency
	for i := range r.latency {
		l[i] = r.latency[i].Take()
	}
	return l
}

// Latency holds the latencies of calls by kind.
type Latency [kinds]histogram.Snapshot

// Answers returns the number of pulls so far by the code of their answer.
func (r *Recorder) Answers() map[int]int64 {
	answers := make(map[int]int64)
	for code := range r.answers {
		if n := r.answers[code].Load(); n > 0 {
			answers[code] = n
		}
	}
	return answers
}
