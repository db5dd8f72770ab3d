// Package health decides which instances are alive, as far as this scheduler can see. A
// Monitor pings instances with gRPC health checks, on the same connections as all
// other calls, and reports those that stop answering and those that answer again.
// Reachability reports which CDNs answer this scheduler, and asks other schedulers
// which CDNs answer them. Package follower decides what the loss of an instance
// means for a task, and the registry decides which instances are members.
//
//	healthy --a ping fails--> missed --a second ping in a row fails--> suspect
//	healthy, missed --the connection is refused or cannot be restored--> suspect
//	missed, suspect --an answer--> healthy
//
// Invariants:
//
//   - Any answer to a ping counts: an instance that is draining, or that does not
//     implement the health service, is alive. An instance stopped by SIGSTOP keeps
//     its connections but answers no ping.
//   - An instance is pinged periodically only while it is watched.
//   - At most one ping of an instance runs at a time. Concurrent callers share it.
package health

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Config holds the timing of pings.
type Config struct {
	// Interval is the time between two pings of a watched instance.
	Interval time.Duration
	// Timeout is the time that an instance has to answer a ping.
	Timeout time.Duration
}

// Default returns the configuration for a cluster.
func Default() Config { return Config{Interval: time.Second, Timeout: 1500 * time.Millisecond} }

const (
	// suspectAfter is the number of failed pings in a row that make an instance a
	// suspect.
	suspectAfter = 2
	// minPokeInterval is the minimum time between the last ping of an instance and a
	// ping that Poke starts: all clients of a failed instance report it at the same
	// time.
	minPokeInterval = 100 * time.Millisecond
)

// Dial connects to an endpoint. It keeps the connections.
type Dial func(endpoint string) (grpc.ClientConnInterface, error)

// Monitor watches instances. It is safe for concurrent use.
type Monitor struct {
	cfg    Config
	dial   Dial
	log    *zap.Logger
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex // guards instances, their fields, and changed
	instances map[string]*instance
	changed   chan struct{}
}

// instance is a watched instance.
type instance struct {
	id       string
	endpoint string
	watchers int
	stop     context.CancelFunc
	missed   int // failed pings in a row
	suspect  bool
	pinging  *pingCall // nil if no ping is running
	pingedAt time.Time // when the last ping ended
}

// pingCall is a running ping. Several callers may wait for it.
type pingCall struct {
	done chan struct{} // closed when err is set
	err  error
}

// New returns a monitor that watches no instance yet. The caller must close it.
func New(cfg Config, dial Dial, log *zap.Logger) *Monitor {
	ctx, cancel := context.WithCancel(context.Background())
	return &Monitor{
		cfg: cfg, dial: dial, log: log, ctx: ctx, cancel: cancel,
		instances: make(map[string]*instance), changed: make(chan struct{}),
	}
}

// Close cancels all pings and waits for them.
func (m *Monitor) Close() {
	m.mu.Lock() // under the lock, so that no ping is started after wg.Wait
	m.cancel()
	m.mu.Unlock()
	m.wg.Wait()
}

// Watch pings an instance periodically until release is called. An instance may be
// watched several times: it is pinged until the last watcher has released it.
func (m *Monitor) Watch(id, endpoint string) (release func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	in := m.instances[id]
	if in == nil {
		ctx, stop := context.WithCancel(m.ctx)
		in = &instance{id: id, endpoint: endpoint, stop: stop}
		m.instances[id] = in
		if m.ctx.Err() == nil {
			m.wg.Go(func() { m.watch(ctx, in) })
		}
	}
	in.watchers++
	in.endpoint = endpoint
	return sync.OnceFunc(func() { m.release(in) })
}

func (m *Monitor) release(in *instance) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if in.watchers--; in.watchers > 0 {
		return
	}
	in.stop()
	delete(m.instances, in.id)
}

func (m *Monitor) watch(ctx context.Context, in *instance) {
	tick := time.NewTicker(m.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = m.pingAndWait(ctx, in) // record has processed the result
		}
	}
}

// Suspect reports whether an instance is watched and is a suspect.
func (m *Monitor) Suspect(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	in := m.instances[id]
	return in != nil && in.suspect
}

// Missed reports whether an instance is watched and has not answered the last ping.
func (m *Monitor) Missed(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	in := m.instances[id]
	return in != nil && in.missed > 0
}

// Suspects returns the sorted ids of all suspects.
func (m *Monitor) Suspects() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(func(yield func(string) bool) {
		for id, in := range maps.All(m.instances) {
			if in.suspect && !yield(id) {
				return
			}
		}
	})
}

// Changed returns a channel that is closed when an instance becomes a suspect or stops
// being one.
func (m *Monitor) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Check pings an instance, whether it is watched or not. It returns an error if the
// instance does not answer.
func (m *Monitor) Check(ctx context.Context, id, endpoint string) error {
	release := m.Watch(id, endpoint)
	defer release()
	m.mu.Lock()
	in := m.instances[id]
	m.mu.Unlock()
	if in == nil {
		return fmt.Errorf("pinging %s: the monitor is closed", id)
	}
	return m.pingAndWait(ctx, in)
}

// Poke pings a watched instance without waiting for the answer, unless a ping has ended
// within minPokeInterval.
func (m *Monitor) Poke(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if in := m.instances[id]; in != nil && time.Since(in.pingedAt) >= minPokeInterval {
		m.startPing(in)
	}
}

// pingAndWait starts a ping, or joins the running one, and waits for its end.
func (m *Monitor) pingAndWait(ctx context.Context, in *instance) error {
	m.mu.Lock()
	call := m.startPing(in)
	m.mu.Unlock()
	select {
	case <-call.done:
		return call.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// startPing starts a ping, or returns the running one. The caller holds mu.
func (m *Monitor) startPing(in *instance) *pingCall {
	if in.pinging != nil {
		return in.pinging
	}
	call := &pingCall{done: make(chan struct{})}
	if call.err = m.ctx.Err(); call.err != nil {
		close(call.done)
		return call
	}
	in.pinging = call
	endpoint := in.endpoint
	m.wg.Go(func() {
		refused, err := m.ping(m.ctx, endpoint)
		m.record(in, refused, err)
		call.err = err
		close(call.done)
	})
	return call
}

// record applies the result of a ping to an instance.
func (m *Monitor) record(in *instance, refused bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	in.pinging, in.pingedAt = nil, time.Now()
	wasSuspect := in.suspect
	switch {
	case m.ctx.Err() != nil:
		return
	case err == nil:
		in.missed, in.suspect = 0, false
	default:
		in.missed++
		in.suspect = wasSuspect || refused || in.missed >= suspectAfter
	}
	if in.suspect == wasSuspect {
		return
	}
	if in.suspect {
		m.log.Warn("the instance does not answer pings; treating it as lost until it answers", zap.String("member_id", in.id), zap.Error(err))
	} else {
		m.log.Info("the instance answers pings again", zap.String("member_id", in.id))
	}
	close(m.changed)
	m.changed = make(chan struct{})
}
