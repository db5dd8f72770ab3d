// Package reach is which CDNs answer: this scheduler, which pings all that are
// members, and another scheduler, which is asked. What is done about a task
// that no CDN can be had for here is decided in internal/table.
package reach

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
)

const (
	// askTimeout bounds the question to another scheduler: clients wait for what
	// comes of it.
	askTimeout = 500 * time.Millisecond
	// fresh is how long its answer counts. When the CDNs are gone all tasks ask.
	fresh = time.Second
)

// Members are the members of the cluster.
type Members interface {
	Members(role cluster.Role) []cluster.Member
	// Changed is closed when the list is another one than now.
	Changed() <-chan struct{}
}

// Reach is safe for concurrent use. It knows of nobody until Run.
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

// Heard are the CDNs that take work and answered when they were pinged last.
func (r *Reach) Heard() []string {
	var ids []string
	for _, m := range r.ready() {
		if answered, _ := r.health.Last(m.ID); answered {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// Deaf tells whether there are CDNs that take work, beside those that the
// caller cannot use, and none of them answered when it was pinged last.
func (r *Reach) Deaf(unusable []string) bool {
	others := slices.DeleteFunc(r.ready(), func(m cluster.Member) bool { return slices.Contains(unusable, m.ID) })
	for _, m := range others {
		if _, missed := r.health.Last(m.ID); !missed {
			return false
		}
	}
	return len(others) > 0
}

func (r *Reach) ready() []cluster.Member {
	return slices.DeleteFunc(slices.Clone(r.members.Members(cluster.CDN)), func(m cluster.Member) bool { return m.Draining })
}

// HeardAt gives what another scheduler says of Heard, a moment ago at most.
func (r *Reach) HeardAt(ctx context.Context, endpoint string) ([]string, error) {
	r.mu.Lock()
	last, known := r.answers[endpoint]
	r.mu.Unlock()
	if known && time.Since(last.at) < fresh {
		return last.cdns, last.err
	}
	// Others rely on the answer though the first who asked may leave.
	ctx = context.WithoutCancel(ctx)
	got, _, _ := r.asking.Do(endpoint, func() (any, error) {
		cdns, err := r.ask(ctx, endpoint)
		a := answer{at: time.Now(), cdns: cdns, err: err}
		r.mu.Lock()
		defer r.mu.Unlock()
		for e, old := range r.answers { // those of schedulers that are no more
			if time.Since(old.at) >= fresh {
				delete(r.answers, e)
			}
		}
		r.answers[endpoint] = a
		return a, nil
	})
	a, _ := got.(answer)
	return a.cdns, a.err
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
