package run

import (
	"context"
	"sync"
	"time"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/stage"
	"github.com/supernode-ha/supernode/test/usage"
)

const (
	sentMetric  = "supernode_cdn_sent_bytes_total"
	callsMetric = "supernode_gateway_requests_total"

	sampleLimit = 20 * time.Second // the links may be full
)

// sample is what a supernode has done so far.
type sample struct {
	sent, calls float64
	cpu         time.Duration
}

// samples holds the latest one of every supernode, since one that is killed
// cannot be asked any more, and the first.
type samples struct {
	nodes []*cluster.Node

	mu            sync.Mutex // guards what follows
	first, latest map[string]sample
}

func newSamples(s *stage.Stage, layout *cluster.Layout) *samples {
	all := &samples{nodes: layout.Nodes, first: make(map[string]sample), latest: make(map[string]sample)}
	for _, n := range all.nodes {
		got, err := measure(s.Context(), n)
		if err != nil {
			s.Fatalf("%v", err)
		}
		all.first[n.ID], all.latest[n.ID] = got, got
	}
	return all
}

// take measures one supernode.
func (s *samples) take(ctx context.Context, n *cluster.Node) error {
	got, err := measure(ctx, n)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest[n.ID] = got
	return nil
}

// total measures all supernodes that run and returns what all have done.
func (s *samples) total(ctx context.Context) (sample, error) {
	for _, n := range s.nodes {
		if !n.Running() {
			continue
		}
		if err := s.take(ctx, n); err != nil {
			return sample{}, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum sample
	for id, got := range s.latest {
		sum.sent += got.sent - s.first[id].sent
		sum.calls += got.calls - s.first[id].calls
		sum.cpu += got.cpu - s.first[id].cpu
	}
	return sum, nil
}

func measure(ctx context.Context, n *cluster.Node) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, sampleLimit)
	defer cancel()
	counted, err := usage.Metrics(ctx, "http://"+n.REST+"/metrics", sentMetric, callsMetric)
	if err != nil {
		return sample{}, err
	}
	cpu, err := usage.Processor(n.PID())
	return sample{sent: counted[sentMetric], calls: counted[callsMetric], cpu: cpu}, err
}
