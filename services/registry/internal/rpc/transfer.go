package rpc

import (
	"context"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/taskid"

	"github.com/supernode-ha/supernode/services/registry/internal/convert"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// maxCopies is how many copies one call may announce.
const maxCopies = 500

// RepairTask makes a record right on behalf of a CDN that it names.
func (s *Server) RepairTask(ctx context.Context, req *registryv1.RepairTaskRequest) (*registryv1.RepairTaskResponse, error) {
	if err := check(taskid.Check(req.GetTaskId()), record.CheckID(req.GetCdnId())); err != nil {
		return nil, failed(err)
	}
	task, err := s.Tasks.Repair(ctx, req.GetTaskId(), req.GetCdnId())
	if err != nil {
		return nil, failed(err)
	}
	return &registryv1.RepairTaskResponse{Record: convert.TaskTo(task)}, nil
}

// MoveTask makes another CDN the owner.
func (s *Server) MoveTask(ctx context.Context, req *registryv1.MoveTaskRequest) (*registryv1.MoveTaskResponse, error) {
	if err := check(taskid.Check(req.GetTaskId()), record.CheckEpoch(req.GetEpoch())); err != nil {
		return nil, failed(err)
	}
	if req.GetTo() != "" {
		if err := check(record.CheckID(req.GetTo())); err != nil {
			return nil, failed(err)
		}
	}
	task, err := s.Tasks.Move(ctx, req.GetTaskId(), req.GetEpoch(), req.GetTo())
	if err != nil {
		return nil, failed(err)
	}
	return &registryv1.MoveTaskResponse{Record: convert.TaskTo(task)}, nil
}

// ResignTask takes a CDN out of a record.
func (s *Server) ResignTask(ctx context.Context, req *registryv1.ResignTaskRequest) (*registryv1.ResignTaskResponse, error) {
	if err := check(taskid.Check(req.GetTaskId()), record.CheckID(req.GetCdnId())); err != nil {
		return nil, failed(err)
	}
	task, ok, err := s.Tasks.Resign(ctx, req.GetTaskId(), req.GetCdnId())
	if err != nil {
		return nil, failed(err)
	}
	if !ok {
		return &registryv1.ResignTaskResponse{}, nil
	}
	return &registryv1.ResignTaskResponse{Record: convert.TaskTo(task)}, nil
}

// AnnounceCopies takes what a CDN has and no record names it for.
func (s *Server) AnnounceCopies(ctx context.Context, req *registryv1.AnnounceCopiesRequest) (*registryv1.AnnounceCopiesResponse, error) {
	if err := check(record.CheckID(req.GetCdnId())); err != nil {
		return nil, failed(err)
	}
	if len(req.GetCopies()) > maxCopies {
		return nil, failed(rpcerr.Invalid("%d copies, at most %d may be announced at once", len(req.GetCopies()), maxCopies))
	}
	copies := make([]record.Copy, len(req.GetCopies()))
	for i, message := range req.GetCopies() {
		var err error
		if copies[i], err = copyFrom(message); err != nil {
			return nil, failed(err)
		}
	}
	named, unwanted, err := s.Tasks.Announce(ctx, req.GetCdnId(), copies)
	if err != nil {
		return nil, failed(err)
	}
	resp := &registryv1.AnnounceCopiesResponse{Unwanted: unwanted}
	for _, task := range named {
		resp.Records = append(resp.Records, convert.TaskTo(task))
	}
	return resp, nil
}

func copyFrom(message *registryv1.Copy) (record.Copy, error) {
	c := record.Copy{
		ID: message.GetTaskId(), Source: convert.SourceFrom(message.GetSource()), PieceSize: message.GetPieceSize(),
		Epoch: message.GetEpoch(), Whole: message.GetWhole(),
	}
	err := check(taskid.Check(c.ID), record.CheckPieceSize(c.PieceSize), record.CheckEpoch(c.Epoch))
	if err != nil {
		return c, err
	}
	if c.Source != nil {
		if err := check(c.Source.Check()); err != nil {
			return c, err
		}
	}
	if c.URL, err = record.StripURL(message.GetUrl()); err != nil {
		return c, rpcerr.Invalid("%v", err)
	}
	return c, nil
}
