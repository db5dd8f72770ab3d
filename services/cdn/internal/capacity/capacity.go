// Package capacity divides what an instance can send among the schedulers that
// hand its transfers out. The instance finds its window by what the download
// server sends (pkg/window); each scheduler has a stream on which it reports its
// demand and receives its part of the window. No scheduler is trusted: what it
// reports is clamped, and the demand of one that is silent counts no more.
package capacity

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/window"
)

const (
	// interval is the time between two samples, and between two divisions.
	interval = 100 * time.Millisecond
	// repeat is the longest time between two responses on a stream.
	repeat = time.Second
	// silence is the time after which a scheduler's demand counts no more.
	silence = 3 * time.Second
	// mostSchedulers bounds the schedulers that have a stream, maxID their names.
	mostSchedulers = 1024
	maxID          = 255
	// rateSamples is the number of intervals that the delivery rate is the mean of.
	rateSamples = 10
)

// Sent returns the number of bytes sent and of transfers ended since the start.
type Sent func() (bytes, ended int64)

// Hub divides an instance's window. It is safe for concurrent use.
type Hub struct {
	sent    Sent
	stopped chan struct{} // closed when Run ends
	streams sync.WaitGroup

	mu      sync.Mutex // guards the rest
	ended   bool       // no stream is accepted any more
	control *window.Controller
	shares  map[string]*share // by scheduler
	limited bool              // a scheduler was limited since the last sample
	sizes   []int64           // bytes sent by the last samples, oldest first
	times   []time.Time       // when they were taken
}

// share is a scheduler's part. The hub's lock guards it.
type share struct {
	demand   demand
	heard    time.Time
	window   int
	changed  chan struct{} // holds one signal: the window is another one
	replaced chan struct{} // closed when the scheduler has a newer stream
}

// New returns a hub for an instance that sends what sent counts.
func New(sent Sent) *Hub {
	return &Hub{sent: sent, stopped: make(chan struct{}), control: window.New(), shares: make(map[string]*share)}
}

// Collectors returns the metrics, to be registered.
func (h *Hub) Collectors() []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			h.mu.Lock()
			defer h.mu.Unlock()
			return value()
		})
	}
	return []prometheus.Collector{
		gauge("supernode_cdn_transfer_window", "Transfers that all schedulers together may have in flight from this CDN.",
			func() float64 { return float64(h.control.Window()) }),
		gauge("supernode_cdn_transfers_in_flight", "Transfers from this CDN that schedulers report as handed out and not ended.",
			func() float64 { return float64(h.inFlight(time.Now(), false)) }),
		gauge("supernode_cdn_delivery_rate_bytes", "Bytes per second that this CDN sent to peers during the last second.",
			func() float64 { return float64(h.rate()) }),
		gauge("supernode_cdn_capacity_schedulers", "Schedulers that share the capacity of this CDN.",
			func() float64 { return float64(len(h.shares)) }),
	}
}

// Run measures and divides until ctx ends; then all streams end.
func (h *Hub) Run(ctx context.Context) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			h.mu.Lock()
			h.ended = true
			h.mu.Unlock()
			close(h.stopped)
			h.streams.Wait()
			return
		case now := <-tick.C:
			h.sample(now)
		}
	}
}

// sample lets the controller see how things stand, and divides its window.
func (h *Hub) sample(now time.Time) {
	bytes, ended := h.sent()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.control.Observe(now, window.Sample{InFlight: h.inFlight(now, true), Limited: h.limited, Sent: bytes, Ended: ended})
	h.limited = false
	h.sizes, h.times = append(h.sizes, bytes), append(h.times, now)
	if n := len(h.sizes) - 1 - rateSamples; n > 0 {
		h.sizes, h.times = h.sizes[n:], h.times[n:]
	}
	h.divide(now)
}

// divide gives each scheduler its part of the window. The caller holds mu.
func (h *Hub) divide(now time.Time) {
	var heard []*share
	var demands []demand
	for _, id := range slices.Sorted(maps.Keys(h.shares)) { // the remainder stays where it is
		s := h.shares[id]
		if now.Sub(s.heard) > silence {
			s.set(1)
			continue
		}
		heard, demands = append(heard, s), append(demands, s.demand)
	}
	for i, part := range split(h.control.Window(), demands) {
		heard[i].set(part)
	}
}

