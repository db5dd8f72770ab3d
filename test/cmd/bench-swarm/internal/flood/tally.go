package flood

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/histogram"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/httpconn"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/wire"
)

// Outcomes of requests and connections that have no answer.
const (
	noAnswer     = "none"
	cutOff       = "cut"
	neverOpened  = "not connected"
	closedByPeer = "closed by the server"
	leftOpen     = "open until the end"
)

// Tally counts what a flood sent, and what came of it.
type Tally struct {
	sent    atomic.Int64
	latency histogram.Histogram

	mu       sync.Mutex // guards outcomes
	outcomes map[string]int64
}

// Sent returns the number of requests, or of connections if they have none.
func (t *Tally) Sent() int64 { return t.sent.Load() }

// Latency returns how long the answers took since the previous call.
func (t *Tally) Latency() histogram.Snapshot { return t.latency.Take() }

// Outcomes returns the number of requests by HTTP status and code, such as
// "200/601", or by what became of those that were not answered.
func (t *Tally) Outcomes() map[string]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	outcomes := make(map[string]int64, len(t.outcomes))
	for outcome, n := range t.outcomes {
		outcomes[outcome] = n
	}
	return outcomes
}

func (t *Tally) count(outcome string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.outcomes == nil {
		t.outcomes = make(map[string]int64)
	}
	t.outcomes[outcome]++
}

// answered counts an answer, or that there is none.
func (t *Tally) answered(answer httpconn.Answer, err error) {
	if err != nil {
		t.count(noAnswer)
		return
	}
	t.latency.Add(answer.Took)
	code, err := wire.ReadCode(answer.Body)
	if err != nil || code == 0 || code == answer.Status && code != http.StatusOK {
		t.count(fmt.Sprint(answer.Status))
		return
	}
	t.count(fmt.Sprintf("%d/%d", answer.Status, code))
}
