// Package resolver is who has a task, as the registry says: which CDNs have its
// copies and which scheduler answers for it. It asks, claims what was lost, and
// hears of changes. What a scheduler does about it is decided elsewhere: which
// copy is followed in internal/follower, what a caller is told in internal/taskmanager.
package resolver

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/ring"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
)

const (
	// requestTimeout bounds one question to the registry.
	requestTimeout = 2 * time.Second
	// maxRequests is how many questions are under way at the same time: when an
	// instance dies all its tasks ask.
	maxRequests = 64
)

// Deps are what a resolver needs.
type Deps struct {
	// SelfID is the scheduler's member id.
	SelfID   string
	Registry registryv1.RegistryServiceClient
	// CDNs are the CDN members, FindScheduler looks a scheduler up.
	CDNs          func() []cluster.Member
	FindScheduler func(id string) (cluster.Member, bool)
	// Schedulers pings schedulers and nobody else: who is suspect of the CDNs is
	// told the registry. Close ends it.
	Schedulers *health.Monitor
	Log        *zap.Logger
	// TookOver is called for each task that was taken from a dead scheduler.
	TookOver func()
}

// Resolver asks the registry on behalf of one scheduler. It is safe for
// concurrent use.
type Resolver struct {
	Deps
	slots         chan struct{}
	lookups       lookups
	subscriptions subscriptions
}

// New makes a resolver; Close must follow.
func New(deps Deps) *Resolver {
	return &Resolver{
		Deps: deps, slots: make(chan struct{}, maxRequests),
		lookups:       lookups{inFlight: make(map[string]*lookup)},
		subscriptions: subscriptions{byTask: make(map[string]*Subscription)},
	}
}

// Close ends what the resolver has under way at other schedulers.
func (r *Resolver) Close() { r.Schedulers.Close() }

// Claim is who has a task. The zero Claim is of nobody.
type Claim struct {
	// Epoch counts the changes of owner and scheduler, 0 while nobody has agreed.
	Epoch int64
	// Owner is the CDN that fetches the task; Replicas have copies, or make them.
	Owner    cluster.Member
	Replicas []cluster.Member
	// Unclaimed says that the store was not asked: ask again.
	Unclaimed bool

	record *registryv1.TaskRecord
}

// Known tells whether the claim names anybody.
func (c Claim) Known() bool { return c.record != nil }

// Same tells whether two claims are of the same record.
func (c Claim) Same(other Claim) bool {
	return c.Epoch == other.Epoch && c.record.GetRevision() == other.record.GetRevision() &&
		c.record.GetOwner() == other.record.GetOwner()
}

// Version is the one that is being fetched, if any is and it is known which:
// somebody may have pieces of it though nobody here does.
func (c Claim) Version() (source *registryv1.SourceIdentity, pieceSize int32, running bool) {
	running = c.record.GetStatus() == registryv1.TaskStatus_TASK_STATUS_RUNNING &&
		c.record.GetPieceSize() > 0 && c.record.GetSource().GetLength() >= 0
	return c.record.GetSource(), c.record.GetPieceSize(), running
}

// ReplicaIDs are the ids of the CDNs that the record names beside the owner.
func (c Claim) ReplicaIDs() []string { return c.record.GetReplicas() }

// Lost is what the caller tried in vain.
type Lost struct {
	// Owner is a CDN that does not answer or cannot have the task.
	Owner string
	// Excluded must not become owner.
	Excluded []string
}

// Resolve asks who has a task and claims what is lost of it. Last is the claim
// that the caller saw last. Who has none, or one that nobody agreed on, takes
// the task over from a scheduler that is dead; who had the task does not:
// another one that answers for it then took it. NOT_OWNER says that one does.
//
// While no registry answers the last claim goes on, or the CDN is taken that a
// registry would name.
func (r *Resolver) Resolve(ctx context.Context, taskID, taskURL string, last Claim, lost Lost) (Claim, error) {
	req := &registryv1.ResolveTaskRequest{
		TaskId: taskID, Url: taskURL, SchedulerId: r.SelfID, Last: last.record, LostOwner: lost.Owner, Excluded: lost.Excluded,
	}
	resp, err := r.ask(ctx, req)
	if err != nil {
		if isUnavailable(err) && ctx.Err() == nil {
			return r.resolveAlone(taskID, taskURL, last, lost, err)
		}
		return Claim{}, err
	}
	if other := resp.GetRecord().GetScheduler(); other != r.SelfID && other != "" {
		if resp, err = r.resolveOther(ctx, req, resp, !last.Known() || last.Unclaimed); err != nil {
			return Claim{}, err
		}
	}
	return r.claimFromResponse(resp, taskID, taskURL, lost)
}

