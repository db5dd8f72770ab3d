package rpc

import (
	"context"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"

	"github.com/supernode-ha/supernode/pkg/taskid"

	"github.com/supernode-ha/supernode/services/registry/internal/convert"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// RepairTask replaces the lost owner and the lost replicas of a task for a CDN that
// its record names.
func (s *Server) RepairTask(ctx context.Context, req *registryv1.RepairTaskRequest) (*registryv1.RepairTaskResponse, error) {
	if err := check(taskid.Check(req.GetTaskId()), record.CheckID(req.GetCdnId())); err != nil {
		return nil, toStatus(err)
	}
	task, err := s.Tasks.Repair(ctx, req.GetTaskId(), req.GetCdnId())
	if err != nil {
		return nil, toStatus(err)
	}
	return &registryv1.RepairTaskResponse{Record: convert.TaskTo(task)}, nil
}

// MoveTask makes another CDN the owner.
func (s *Server) MoveTask(ctx context.Context, req *registryv1.MoveTaskRequest) (*registryv1.MoveTaskResponse, error) {
	if err := check(taskid.Check(req.GetTaskId()), record.CheckEpoch(req.GetEpoch())); err != nil {
		return nil, toStatus(err)
	}
	if req.GetTo() != "" {
		if err := check(record.CheckID(req.GetTo())); err != nil {
			return nil, toStatus(err)
		}
	}
	task, err := s.Tasks.Move(ctx, req.GetTaskId(), req.GetEpoch(), req.GetTo())
	if err != nil {
		return nil, toStatus(err)
	}
	return &registryv1.MoveTaskResponse{Record: convert.TaskTo(task)}, nil
}

// ResignTask removes a CDN from a record.
func (s *Server) ResignTask(ctx context.Context, req *registryv1.ResignTaskRequest) (*registryv1.ResignTaskResponse, error) {
	if err := check(taskid.Check(req.GetTaskId()), record.CheckID(req.GetCdnId())); err != nil {
		return nil, toStatus(err)
	}
	task, ok, err := s.Tasks.Resign(ctx, req.GetTaskId(), req.GetCdnId())
	if err != nil {
		return nil, toStatus(err)
	}
	if !ok {
		return &registryv1.ResignTaskResponse{}, nil
	}
	return &registryv1.ResignTaskResponse{Record: convert.TaskTo(task)}, nil
}
