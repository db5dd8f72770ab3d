package rpc

import (
	"context"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/taskid"

	"github.com/supernode-ha/supernode/services/registry/internal/convert"
	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
	"github.com/supernode-ha/supernode/services/registry/internal/tasks"
)

// ResolveTask returns the record of a task, after claiming the task or replacing its
// lost owner or scheduler.
func (s *Server) ResolveTask(ctx context.Context, req *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
	resolve, err := resolveFrom(req)
	if err != nil {
		return nil, toStatus(err)
	}
	resolved, err := s.Tasks.Resolve(ctx, req.GetTaskId(), resolve)
	if err != nil {
		return nil, toStatus(err)
	}
	resp := &registryv1.ResolveTaskResponse{
		Record: convert.TaskTo(resolved.Task), Replicas: membersTo(resolved.Replicas), Unclaimed: resolved.Unclaimed,
	}
	if resolved.Owner != nil {
		resp.Owner = convert.MemberTo(*resolved.Owner)
	}
	if resolved.Scheduler != nil {
		resp.Scheduler = convert.MemberTo(*resolved.Scheduler)
	}
	return resp, nil
}

// resolveFrom checks and converts a request.
func resolveFrom(req *registryv1.ResolveTaskRequest) (resolve ownership.Resolve, err error) {
	resolve = ownership.Resolve{
		Scheduler: req.GetSchedulerId(), LostOwner: req.GetLostOwner(), LostScheduler: req.GetLostScheduler(), Excluded: req.GetExcluded(),
	}
	if err := check(taskid.Check(req.GetTaskId()), record.CheckID(resolve.Scheduler)); err != nil {
		return resolve, err
	}
	for _, id := range append([]string{resolve.LostOwner, resolve.LostScheduler}, resolve.Excluded...) {
		if id == "" {
			continue
		}
		if err := check(record.CheckID(id)); err != nil {
			return resolve, err
		}
	}
	if resolve.URL, err = strip(req.GetUrl()); err != nil {
		return resolve, err
	}
	if req.GetLast() == nil {
		return resolve, nil
	}
	last := convert.TaskFrom(req.GetLast())
	if last.ID != "" && last.ID != req.GetTaskId() {
		return resolve, rpcerr.Invalid("the last record belongs to another task")
	}
	if err := check(last.Check()); err != nil {
		return resolve, err
	}
	if last.URL, err = strip(last.URL); err != nil {
		return resolve, err
	}
	resolve.Last = &last
	return resolve, nil
}

// strip is record.StripURL for a URL that may be empty.
func strip(url string) (string, error) {
	if url == "" {
		return "", nil
	}
	stripped, err := record.StripURL(url)
	if err != nil {
		return "", rpcerr.Invalid("%v", err)
	}
	return stripped, nil
}

// GetTask returns a record and changes nothing.
func (s *Server) GetTask(ctx context.Context, req *registryv1.GetTaskRequest) (*registryv1.GetTaskResponse, error) {
	if err := check(taskid.Check(req.GetTaskId())); err != nil {
		return nil, toStatus(err)
	}
	task, err := s.Tasks.Get(ctx, req.GetTaskId(), req.GetFresh())
	if err != nil {
		return nil, toStatus(err)
	}
	return &registryv1.GetTaskResponse{Record: convert.TaskTo(task)}, nil
}

// UpdateTask writes what the owner has found out about the source and the download.
func (s *Server) UpdateTask(ctx context.Context, req *registryv1.UpdateTaskRequest) (*registryv1.UpdateTaskResponse, error) {
	update := tasks.Update{
		ID: req.GetTaskId(), Owner: req.GetOwner(), Epoch: req.GetEpoch(),
		Source: convert.SourceFrom(req.GetSource()), PieceSize: req.GetPieceSize(), Status: convert.StatusFrom(req.GetStatus()),
	}
	if err := check(taskid.Check(update.ID), record.CheckID(update.Owner), record.CheckPieceSize(update.PieceSize)); err != nil {
		return nil, toStatus(err)
	}
	if update.Source != nil {
		if err := check(update.Source.Check()); err != nil {
			return nil, toStatus(err)
		}
	}
	task, err := s.Tasks.Update(ctx, update)
	if err != nil {
		return nil, toStatus(err)
	}
	return &registryv1.UpdateTaskResponse{Record: convert.TaskTo(task)}, nil
}

// DeleteTask removes a record if it has the given epoch.
func (s *Server) DeleteTask(ctx context.Context, req *registryv1.DeleteTaskRequest) (*registryv1.DeleteTaskResponse, error) {
	if err := check(taskid.Check(req.GetTaskId())); err != nil {
		return nil, toStatus(err)
	}
	if err := s.Tasks.Delete(ctx, req.GetTaskId(), req.GetEpoch()); err != nil {
		return nil, toStatus(err)
	}
	return &registryv1.DeleteTaskResponse{}, nil
}
