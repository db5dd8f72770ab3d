// Package reach is which CDNs answer: this scheduler, which pings all that are
// members, and another scheduler, which is asked. What is done about a task
// that no CDN can be had for here is decided in internal/taskmanager.
package reach

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
	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
)

const (
	// pingTimeout bounds a ping that somebody waits for, askTimeout the question to
	// another scheduler, who pings: clients wait for what comes of it.
	pingTimeout = 300 * time.Millisecond
	askTimeout  = 600 * time.Millisecond
	// pingsAtOnce is how many CDNs are pinged at the same time. Those that hang take
	// all the time that there is.
	pingsAtOnce = 256
	// fresh is how long an answer counts. When the CDNs are gone all tasks ask.
	fresh = time.Second
)

// Members are the members of the cluster.
type Members interface {
	Members(role cluster.Role) []cluster.Member
	// Changed is closed when the list is another one than now.
	Changed() <-chan struct{}
}

// Reach is safe for concurrent use. Nobody is known to be silent until Run.
type Reach struct {
	health  *health.Monitor
	members Members
	dial    health.Dial
	asking  singleflight.Group

	mu      sync.Mutex        // guards answers
	answers map[string]answer // by endpoint
}

type answer struct {
	at   time.Time
	cdns []string
	err  error
}

// New makes a Reach that has the monitor ping the CDNs.
func New(monitor *health.Monitor, members Members, dial health.Dial) *Reach {
	return &Reach{health: monitor, members: members, dial: dial, answers: make(map[string]answer)}
}

// Run watches all CDNs until ctx ends.
func (r *Reach) Run(ctx context.Context) {
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
				watched[m] = r.health.Watch(m.ID, m.Endpoint)
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

// Heard pings the CDNs that take work and gives those that answer.
func (r *Reach) Heard(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	var (
		mu  sync.Mutex // guards ids
		ids []string
	)
	var pings errgroup.Group
	pings.SetLimit(pingsAtOnce)
	for _, m := range r.ready() {
		pings.Go(func() error {
			if r.health.Check(ctx, m.ID, m.Endpoint) == nil {
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

// Deaf tells whether there are CDNs that take work, and none of them answers:
// neither when it was pinged last nor now.
func (r *Reach) Deaf(ctx context.Context) bool {
	ready := r.ready()
	for _, m := range ready {
		if !r.health.Missed(m.ID) {
			return false
		}
	}
	return len(ready) > 0 && len(r.once(ctx, self, func(ctx context.Context) ([]string, error) { return r.Heard(ctx), nil }).cdns) == 0
}

func (r *Reach) ready() []cluster.Member {
	return slices.DeleteFunc(slices.Clone(r.members.Members(cluster.CDN)), func(m cluster.Member) bool { return m.Draining })
}

// self stands for this scheduler among the endpoints of others.
const self = ""

// HeardAt gives what another scheduler says of Heard, a moment ago at most.
func (r *Reach) HeardAt(ctx context.Context, endpoint string) ([]string, error) {
	a := r.once(ctx, endpoint, func(ctx context.Context) ([]string, error) { return r.ask(ctx, endpoint) })
	return a.cdns, a.err
}

// once finds something out for all who ask within a moment.
func (r *Reach) once(ctx context.Context, key string, find func(context.Context) ([]string, error)) answer {
	// Others rely on the answer though the first who asked may leave.
	ctx = context.WithoutCancel(ctx)
	got, _, _ := r.asking.Do(key, func() (any, error) {
		if a, known := r.answered(key); known {
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

// answered gives an answer that still counts, and forgets those that do not.
func (r *Reach) answered(key string) (answer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, old := range r.answers {
		if time.Since(old.at) >= fresh {
			delete(r.answers, k)
		}
	}
	a, known := r.answers[key]
	return a, known
}

func (r *Reach) ask(ctx context.Context, endpoint string) ([]string, error) {
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
