// Package health is which instances answer: it pings those that somebody
// watches, with gRPC health checks on the connections that everything else
// goes over, and tells when one does not answer any more, or again. What that
// means for a task is the following's business (internal/follower); that an
// instance is a member is the registry's.
//
//	answers --two pings in a row without an answer, or a refused connection--> suspect
//	suspect --an answer--> answers
//
// Any answer counts: an instance that drains or serves nothing of that name is
// there. One that is stopped (SIGSTOP) keeps its connections and answers none.
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

// Config is how instances are watched.
type Config struct {
	// Interval is the time between two pings.
	Interval time.Duration
	// Timeout is how long an instance may take to answer.
	Timeout time.Duration
}

// Default is what a cluster is watched with.
func Default() Config { return Config{Interval: time.Second, Timeout: 1500 * time.Millisecond} }

const (
	// suspectAfter in a row make a suspect.
	suspectAfter = 2
	// minPokeInterval is how long it takes at least until an instance is poked again:
	// all who cannot fetch from it say so.
	minPokeInterval = 100 * time.Millisecond
)

// Dial connects to an endpoint; it keeps the connections.
type Dial func(endpoint string) (grpc.ClientConnInterface, error)

// Monitor watches instances. It is safe for concurrent use.
type Monitor struct {
	cfg    Config
	dial   Dial
	log    *zap.Logger
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex // guards the rest
	instances map[string]*instance
	changed   chan struct{}
}

// instance is somebody who is watched. The monitor's lock guards it.
type instance struct {
	id       string
	endpoint string
	watchers int
	stop     context.CancelFunc
	missed   int
	suspect  bool
	pinging  *pingCall // under way
	pingedAt time.Time // when the last answer, or none, was there
}

// pingCall is a ping that several may wait for.
type pingCall struct {
	done chan struct{} // closed when err is there
	err  error
}

// New makes a monitor that watches nobody yet; Close must follow.
func New(cfg Config, dial Dial, log *zap.Logger) *Monitor {
	ctx, cancel := context.WithCancel(context.Background())
	return &Monitor{
		cfg: cfg, dial: dial, log: log, ctx: ctx, cancel: cancel,
		instances: make(map[string]*instance), changed: make(chan struct{}),
	}
}

// Close ends all pings and waits for them.
func (m *Monitor) Close() {
	m.mu.Lock() // nothing is begun any more that Wait would miss
	m.cancel()
	m.mu.Unlock()
	m.wg.Wait()
}

// Watch pings an instance until it is released as often as it was watched.
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
			_ = m.pingAndWait(ctx, in) // is noted there
		}
	}
}

// Suspect tells whether an instance is watched and does not answer.
func (m *Monitor) Suspect(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	in := m.instances[id]
	return in != nil && in.suspect
}

// Missed tells whether an instance is watched and did not answer the last ping.
func (m *Monitor) Missed(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	in := m.instances[id]
	return in != nil && in.missed > 0
}

// Suspects are all that do not answer, sorted.
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

// Changed is closed at the next change of who is suspect.
func (m *Monitor) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Check pings an instance now, whether it is watched or not, and gives an
// error when it does not answer. Who asks while somebody else does shares the
// answer.
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

// Poke pings a watched instance now, if it was not just asked, and does not
// wait for the answer.
func (m *Monitor) Poke(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if in := m.instances[id]; in != nil && time.Since(in.pingedAt) >= minPokeInterval {
		m.startPing(in)
	}
}

// pingAndWait pings, or joins the ping that is under way, and waits for the answer.
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

// record takes the result of a ping.
func (m *Monitor) record(in *instance, refused bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	in.pinging, in.pingedAt = nil, time.Now()
	was := in.suspect
	switch {
	case m.ctx.Err() != nil:
		return
	case err == nil:
		in.missed, in.suspect = 0, false
	default:
		in.missed++
		in.suspect = was || refused || in.missed >= suspectAfter
	}
	if in.suspect == was {
		return
	}
	if in.suspect {
		m.log.Warn("an instance does not answer", zap.String("member_id", in.id), zap.Error(err))
	} else {
		m.log.Info("an instance answers again", zap.String("member_id", in.id))
	}
	close(m.changed)
	m.changed = make(chan struct{})
}
