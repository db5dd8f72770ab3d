package peer

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// NoAnswer is the code that Result.Codes counts pulls under which were not
// answered: refused, broken off, unreadable or not within 5 s.
const NoAnswer = 0

// Result is what a download did. It is filled as far as the download came,
// also when that ended with an error.
type Result struct {
	// Path is the file; empty when there is none in the end.
	Path string
	// Length and MD5 (hex) are those of what was written.
	Length int64
	MD5    string
	// TaskID and Cid are what the cluster knows task and peer by.
	TaskID, Cid string
	// Duration is from the start until the file was in its place.
	Duration time.Duration

	// Migrations counts the successful registrations after the first.
	Migrations int
	// BackToSource is true when the source was asked; Reason is dfget's number
	// for why, or why it would have, 1000 greater with NoBackSource.
	BackToSource bool
	Reason       int

	// Codes counts pulls by the code of the answer, by the HTTP status when
	// that was not 200, and under NoAnswer.
	Codes map[int]int
	// Waits counts the 602 answers, WaitTime is the time spent in those pulls
	// and in the sleeps after them. HoldTime is the time spent in all pulls,
	// MaxPullTime the longest of them.
	Waits       int
	WaitTime    time.Duration
	HoldTime    time.Duration
	MaxPullTime time.Duration

	// BytesFromCDN and BytesFromPeers count the content of right pieces,
	// without their wrapping.
	BytesFromCDN   int64
	BytesFromPeers int64
	// PieceFailures counts the pieces that did not arrive right.
	PieceFailures int
	// Offered is the numbers of the pieces begun, in the order of the offers;
	// a piece that failed and was offered again occurs again.
	Offered []int
	// DuplicateOffers counts the offers of pieces that were here already,
	// RunningOffers those of pieces under way, which are ignored.
	DuplicateOffers int
	RunningOffers   int
	// ShortCids counts the offers whose cid has less than 25 characters: dfget
	// dies of one when the piece takes longer than 2 s to write.
	ShortCids int
}

// EventKind is what an Event tells of.
type EventKind string

// What happens to a peer, and which fields of the event tell more.
const (
	Registered   EventKind = "registered"     // Node, Code, Err
	Pulled       EventKind = "pulled"         // Node, Code, Err, Took, Status, Result, Range
	Offered      EventKind = "offered"        // Piece, Range, From, Here
	Arrived      EventKind = "arrived"        // Piece, Range, From, Bytes, Took
	Failed       EventKind = "failed"         // Piece, Range, From, Err, Took
	Written      EventKind = "written"        // Piece, Range
	Reported     EventKind = "reported"       // Node, Piece, Range, Code, Err
	ReportLost   EventKind = "report lost"    // Piece, Range
	Migrated     EventKind = "migrated"       // Node
	BackToSource EventKind = "back to source" // Code is the reason
	Served       EventKind = "served"         // Range, Bytes, Code is the HTTP status
)

// Event is one thing that happened. Fields that its kind does not name are
// zero.
type Event struct {
	Kind           EventKind
	Time           time.Time
	Node           string // of the cluster, "host:port"
	Code           int
	Piece          int
	Range          string
	From           string // cid
	Here           bool   // the piece was here already
	Status, Result int    // what the pull said
	Bytes          int64
	Took           time.Duration
	Err            error
}

// recorder fills the result and tells the observer.
type recorder struct {
	observe func(Event)

	mu sync.Mutex // guards r
	r  Result
}

func (c *recorder) tell(e Event) {
	e.Time = time.Now()
	c.observe(e)
}

func (c *recorder) update(change func(*Result)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.r)
}

func (c *recorder) result() Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.r
	r.Codes = maps.Clone(c.r.Codes)
	r.Offered = slices.Clone(c.r.Offered)
	return r
}

func (c *recorder) pulled(report *item, code int, err error, took time.Duration) {
	counted := code
	var status *statusError
	if errors.As(err, &status) {
		counted = status.status
	} else if err != nil {
		counted = NoAnswer
	}
	c.update(func(r *Result) {
		r.Codes[counted]++
		r.HoldTime += took
		r.MaxPullTime = max(r.MaxPullTime, took)
		if counted == codeWait {
			r.Waits++
			r.WaitTime += took
		}
	})
	c.tell(Event{
		Kind: Pulled, Node: report.node, Code: counted, Err: err, Took: took,
		Status: report.status, Result: report.result, Range: report.pieceRange,
	})
}

func (c *recorder) slept(d time.Duration) { c.update(func(r *Result) { r.WaitTime += d }) }

func (c *recorder) migrated(node string) {
	c.update(func(r *Result) { r.Migrations++ })
	c.tell(Event{Kind: Migrated, Node: node})
}

func (c *recorder) offered(o *offer, known, here bool) {
	const shortest = 25
	c.update(func(r *Result) {
		switch {
		case here:
			r.DuplicateOffers++
		case known:
			r.RunningOffers++
		default:
			r.Offered = append(r.Offered, o.PieceNum)
		}
		if len(o.Cid) < shortest {
			r.ShortCids++
		}
	})
	c.tell(Event{Kind: Offered, Piece: o.PieceNum, Range: o.Range, From: o.Cid, Here: here})
}

func (c *recorder) failed(o *offer, err error, took time.Duration) {
	c.update(func(r *Result) { r.PieceFailures++ })
	c.tell(Event{Kind: Failed, Piece: o.PieceNum, Range: o.Range, From: o.Cid, Err: err, Took: took})
}

func (c *recorder) arrived(o *offer, length int, took time.Duration) {
	c.update(func(r *Result) {
		if strings.HasPrefix(o.Cid, cdnPrefix) {
			r.BytesFromCDN += int64(length)
		} else {
			r.BytesFromPeers += int64(length)
		}
	})
	c.tell(Event{Kind: Arrived, Piece: o.PieceNum, Range: o.Range, From: o.Cid, Bytes: int64(length), Took: took})
}
