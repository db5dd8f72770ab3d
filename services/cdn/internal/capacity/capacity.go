// Package capacity divides the transfers that an instance can have in flight among the
// schedulers that assign them to peers. The instance finds its window from what the
// download server sends (pkg/window). Each scheduler has a stream on which it reports
// its demand and receives its part of the window.
//
// Invariants:
//
//   - Schedulers are not trusted: their numbers are clamped, and their number is
//     bounded by maxSchedulers.
//   - The demand of a scheduler that has not reported for silenceTimeout is ignored.
//     It keeps a part of one transfer until its stream ends.
//   - A scheduler has one stream. A newer one replaces the older one.
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
	// maxResponseInterval is the maximum time between two responses on a stream.
	maxResponseInterval = time.Second
	// silenceTimeout is the time without a request after which the demand of a
	// scheduler is ignored.
	silenceTimeout = 3 * time.Second
	// maxSchedulers is the maximum number of schedulers that have a stream.
	maxSchedulers = 1024
	// maxID is the maximum length of a scheduler's id in bytes.
	maxID = 255
	// rateSamples is the number of intervals over which the delivery rate is averaged.
	rateSamples = 10
)

// Sent returns the numbers of bytes sent and of transfers ended since the start.
type Sent func() (bytes, ended int64)

// Hub divides the window of an instance. It is safe for concurrent use.
type Hub struct {
	sent    Sent
	stopped chan struct{} // closed when Run ends
	streams sync.WaitGroup

	mu      sync.Mutex // guards the rest
	ended   bool       // no further stream is accepted
	control *window.Controller
	shares  map[string]*share // by scheduler
	limited bool              // a scheduler was limited since the last sample
	sizes   []int64           // values of bytes sent in the last samples, oldest first
	times   []time.Time       // times of these samples
}

// share is the part of a scheduler. The mutex of the hub guards it.
type share struct {
	demand   demand
	reported time.Time     // time of the last report of the demand
	window   int           // 0 before the first division
	changed  chan struct{} // has one element if the window has changed
	replaced chan struct{} // closed when the scheduler has a newer stream
}

// New returns a hub. sent counts what the instance sends.
func New(sent Sent) *Hub {
	return &Hub{sent: sent, stopped: make(chan struct{}), control: window.New(), shares: make(map[string]*share)}
}

// Collectors returns the metrics, for registration.
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
		gauge("supernode_cdn_transfers_in_flight", "Transfers from this CDN that schedulers report as assigned and not ended.",
			func() float64 { return float64(h.inFlight(time.Now(), false)) }),
		gauge("supernode_cdn_delivery_rate_bytes", "Bytes per second that this CDN sent to peers during the last second.",
			func() float64 { return float64(h.rate()) }),
		gauge("supernode_cdn_capacity_schedulers", "Schedulers that share the capacity of this CDN.",
			func() float64 { return float64(len(h.shares)) }),
	}
}

// Run takes samples and divides the window until ctx ends. Then it ends all streams and
// waits for their receivers.
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

// sample passes the current state to the controller, and divides its window.
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

// divide sets the part of each scheduler. The caller holds mu.
func (h *Hub) divide(now time.Time) {
	var active []*share
	var demands []demand
	for _, id := range slices.Sorted(maps.Keys(h.shares)) { // sorted, so that the same schedulers get the remainder each time
		s := h.shares[id]
		if now.Sub(s.reported) > silenceTimeout {
			s.set(1)
			continue
		}
		active, demands = append(active, s), append(demands, s.demand)
	}
	for i, part := range split(h.control.Window(), demands) {
		active[i].set(part)
	}
}

func (s *share) set(window int) {
	if s.window == window {
		return
	}
	s.window = window
	select {
	case s.changed <- struct{}{}:
	default: // the change has been signaled already
	}
}

// inFlight returns the number of transfers that schedulers report. If capped is set, a
// scheduler counts with its window at most. The caller holds mu.
func (h *Hub) inFlight(now time.Time, capped bool) int {
	total := 0
	for _, s := range h.shares {
		switch {
		case now.Sub(s.reported) > silenceTimeout:
		case capped:
			total += min(s.demand.inFlight, s.window)
		default:
			total += s.demand.inFlight
		}
	}
	return total
}

// rate returns the bytes per second sent during the last rateSamples intervals. The
// caller holds mu.
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

// Share serves the stream of a scheduler until the stream or the hub ends.
func (h *Hub) Share(stream grpc.BidiStreamingServer[cdnv1.ShareCapacityRequest, cdnv1.ShareCapacityResponse]) error {
	requests, failed := make(chan *cdnv1.ShareCapacityRequest), make(chan error, 1)
	if !h.begin(func() { receive(stream, requests, failed) }) {
		return errStopping()
	}
	var s *share
	var id string
	var changed, replaced chan struct{} // nil, and so never ready, before the first request
	overdue := time.NewTimer(maxResponseInterval)
	defer overdue.Stop()
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
		case <-overdue.C:
		}
		overdue.Reset(maxResponseInterval)
		if s == nil {
			continue
		}
		if err := stream.Send(h.response(s)); err != nil {
			return err
		}
	}
}

// begin starts the receiver of a stream on a goroutine. The receiver ends after the
// stream. begin returns false if the hub has ended.
func (h *Hub) begin(receiver func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return false
	}
	h.streams.Go(receiver)
	return true
}

// receive sends each request to requests, and the error of the stream to failed. It
// reports io.EOF, the regular end of the requests, as nil.
func receive(
	stream grpc.BidiStreamingServer[cdnv1.ShareCapacityRequest, cdnv1.ShareCapacityResponse],
	requests chan<- *cdnv1.ShareCapacityRequest, failed chan<- error,
) {
	for {
		req, err := stream.Recv()
		if err != nil {
			failed <- ignoreEOF(err)
			return
		}
		select {
		case requests <- req:
		case <-stream.Context().Done():
			return
		}
	}
}

// join adds a scheduler. If it has an older stream, join ends that stream and discards
// its demand.
func (h *Hub) join(id string) (*share, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.shares[id]
	if old == nil && len(h.shares) >= maxSchedulers {
		return nil, rpcerr.New(codes.ResourceExhausted, "", "%d schedulers have a stream already", maxSchedulers)
	}
	if old != nil {
		close(old.replaced)
	}
	s := &share{changed: make(chan struct{}, 1), replaced: make(chan struct{})}
	h.shares[id] = s
	return s, nil
}

// leave removes a scheduler, unless a newer stream has replaced s.
func (h *Hub) leave(id string, s *share) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.shares[id] == s {
		delete(h.shares, id)
	}
}

// update records the demand of a scheduler. The first one causes a division, so that
// the scheduler gets a response at once.
func (h *Hub) update(s *share, req *cdnv1.ShareCapacityRequest, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.demand = demand{inFlight: min(max(int(req.GetInFlight()), 0), window.Max), limited: req.GetLimited()}
	s.reported = now
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
