package rpc

import (
	"context"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/taskid"

	"github.com/supernode-ha/supernode/services/registry/internal/convert"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// maxCopies is the maximum number of copies in one call of AnnounceCopies.
const maxCopies = 500

// AnnounceCopies adds a CDN to the records of the copies on its disk, as far as the
// tasks need them.
func (s *Server) AnnounceCopies(ctx context.Context, req *registryv1.AnnounceCopiesRequest) (*registryv1.AnnounceCopiesResponse, error) {
	if err := check(record.CheckID(req.GetCdnId())); err != nil {
		return nil, toStatus(err)
	}
	if len(req.GetCopies()) > maxCopies {
		return nil, toStatus(rpcerr.Invalid("%d copies: at most %d are allowed in one call", len(req.GetCopies()), maxCopies))
	}
	copies := make([]record.Copy, len(req.GetCopies()))
	for i, message := range req.GetCopies() {
		var err error
		if copies[i], err = copyFrom(message); err != nil {
			return nil, toStatus(err)
		}
	}
	named, unwanted, err := s.Tasks.Announce(ctx, req.GetCdnId(), copies)
	if err != nil {
		return nil, toStatus(err)
	}
	resp := &registryv1.AnnounceCopiesResponse{Unwanted: unwanted}
	for _, task := range named {
		resp.Records = append(resp.Records, convert.TaskTo(task))
	}
	return resp, nil
}

// copyFrom checks and converts a message.
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
