package rpc

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/ids"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

// maxReports is the maximum number of reports in one call.
const maxReports = 1000

const (
	// tasksAtOnce is how many tasks of a call get their reports at the same time.
	tasksAtOnce = 16
	// taskPatience is how long a call waits for a task. A task that takes longer gets
	// the reports again, one by one: they are idempotent.
	taskPatience = 200 * time.Millisecond
)

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
	var (
		mu    sync.Mutex // guards out
		group errgroup.Group
	)
	group.SetLimit(tasksAtOnce)
	for id, of := range byTask {
		group.Go(func() error {
			failures, applied := s.applyReports(ctx, id, of.reports)
			mu.Lock()
			defer mu.Unlock()
			of.addTo(out, failures, applied)
			return nil
		})
	}
	_ = group.Wait() // no task returns an error
	return out, nil
}

// applyReports applies the reports of one task. applied is false if the task is not in
// memory, has ended, or is late: the other tasks' reports must not wait for it.
func (s *Server) applyReports(ctx context.Context, id string, reports []task.Report) (failures []error, applied bool) {
	t := s.tasks.Loaded(id)
	if t == nil {
		return nil, false
	}
	ctx, cancel := context.WithTimeout(ctx, taskPatience)
	defer cancel()
	failures, err := t.WrittenAll(ctx, reports)
	return failures, err == nil
}

// addTo adds what became of the reports to the answer.
func (of *taskReports) addTo(out *schedulerv1.ReportPiecesResponse, failures []error, applied bool) {
	if !applied {
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
