// Package resolver resolves a task to its owner, its replicas and its scheduler. It
// asks the registry for the task's record, has it replace a lost owner or
// scheduler, and delivers changes of records to subscribers. Package follower
// follows the CDN copies that a claim names; package taskmanager creates and hands
// over tasks.
//
// If the record names another scheduler, that scheduler is checked before its task
// is taken over:
//
//	unchecked --a ping is answered or canceled--------------> alive: NOT_OWNER
//	unchecked --maxPings time out, or connection refused----> unresponsive: take over
//	unchecked --no endpoint is known------------------------> notMember: take over, if the
//	                                                          registry finds no member either
//
// Invariants:
//
//   - A scheduler that already held a claimed task never takes it back: if a record
//     that the store has confirmed names another scheduler, that scheduler took over.
//   - A ping that was canceled, by its caller or by the end of this process, does
//     not make a scheduler count as dead.
//   - Concurrent calls of Acquire for one task share one lookup.
//   - Every request to the registry holds a slot of the pool of its kind. So new tasks,
//     which clients can create at any rate, do not delay takeovers.
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
	// requestTimeout bounds one request to the registry.
	requestTimeout = 2 * time.Second
	// maxRequests is the number of concurrent requests to the registry of each kind.
	// When an instance dies, all its tasks are resolved at the same time.
	maxRequests = 64
)

// pool bounds the concurrent requests of one kind. It has one element per request that
// is running.
type pool chan struct{}

// acquire waits until a request may be sent. It returns the context of the request and a
// function that releases the slot.
func (p pool) acquire(ctx context.Context) (limited context.Context, release func(), err error) {
	select {
	case p <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("waiting for a slot for a request to the registry: %w", ctx.Err())
	}
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	return limited, func() {
		cancel()
		<-p
	}, nil
}

// Deps holds the dependencies of a resolver.
type Deps struct {
	// SelfID is this scheduler's member id.
	SelfID   string
	Registry registryv1.RegistryServiceClient
	// CDNs returns the CDN members. FindScheduler returns the scheduler with the
	// given id.
	CDNs          func() []cluster.Member
	FindScheduler func(id string) (cluster.Member, bool)
	// Schedulers pings schedulers only: the suspects of the monitor that watches
	// the CDNs are sent to the registry as excluded owners. Close closes it.
	Schedulers *health.Monitor
	Log        *zap.Logger
	// TookOver is called for each task that was taken over from a dead scheduler.
	TookOver func()
}

// Resolver resolves tasks for one scheduler. It is safe for concurrent use.
type Resolver struct {
	Deps
	// newTasks is for tasks that clients have just created.
	newTasks pool
	// failover is for tasks that peers download already: those whose owner or scheduler
	// is replaced, and those that this scheduler hands over.
	failover pool
	// reads is for the lookups of Acquire, each of which a client can cause.
	reads         pool
	lookups       lookups
	subscriptions subscriptions
}

// New returns a resolver. The caller must close it.
func New(deps Deps) *Resolver {
	return &Resolver{
		Deps: deps, newTasks: make(pool, maxRequests), failover: make(pool, maxRequests), reads: make(pool, maxRequests),
		lookups:       lookups{inFlight: make(map[string]*lookup)},
		subscriptions: subscriptions{byTask: make(map[string]*Subscription)},
	}
}

// Close cancels all pings of other schedulers, and waits for the lookups that are under
// way.
func (r *Resolver) Close() {
	r.lookups.mu.Lock()
	r.lookups.closed = true
	r.lookups.mu.Unlock()
	r.Schedulers.Close()
	r.lookups.work.Wait()
}

// Claim holds the CDNs that a task's record names. The zero Claim names none.
type Claim struct {
	// Epoch counts the changes of owner and scheduler. It is 0 until the store has
	// recorded the task.
	Epoch int64
	// Owner is the CDN that downloads the task from its source. Replicas have a
	// copy or are making one.
	Owner    cluster.Member
	Replicas []cluster.Member
	// Unclaimed is set if the store has not confirmed the claim. The task must be
	// resolved again.
	Unclaimed bool

	record *registryv1.TaskRecord
}

// Known reports whether the claim names a CDN.
func (c Claim) Known() bool { return c.record != nil }

// Same reports whether two claims hold the same revision of the record.
func (c Claim) Same(other Claim) bool {
	return c.Epoch == other.Epoch && c.record.GetRevision() == other.record.GetRevision() &&
		c.record.GetOwner() == other.record.GetOwner()
}

// Version returns the version of the source in the record. running is set if that
// version is being downloaded: peers may have pieces of it then, even if this
// scheduler has received no report of them.
func (c Claim) Version() (source *registryv1.SourceIdentity, pieceSize int32, running bool) {
	running = c.record.GetStatus() == registryv1.TaskStatus_TASK_STATUS_RUNNING &&
		c.record.GetPieceSize() > 0 && c.record.GetSource().GetLength() >= 0
	return c.record.GetSource(), c.record.GetPieceSize(), running
}

// ReplicaIDs returns the ids of the replicas in the record.
func (c Claim) ReplicaIDs() []string { return c.record.GetReplicas() }

// Lost holds the CDNs that cannot own a task.
type Lost struct {
	// Owner is the recorded owner if it does not answer or has failed the task.
	Owner string
	// Excluded are other CDNs that must not become owner.
	Excluded []string
}

// Task identifies a task to resolve.
type Task struct {
	ID string
	// URL is that of its source.
	URL string
	// Resumed is set if the task had another scheduler before, so that peers wait for it.
	Resumed bool
}

