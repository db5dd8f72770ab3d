// Package rpc is the registry's gRPC surface: it checks requests, turns
// messages into values and errors into statuses, and leaves all else to the
// packages behind it.
package rpc

import (
	"context"
	"slices"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/taskid"

	"github.com/supernode-ha/supernode/services/registry/internal/etcdconn"
	"github.com/supernode-ha/supernode/services/registry/internal/etcdstore"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
	"github.com/supernode-ha/supernode/services/registry/internal/tasks"
	"github.com/supernode-ha/supernode/services/registry/internal/view"
	"github.com/supernode-ha/supernode/services/registry/internal/wire"
)

// Server answers the registry's calls. Use New.
type Server struct {
	registryv1.UnimplementedRegistryServiceServer

	members *etcdstore.Store
	tasks   *tasks.Tasks
	view    *view.View
	stopped <-chan struct{}
}

// New makes a server whose streams end when stopped is closed.
func New(members *etcdstore.Store, t *tasks.Tasks, copied *view.View, stopped <-chan struct{}) *Server {
	return &Server{members: members, tasks: t, view: copied, stopped: stopped}
}

// Heartbeat announces a member or renews it.
func (s *Server) Heartbeat(ctx context.Context, req *registryv1.HeartbeatRequest) (*registryv1.HeartbeatResponse, error) {
	member := wire.MemberFrom(req.GetMember())
	if err := member.Check(); err != nil {
		return nil, failed(rpcerr.Invalid("%v", err))
	}
	ttl, err := s.members.Heartbeat(ctx, member)
	if err != nil {
		return nil, failed(err)
	}
	return &registryv1.HeartbeatResponse{Ttl: durationpb.New(ttl)}, nil
}

// Leave removes a member.
func (s *Server) Leave(ctx context.Context, req *registryv1.LeaveRequest) (*registryv1.LeaveResponse, error) {
	key := record.MemberKey{Role: wire.RoleFrom(req.GetRole()), ID: req.GetId()}
	if err := check(record.CheckRole(key.Role), record.CheckID(key.ID)); err != nil {
		return nil, failed(err)
	}
	if err := s.members.Leave(ctx, key); err != nil {
		return nil, failed(err)
	}
	return &registryv1.LeaveResponse{}, nil
}

// WatchMembers sends the members now and after every change. A receiver that
// is slow gets the newest list when it is ready again, and none in between.
func (s *Server) WatchMembers(req *registryv1.WatchMembersRequest, stream grpc.ServerStreamingServer[registryv1.WatchMembersResponse]) error {
	var roles []record.Role
	for _, r := range req.GetRoles() {
		role := wire.RoleFrom(r)
		if err := check(record.CheckRole(role)); err != nil {
			return failed(err)
		}
		roles = append(roles, role)
	}
	// Nobody may take "not known yet" for "no members".
	if err := s.wait(stream.Context(), s.view.Synced()); err != nil {
		return failed(err)
	}
	var last []record.Member
	for first := true; ; first = false {
		all, changed := s.view.Members()
		now := slices.DeleteFunc(slices.Clone(all), func(m record.Member) bool {
			return len(roles) > 0 && !slices.Contains(roles, m.Role)
		})
		if first || !slices.Equal(now, last) {
			if err := stream.Send(list(now)); err != nil {
				return failed(err)
			}
			last = now
		}
		if err := s.wait(stream.Context(), changed); err != nil {
			return failed(err)
		}
	}
}

func list(members []record.Member) *registryv1.WatchMembersResponse {
	resp := &registryv1.WatchMembersResponse{Members: make([]*registryv1.Member, len(members))}
	for i, m := range members {
		resp.Members[i] = wire.MemberTo(m)
	}
	return resp
}

func (s *Server) wait(ctx context.Context, event <-chan struct{}) error {
	select {
	case <-event:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stopped:
		return etcdconn.Unavailable("the registry is stopping")
	}
}

// ResolveTask answers a record and claims what nobody holds.
func (s *Server) ResolveTask(ctx context.Context, req *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
	if err := check(taskid.Check(req.GetTaskId()), record.CheckID(req.GetSchedulerId())); err != nil {
		return nil, failed(err)
	}
	wish := tasks.Wish{ID: req.GetTaskId(), Scheduler: req.GetSchedulerId()}
	if req.GetUrl() != "" {
		stripped, err := record.StripURL(req.GetUrl())
		if err != nil {
			return nil, failed(rpcerr.Invalid("%v", err))
		}
		wish.URL = stripped
	}
	resolved, err := s.tasks.Resolve(ctx, wish)
	if err != nil {
		return nil, failed(err)
	}
	resp := &registryv1.ResolveTaskResponse{Record: wire.TaskTo(resolved.Task), Owner: wire.MemberTo(resolved.Owner)}
	if resolved.Scheduler != nil {
		resp.Scheduler = wire.MemberTo(*resolved.Scheduler)
	}
	return resp, nil
}

// GetTask answers a record as it stands.
func (s *Server) GetTask(ctx context.Context, req *registryv1.GetTaskRequest) (*registryv1.GetTaskResponse, error) {
	if err := check(taskid.Check(req.GetTaskId())); err != nil {
		return nil, failed(err)
	}
	task, err := s.tasks.Get(ctx, req.GetTaskId())
	if err != nil {
		return nil, failed(err)
	}
	return &registryv1.GetTaskResponse{Record: wire.TaskTo(task)}, nil
}

// UpdateTask writes what the owner learned.
func (s *Server) UpdateTask(ctx context.Context, req *registryv1.UpdateTaskRequest) (*registryv1.UpdateTaskResponse, error) {
	update := tasks.Update{
		ID: req.GetTaskId(), Owner: req.GetOwner(), Epoch: req.GetEpoch(),
		Source: wire.SourceFrom(req.GetSource()), PieceSize: req.GetPieceSize(), Status: wire.StatusFrom(req.GetStatus()),
	}
	if err := check(taskid.Check(update.ID), record.CheckID(update.Owner)); err != nil {
		return nil, failed(err)
	}
	if update.PieceSize < 0 {
		return nil, failed(rpcerr.Invalid("piece size %d", update.PieceSize))
	}
	if update.Source != nil {
		if err := check(update.Source.Check()); err != nil {
			return nil, failed(err)
		}
	}
	task, err := s.tasks.Update(ctx, update)
	if err != nil {
		return nil, failed(err)
	}
	return &registryv1.UpdateTaskResponse{Record: wire.TaskTo(task)}, nil
}

// DeleteTask removes a record of one epoch.
func (s *Server) DeleteTask(ctx context.Context, req *registryv1.DeleteTaskRequest) (*registryv1.DeleteTaskResponse, error) {
	if err := check(taskid.Check(req.GetTaskId())); err != nil {
		return nil, failed(err)
	}
	if err := s.tasks.Delete(ctx, req.GetTaskId(), req.GetEpoch()); err != nil {
		return nil, failed(err)
	}
	return &registryv1.DeleteTaskResponse{}, nil
}

// check turns the first complaint into INVALID_ARGUMENT.
func check(complaints ...error) error {
	for _, err := range complaints {
		if err != nil {
			return rpcerr.Invalid("%v", err)
		}
	}
	return nil
}

func failed(err error) error { return rpcerr.Status(err).Err() }
