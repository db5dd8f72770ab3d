package rpc

import (
	"context"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/ids"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

// maxReports is the maximum number of reports in one call.
const maxReports = 1000

// taskReports are the reports of one task in a call.
type taskReports struct {
	reports []task.Report
	indices []int32 // in the request
}

// ReportPieces records that pieces are on the disks of peers.
func (s *Server) ReportPieces(ctx context.Context, req *schedulerv1.ReportPiecesRequest) (*schedulerv1.ReportPiecesResponse, error) {
	if n := len(req.GetReports()); n < 1 || n > maxReports {
		return nil, rpcerr.Invalid("%d reports: want 1 to %d", n, maxReports)
	}
	out := &schedulerv1.ReportPiecesResponse{}
	byTask := make(map[string]*taskReports)
	for i, r := range req.GetReports() {
		err := ids.Check(r.GetTaskId(), r.GetPeerId())
		if err == nil {
			err = checkPiece(r.GetPiece())
		}
		if err != nil {
			out.Failures = append(out.Failures, failureProto(int32(i), err))
			continue
		}
		of := byTask[r.GetTaskId()]
		if of == nil {
			of = &taskReports{}
			byTask[r.GetTaskId()] = of
		}
		of.reports = append(of.reports, task.Report{PeerID: r.GetPeerId(), Num: r.GetPiece().GetNum(), Size: r.GetPiece().GetSize()})
		of.indices = append(of.indices, int32(i))
	}
	for id, of := range byTask {
		s.applyReports(ctx, id, of, out)
	}
	return out, ctx.Err()
}

// applyReports applies the reports of one task.
func (s *Server) applyReports(ctx context.Context, id string, of *taskReports, out *schedulerv1.ReportPiecesResponse) {
	t := s.tasks.Loaded(id)
	if t == nil {
		out.Unhandled = append(out.Unhandled, of.indices...)
		return
	}
	failures, err := t.WrittenAll(ctx, of.reports)
	if err != nil { // the task has ended in the meantime
		out.Unhandled = append(out.Unhandled, of.indices...)
		return
	}
	for i, failure := range failures {
		if failure != nil {
			out.Failures = append(out.Failures, failureProto(of.indices[i], failure))
		}
	}
}

func failureProto(index int32, err error) *schedulerv1.ReportFailure {
	e := rpcerr.From(err)
	return &schedulerv1.ReportFailure{
		Index: index, Code: int32(e.Code), Reason: string(e.Reason), Text: e.Text, Metadata: e.Metadata,
	}
}
