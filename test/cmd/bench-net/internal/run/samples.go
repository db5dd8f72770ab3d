package run

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/stage"
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
	var got sample
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.REST+"/metrics", nil)
	if err != nil {
		return got, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return got, fmt.Errorf("reading the metrics of %s: %w", n.REST, err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if i := strings.LastIndex(lines.Text(), "} "); i >= 0 {
			name, value = lines.Text()[:i], lines.Text()[i+2:]
		}
		name, _, _ = strings.Cut(name, "{")
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue // a comment
		}
		switch name {
		case sentMetric:
			got.sent += number
		case callsMetric:
			got.calls += number
		}
	}
	if err := lines.Err(); err != nil {
		return got, fmt.Errorf("reading the metrics of %s: %w", n.REST, err)
	}
	got.cpu, err = processorTime(n.PID())
	return got, err
}

// processorTime returns what a process has used, in user and kernel mode.
func processorTime(pid int) (time.Duration, error) {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("reading the processor time of a supernode: %w", err)
	}
	// The name in brackets may have spaces in it.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const user, kernel = 11, 12
	if len(fields) <= kernel {
		return 0, fmt.Errorf("reading the processor time of a supernode: %q", text)
	}
	var sum time.Duration
	for _, field := range []string{fields[user], fields[kernel]} {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading the processor time of a supernode: %w", err)
		}
		sum += time.Duration(ticks) * tick
	}
	return sum, nil
}