// resolveOther takes an answer that names another scheduler. Who may take the task
// does when that one is dead.
func (r *Resolver) resolveOther(
	ctx context.Context, req *registryv1.ResolveTaskRequest, resp *registryv1.ResolveTaskResponse, mayTake bool,
) (*registryv1.ResolveTaskResponse, error) {
	other := resp.GetRecord().GetScheduler()
	if !mayTake && !resp.GetUnclaimed() {
		return nil, NotOwner(other, resp.GetScheduler().GetEndpoint())
	}
	p, endpoint := r.checkLiveness(ctx, other, resp.GetScheduler().GetEndpoint())
	if p == alive {
		return nil, NotOwner(other, endpoint)
	}
	return r.takeOver(ctx, req, resp.GetRecord(), p)
}

// claimFromResponse makes a claim of an answer.
func (r *Resolver) claimFromResponse(resp *registryv1.ResolveTaskResponse, taskID, taskURL string, lost Lost) (Claim, error) {
	record := resp.GetRecord()
	c := Claim{Epoch: record.GetEpoch(), Unclaimed: resp.GetUnclaimed(), record: record}
	if c.Unclaimed && c.Epoch == 0 && lost.has(record.GetOwner()) {
		return r.chooseCDN(taskID, taskURL, lost)
	}
	if resp.GetOwner() == nil {
		return Claim{}, rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "the task's owner %s is not there", record.GetOwner())
	}
	c.Owner = cluster.FromProto(resp.GetOwner())
	for _, m := range resp.GetReplicas() {
		c.Replicas = append(c.Replicas, cluster.FromProto(m))
	}
	return c, nil
}

func (l Lost) has(id string) bool { return l.Owner == id || slices.Contains(l.Excluded, id) }

// isUnavailable tells that no registry answers, or that it knows nothing.
func isUnavailable(err error) bool {
	e := rpcerr.From(err)
	return e.Code == codes.Unavailable || e.Code == codes.DeadlineExceeded
}

// resolveAlone decides without a registry.
func (r *Resolver) resolveAlone(taskID, taskURL string, last Claim, lost Lost, cause error) (Claim, error) {
	if last.Known() && (last.Epoch > 0 || !lost.has(last.Owner.ID)) {
		last.Unclaimed = true
		return last, nil
	}
	c, err := r.chooseCDN(taskID, taskURL, lost)
	if err != nil {
		return Claim{}, fmt.Errorf("%w (%w)", cause, err)
	}
	return c, nil
}

// chooseCDN names the CDN that a registry would: the first in rendezvous order that
// takes work.
func (r *Resolver) chooseCDN(taskID, taskURL string, lost Lost) (Claim, error) {
	members := r.CDNs()
	var nodes []ring.Node
	for _, m := range members {
		if !m.Draining && !lost.has(m.ID) {
			nodes = append(nodes, ring.Node{ID: m.ID, Weight: int(m.Capacity)})
		}
	}
	id, there := ring.First(taskID, nodes)
	if !there {
		return Claim{}, rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "no CDN takes the task")
	}
	i := slices.IndexFunc(members, func(m cluster.Member) bool { return m.ID == id })
	return Claim{Owner: members[i], Unclaimed: true, record: &registryv1.TaskRecord{
		TaskId: taskID, Url: stripURL(taskURL), Owner: id, Scheduler: r.SelfID,
		Status: registryv1.TaskStatus_TASK_STATUS_WAITING,
	}}, nil
}

// stripURL is a URL without what must not be kept.
func stripURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	u.User, u.Fragment = nil, ""
	return u.String()
}

func (r *Resolver) ask(ctx context.Context, req *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
	ctx, release, err := r.acquireSlot(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	resp, err := r.Registry.ResolveTask(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("resolving the task: %w", err)
	}
	return resp, nil
}

// acquireSlot waits until a question may be asked, and gives the time that it may take.
func (r *Resolver) acquireSlot(ctx context.Context) (limited context.Context, release func(), err error) {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	return limited, func() {
		cancel()
		<-r.slots
	}, nil
}

// NotOwner says which scheduler answers for a task instead.
func NotOwner(id, endpoint string) error {
	return rpcerr.New(codes.FailedPrecondition, rpcerr.NotOwner, "scheduler %s answers for the task", id).
		With("scheduler_id", id).With("endpoint", endpoint)
}
