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

// firstListWithin is how long a registry may take for its first list before
// another is asked: one that cannot read its store has none, and is silent.
const firstListWithin = 5 * time.Second

// View is who is in the cluster, as last heard from the registry. While the
// registry is silent it stays as it was. It is safe for concurrent use.
type View struct {
	registry registryv1.RegistryServiceClient
	log      *zap.Logger
	roles    []Role

	first   sync.Once
	ready   chan struct{} // closed when the first list is there
	members atomic.Pointer[map[Role][]Member]

	mu      sync.Mutex // guards changed
	changed chan struct{}
}

// NewView makes a view of the members of some roles, or of all. It is empty
// until Run has heard of the registry.
func NewView(registry registryv1.RegistryServiceClient, log *zap.Logger, roles ...Role) *View {
	v := &View{registry: registry, log: log, roles: roles, ready: make(chan struct{}), changed: make(chan struct{})}
	v.members.Store(&map[Role][]Member{})
	return v
}

// Run follows the registry until ctx ends.
func (v *View) Run(ctx context.Context) error {
	warned := false
	for ctx.Err() == nil {
		told, err := v.follow(ctx)
		warned = warned && !told
		if err != nil && ctx.Err() == nil && !warned {
			v.log.Warn("lost the list of members; going on with the last one", zap.Error(err))
			warned = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
		}
	}
	return nil
}

// follow takes lists until the stream ends, and says whether there was any.
func (v *View) follow(ctx context.Context) (told bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(firstListWithin, cancel)
	defer silent.Stop()
	stream, err := v.registry.WatchMembers(ctx, &registryv1.WatchMembersRequest{Roles: v.roles})
	if err != nil {
		return false, fmt.Errorf("watching members: %w", err)
	}
	for {
		list, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return told, nil
		}
		if err != nil {
			return told, fmt.Errorf("watching members: %w", err)
		}
		silent.Stop()
		told = true
		v.take(list.GetMembers())
	}
}

func (v *View) take(list []*registryv1.Member) {
	members := make(map[Role][]Member)
	for _, m := range list {
		members[m.GetRole()] = append(members[m.GetRole()], FromProto(m))
	}
	// A registry that is asked anew repeats what is known.
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

// Changed is closed when the list is another one than now. Who asks for it
// before looking at the list misses nothing.
func (v *View) Changed() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

// Ready waits for the first list.
func (v *View) Ready(ctx context.Context) error {
	select {
	case <-v.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the list of members: %w", ctx.Err())
	}
}

// CanServe says whether the cluster, as seen from here, can take a download:
// the error names what is missing.
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

// Schedulers are the schedulers that take work. The result must not be changed.
func (v *View) Schedulers() []Member { return v.Members(Scheduler) }

// Members are those of a role, draining ones too, sorted by id. The result
// must not be changed.
func (v *View) Members(role Role) []Member { return (*v.members.Load())[role] }

// Find gives one member.
func (v *View) Find(role Role, id string) (Member, bool) {
	members := v.Members(role)
	i := slices.IndexFunc(members, func(m Member) bool { return m.ID == id })
	if i < 0 {
		return Member{}, false
	}
	return members[i], true
}
