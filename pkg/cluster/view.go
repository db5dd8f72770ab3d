package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
)

// firstListTimeout is the maximum wait for the first list of a stream. A registry that
// cannot read its store sends no list; after the timeout another registry is asked.
const firstListTimeout = 5 * time.Second

// View holds the list of members that the registry sent last. It does not change while
// the registry is unavailable. It is safe for concurrent use.
type View struct {
	registry registryv1.RegistryServiceClient
	log      *zap.Logger
	roles    []Role

	first   sync.Once
	ready   chan struct{} // closed when the first list has arrived
	members atomic.Pointer[map[Role][]Member]

	mu      sync.Mutex    // guards changed
	changed chan struct{} // closed at the next change of the list
}

// NewView returns a view of the members of the given roles, or of all roles if none is
// given. It is empty until Run has received the first list.
func NewView(registry registryv1.RegistryServiceClient, log *zap.Logger, roles ...Role) *View {
	v := &View{registry: registry, log: log, roles: roles, ready: make(chan struct{}), changed: make(chan struct{})}
	v.members.Store(&map[Role][]Member{})
	return v
}

// Run receives lists from the registry until ctx ends.
func (v *View) Run(ctx context.Context) error {
	warned := false
	for ctx.Err() == nil {
		received, err := v.follow(ctx)
		warned = warned && !received
		if err != nil && ctx.Err() == nil && !warned {
			v.log.Warn("cannot receive the list of members; using the last one and trying again", zap.Error(err))
			warned = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryDelay):
		}
	}
	return nil
}

// follow applies lists until the stream ends. received is set if there was one.
func (v *View) follow(ctx context.Context) (received bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(firstListTimeout, cancel)
	defer watchdog.Stop()
	stream, err := v.registry.WatchMembers(ctx, &registryv1.WatchMembersRequest{Roles: v.roles})
	if err != nil {
		return false, fmt.Errorf("watching members: %w", err)
	}
	for {
		list, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return received, nil
		}
		if err != nil {
			return received, fmt.Errorf("watching members: %w", err)
		}
		watchdog.Stop()
		received = true
		v.apply(list.GetMembers())
	}
}

// apply replaces the list of members.
func (v *View) apply(list []*registryv1.Member) {
	members := make(map[Role][]Member)
	for _, m := range list {
		members[m.GetRole()] = append(members[m.GetRole()], FromProto(m))
	}
	// The first list of a new stream is usually equal to the last one.
	same := maps.EqualFunc(*v.members.Load(), members, slices.Equal[[]Member])
	v.members.Store(&members)
	v.first.Do(func() { close(v.ready) })
	if same {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.changed)
	v.changed = make(chan struct{})
}

// Changed returns a channel that is closed at the next change of the list. A caller
// that calls it before it reads the list misses no change.
func (v *View) Changed() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

// Ready waits until the first list has arrived.
func (v *View) Ready(ctx context.Context) error {
	select {
	case <-v.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the list of members: %w", ctx.Err())
	}
}

// CanServe returns nil if the cluster can serve downloads: the view has a scheduler and a
// CDN. Otherwise its error names the missing role.
func (v *View) CanServe(ctx context.Context) error {
	if err := v.Ready(ctx); err != nil {
		return err
	}
	for _, role := range []Role{Scheduler, CDN} {
		if len(v.Members(role)) == 0 {
			return fmt.Errorf("the cluster has no %s", strings.ToLower(strings.TrimPrefix(role.String(), "ROLE_")))
		}
	}
	return nil
}

// Schedulers returns the schedulers, including draining ones, sorted by id. The result
// must not be modified.
func (v *View) Schedulers() []Member { return v.Members(Scheduler) }

// Members returns the members of a role, including draining ones, sorted by id. The
// result must not be modified.
func (v *View) Members(role Role) []Member { return (*v.members.Load())[role] }

// Find returns a member, and false if there is none with that id.
func (v *View) Find(role Role, id string) (Member, bool) {
	members := v.Members(role)
	i := slices.IndexFunc(members, func(m Member) bool { return m.ID == id })
	if i < 0 {
		return Member{}, false
	}
	return members[i], true
}