// Resolve returns the current claim of a task, after the registry has replaced what is
// lost. last is the claim that the caller holds. If the record names another
// scheduler that is dead, Resolve takes the task over, but only if last is empty
// or unclaimed. Otherwise it returns NOT_OWNER.
//
// While no registry is available, Resolve returns last, or a claim that names the CDN
// that a registry would choose.
func (r *Resolver) Resolve(ctx context.Context, t Task, last Claim, lost Lost) (Claim, error) {
	slots := r.newTasks
	if t.Resumed || last.Known() {
		slots = r.failover
	}
	req := &registryv1.ResolveTaskRequest{
		TaskId: t.ID, Url: t.URL, SchedulerId: r.SelfID, Last: last.record, LostOwner: lost.Owner, Excluded: lost.Excluded,
	}
	resp, err := r.ask(ctx, slots, req)
	if err != nil {
		if isUnavailable(err) && ctx.Err() == nil {
			return r.resolveAlone(t.ID, t.URL, last, lost, err)
		}
		return Claim{}, err
	}
	if other := resp.GetRecord().GetScheduler(); other != r.SelfID && other != "" {
		if resp, err = r.resolveOther(ctx, req, resp, !last.Known() || last.Unclaimed); err != nil {
			return Claim{}, err
		}
	}
	return r.claimFromResponse(resp, t.ID, t.URL, lost)
}

// resolveOther handles an answer that names another scheduler. It takes the task over
// if that scheduler is dead. If mayTake is not set, it does so only if the store
// has not confirmed the answer.
func (r *Resolver) resolveOther(
	ctx context.Context, req *registryv1.ResolveTaskRequest, resp *registryv1.ResolveTaskResponse, mayTake bool,
) (*registryv1.ResolveTaskResponse, error) {
	other := resp.GetRecord().GetScheduler()
	if !mayTake && !resp.GetUnclaimed() {
		return nil, NotOwner(other, resp.GetScheduler().GetEndpoint())
	}
	l, endpoint := r.checkLiveness(ctx, other, resp.GetScheduler().GetEndpoint())
	if l == alive {
		return nil, NotOwner(other, endpoint)
	}
	return r.takeOver(ctx, req, resp.GetRecord(), l)
}

// claimFromResponse converts the registry's answer to a claim.
func (r *Resolver) claimFromResponse(resp *registryv1.ResolveTaskResponse, taskID, taskURL string, lost Lost) (Claim, error) {
	record := resp.GetRecord()
	c := Claim{Epoch: record.GetEpoch(), Unclaimed: resp.GetUnclaimed(), record: record}
	if c.Unclaimed && c.Epoch == 0 && lost.has(record.GetOwner()) {
		return r.chooseCDN(taskID, taskURL, lost)
	}
	if resp.GetOwner() == nil {
		return Claim{}, rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "the task's owner %s is not a member", record.GetOwner())
	}
	c.Owner = cluster.FromProto(resp.GetOwner())
	for _, m := range resp.GetReplicas() {
		c.Replicas = append(c.Replicas, cluster.FromProto(m))
	}
	return c, nil
}

func (l Lost) has(id string) bool { return l.Owner == id || slices.Contains(l.Excluded, id) }

// isUnavailable reports whether no registry has answered, or one that has no data.
func isUnavailable(err error) bool {
	e := rpcerr.From(err)
	return e.Code == codes.Unavailable || e.Code == codes.DeadlineExceeded
}

// resolveAlone returns a claim without a registry. It keeps the owner of a claim that
// the store has confirmed even if that owner is lost: only the registry may
// replace it.
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

// chooseCDN returns a claim that names the CDN that a registry would choose: the first
// one in rendezvous order that is neither draining nor lost.
func (r *Resolver) chooseCDN(taskID, taskURL string, lost Lost) (Claim, error) {
	members := r.CDNs()
	var nodes []ring.Node
	for _, m := range members {
		if !m.Draining && !lost.has(m.ID) {
			nodes = append(nodes, ring.Node{ID: m.ID, Weight: int(m.Capacity)})
		}
	}
	id, ok := ring.First(taskID, nodes)
	if !ok {
		return Claim{}, rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "no CDN can own the task: all are draining, lost or excluded")
	}
	i := slices.IndexFunc(members, func(m cluster.Member) bool { return m.ID == id })
	return Claim{Owner: members[i], Unclaimed: true, record: &registryv1.TaskRecord{
		TaskId: taskID, Url: stripURL(taskURL), Owner: id, Scheduler: r.SelfID,
		Status: registryv1.TaskStatus_TASK_STATUS_WAITING,
	}}, nil
}

// stripURL returns a URL without user, password and fragment, or an empty string if
// the URL is invalid.
func stripURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	u.User, u.Fragment = nil, ""
	return u.String()
}

// ask sends a request with a slot of the given pool.
func (r *Resolver) ask(ctx context.Context, slots pool, req *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
	ctx, release, err := slots.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	resp, err := r.Registry.ResolveTask(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("resolving task %s: %w", req.GetTaskId(), err)
	}
	return resp, nil
}

// NotOwner returns a NOT_OWNER error that names the scheduler that answers for a task.
func NotOwner(id, endpoint string) error {
	return rpcerr.New(codes.FailedPrecondition, rpcerr.NotOwner, "scheduler %s answers for the task", id).
		With("scheduler_id", id).With("endpoint", endpoint)
}
