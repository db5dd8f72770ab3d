package health

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
)

const (
	// reachTimeout bounds a ping that somebody waits for, askTimeout the question to
	// another scheduler, who pings: clients wait for what comes of it.
	reachTimeout = 300 * time.Millisecond
	askTimeout   = 600 * time.Millisecond
	// maxPings is how many CDNs are pinged at the same time. Those that hang take
	// all the time that there is.
	maxPings = 256
	// answerTTL is how long an answer counts. When the CDNs are gone all tasks ask.
	answerTTL = time.Second
)

// Members are the members of the cluster.
type Members interface {
	Members(role cluster.Role) []cluster.Member
	// Changed is closed when the list is another one than now.
	Changed() <-chan struct{}
}

// Reachability is safe for concurrent use. Nobody is known to be silent until Run.
type Reachability struct {
	monitor *Monitor
	members Members
	dial    Dial
	calls   singleflight.Group

	mu      sync.Mutex        // guards answers
	answers map[string]answer // by endpoint
}

type answer struct {
	at   time.Time
	cdns []string
	err  error
}

// NewReachability makes a Reachability that has the monitor ping the CDNs.
func NewReachability(monitor *Monitor, members Members, dial Dial) *Reachability {
	return &Reachability{monitor: monitor, members: members, dial: dial, answers: make(map[string]answer)}
}

// Run watches all CDNs until ctx ends.
func (r *Reachability) Run(ctx context.Context) {
	watched := make(map[cluster.Member]func()) // by id and endpoint alone
	defer func() {
		for _, release := range watched {
			release()
		}
	}()
	for {
		changed := r.members.Changed()
		there := make(map[cluster.Member]bool)
		for _, m := range r.members.Members(cluster.CDN) {
			m = cluster.Member{ID: m.ID, Endpoint: m.Endpoint}
			there[m] = true
			if watched[m] == nil {
				watched[m] = r.monitor.Watch(m.ID, m.Endpoint)
			}
		}
		for m, release := range watched {
			if !there[m] {
				release()
				delete(watched, m)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// Reachable pings the CDNs that take work and gives those that answer.
func (r *Reachability) Reachable(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	var (
		mu  sync.Mutex // guards ids
		ids []string
	)
	var pings errgroup.Group
	pings.SetLimit(maxPings)
	for _, m := range r.active() {
		pings.Go(func() error {
			if r.monitor.Check(ctx, m.ID, m.Endpoint) == nil {
				mu.Lock()
				defer mu.Unlock()
				ids = append(ids, m.ID)
			}
			return nil
		})
	}
	_ = pings.Wait() // has no errors
	slices.Sort(ids)
	return ids
}

// Isolated tells whether there are CDNs that take work, and none of them answers:
// neither when it was pinged last nor now.
func (r *Reachability) Isolated(ctx context.Context) bool {
	active := r.active()
	for _, m := range active {
		if !r.monitor.Missed(m.ID) {
			return false
		}
	}
	return len(active) > 0 && len(r.shared(ctx, self, func(ctx context.Context) ([]string, error) { return r.Reachable(ctx), nil }).cdns) == 0
}

func (r *Reachability) active() []cluster.Member {
	return slices.DeleteFunc(slices.Clone(r.members.Members(cluster.CDN)), func(m cluster.Member) bool { return m.Draining })
}

// self stands for this scheduler among the endpoints of others.
const self = ""

// ReachableFrom gives what another scheduler says of Reachable, a moment ago at most.
func (r *Reachability) ReachableFrom(ctx context.Context, endpoint string) ([]string, error) {
	a := r.shared(ctx, endpoint, func(ctx context.Context) ([]string, error) { return r.ask(ctx, endpoint) })
	return a.cdns, a.err
}

// shared finds something out for all who ask within a moment.
func (r *Reachability) shared(ctx context.Context, key string, find func(context.Context) ([]string, error)) answer {
	// Others rely on the answer though the first who asked may leave.
	ctx = context.WithoutCancel(ctx)
	got, _, _ := r.calls.Do(key, func() (any, error) {
		if a, known := r.cached(key); known {
			return a, nil
		}
		cdns, err := find(ctx)
		a := answer{at: time.Now(), cdns: cdns, err: err}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.answers[key] = a
		return a, nil
	})
	a, _ := got.(answer)
	return a
}

// cached gives an answer that still counts, and forgets those that do not.
func (r *Reachability) cached(key string) (answer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, old := range r.answers {
		if time.Since(old.at) >= answerTTL {
			delete(r.answers, k)
		}
	}
	a, known := r.answers[key]
	return a, known
}

func (r *Reachability) ask(ctx context.Context, endpoint string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := r.dial(endpoint)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", endpoint, err)
	}
	resp, err := schedulerv1.NewSchedulerServiceClient(conn).ListReachable(ctx, &schedulerv1.ListReachableRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking %s which CDNs it reaches: %w", endpoint, err)
	}
	return resp.GetCdnIds(), nil
}
