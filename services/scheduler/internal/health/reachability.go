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
	// reachTimeout bounds the pings of one call of Reachable, and askTimeout the call
	// to another scheduler, which sends such pings: clients wait for the results.
	reachTimeout = 300 * time.Millisecond
	askTimeout   = 600 * time.Millisecond
	// maxPings is the number of CDNs that are pinged at the same time. CDNs that hang
	// take up the whole reachTimeout.
	maxPings = 256
	// answerTTL is how long a result is shared. When all CDNs are lost, every task
	// asks at the same time.
	answerTTL = time.Second
)

// Members lists the members of the cluster.
type Members interface {
	Members(role cluster.Role) []cluster.Member
	// Changed returns a channel that is closed when the list changes.
	Changed() <-chan struct{}
}

// Reachability reports which CDNs answer this scheduler and others. It is safe for
// concurrent use. Isolated returns false until Run has watched the CDNs.
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

// NewReachability returns a Reachability that pings the CDNs with the given monitor.
func NewReachability(monitor *Monitor, members Members, dial Dial) *Reachability {
	return &Reachability{monitor: monitor, members: members, dial: dial, answers: make(map[string]answer)}
}

// Run watches all CDNs until ctx ends.
func (r *Reachability) Run(ctx context.Context) {
	watched := make(map[cluster.Member]func()) // by id and endpoint; the other fields are empty
	defer func() {
		for _, release := range watched {
			release()
		}
	}()
	for {
		changed := r.members.Changed()
		current := make(map[cluster.Member]bool)
		for _, m := range r.members.Members(cluster.CDN) {
			m = cluster.Member{ID: m.ID, Endpoint: m.Endpoint}
			current[m] = true
			if watched[m] == nil {
				watched[m] = r.monitor.Watch(m.ID, m.Endpoint)
			}
		}
		for m, release := range watched {
			if !current[m] {
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

// Reachable pings the CDNs that are not draining and returns the sorted ids of those
// that answer.
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
	_ = pings.Wait() // its functions return no errors
	slices.Sort(ids)
	return ids
}

// Isolated reports whether there are CDNs that are not draining, and none of them
// answers: neither the last periodic ping nor one that is sent now.
func (r *Reachability) Isolated(ctx context.Context) bool {
	active := r.active()
	for _, m := range active {
		if !r.monitor.Missed(m.ID) {
			return false
		}
	}
	return len(active) > 0 && len(r.shared(ctx, self, func(ctx context.Context) ([]string, error) { return r.Reachable(ctx), nil }).cdns) == 0
}

// active returns the CDNs that are not draining.
func (r *Reachability) active() []cluster.Member {
	return slices.DeleteFunc(slices.Clone(r.members.Members(cluster.CDN)), func(m cluster.Member) bool { return m.Draining })
}

// self is the key of this scheduler among the endpoints of other schedulers.
const self = ""

// ReachableFrom returns what Reachable returns at another scheduler, at most answerTTL
// ago.
func (r *Reachability) ReachableFrom(ctx context.Context, endpoint string) ([]string, error) {
	a := r.shared(ctx, endpoint, func(ctx context.Context) ([]string, error) { return r.ask(ctx, endpoint) })
	return a.cdns, a.err
}

// shared returns the result of find. All callers with the same key share one result
// for answerTTL.
func (r *Reachability) shared(ctx context.Context, key string, find func(context.Context) ([]string, error)) answer {
	// Other callers share the result, so the first caller's end must not stop it.
	ctx = context.WithoutCancel(ctx)
	got, _, _ := r.calls.Do(key, func() (any, error) {
		if a, ok := r.cached(key); ok {
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

// cached returns the answer for a key that is not older than answerTTL, and deletes all
// older answers.
func (r *Reachability) cached(key string) (answer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, a := range r.answers {
		if time.Since(a.at) >= answerTTL {
			delete(r.answers, k)
		}
	}
	a, ok := r.answers[key]
	return a, ok
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
		return nil, fmt.Errorf("asking scheduler %s which CDNs answer it: %w", endpoint, err)
	}
	return resp.GetCdnIds(), nil
}