func (s *share) set(window int) {
	if s.window == window {
		return
	}
	s.window = window
	select {
	case s.changed <- struct{}{}:
	default: // there is a signal already
	}
}

// inFlight returns the transfers that schedulers report, of each at most as many
// as it was allowed if they are measured. The caller holds mu.
func (h *Hub) inFlight(now time.Time, measured bool) int {
	total := 0
	for _, s := range h.shares {
		switch {
		case now.Sub(s.heard) > silence:
		case measured:
			total += min(s.demand.inFlight, s.window)
		default:
			total += s.demand.inFlight
		}
	}
	return total
}

// rate returns the bytes per second sent of late. The caller holds mu.
func (h *Hub) rate() int64 {
	last := len(h.sizes) - 1
	if last < 1 {
		return 0
	}
	elapsed := h.times[last].Sub(h.times[0]).Seconds()
	if elapsed <= 0 {
		return 0
	}
	return int64(float64(h.sizes[last]-h.sizes[0]) / elapsed)
}

// Share serves one scheduler's stream until it or the hub ends.
func (h *Hub) Share(stream grpc.BidiStreamingServer[cdnv1.ShareCapacityRequest, cdnv1.ShareCapacityResponse]) error {
	requests, failed := make(chan *cdnv1.ShareCapacityRequest), make(chan error, 1)
	if !h.begin(func() { receive(stream, requests, failed) }) {
		return errStopping()
	}
	var s *share
	var id string
	var changed, replaced chan struct{} // nil, and never ready, until there is a share
	again := time.NewTimer(repeat)
	defer again.Stop()
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-h.stopped:
			return errStopping()
		case err := <-failed:
			return err
		case <-replaced:
			return rpcerr.New(codes.Aborted, "", "the scheduler has a newer stream")
		case req := <-requests:
			if err := check(req, id); err != nil {
				return err
			}
			if s == nil {
				id = req.GetSchedulerId()
				var err error
				if s, err = h.join(id); err != nil {
					return err
				}
				defer h.leave(id, s)
				changed, replaced = s.changed, s.replaced
			}
			h.update(s, req, time.Now())
			continue
		case <-changed:
		case <-again.C:
		}
		again.Reset(repeat)
		if s == nil {
			continue
		}
		if err := stream.Send(h.response(s)); err != nil {
			return err
		}
	}
}

// begin runs a stream's receiver, which ends after the stream does. It returns
// false if the hub has ended.
func (h *Hub) begin(receiver func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return false
	}
	h.streams.Go(receiver)
	return true
}

// receive hands requests over until the stream ends. The end of the requests is
// reported as nil.
func receive(
	stream grpc.BidiStreamingServer[cdnv1.ShareCapacityRequest, cdnv1.ShareCapacityResponse],
	requests chan<- *cdnv1.ShareCapacityRequest, failed chan<- error,
) {
	for {
		req, err := stream.Recv()
		if err != nil {
			failed <- ended(err)
			return
		}
		select {
		case requests <- req:
		case <-stream.Context().Done():
			return
		}
	}
}

// join adds a scheduler, in place of what an earlier stream of it has reported.
func (h *Hub) join(id string) (*share, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.shares[id]
	if old == nil && len(h.shares) >= mostSchedulers {
		return nil, rpcerr.New(codes.ResourceExhausted, "", "%d schedulers have a stream already", mostSchedulers)
	}
	if old != nil {
		close(old.replaced)
	}
	s := &share{changed: make(chan struct{}, 1), replaced: make(chan struct{})}
	h.shares[id] = s
	return s, nil
}

func (h *Hub) leave(id string, s *share) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.shares[id] == s {
		delete(h.shares, id)
	}
}

// update records a scheduler's demand. A first one is answered at once.
func (h *Hub) update(s *share, req *cdnv1.ShareCapacityRequest, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.demand = demand{inFlight: min(max(int(req.GetInFlight()), 0), window.Max), limited: req.GetLimited()}
	s.heard = now
	h.limited = h.limited || req.GetLimited()
	if s.window == 0 {
		h.divide(now)
	}
}

func (h *Hub) response(s *share) *cdnv1.ShareCapacityResponse {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &cdnv1.ShareCapacityResponse{Window: int32(s.window), DeliveryRate: h.rate()}
}
