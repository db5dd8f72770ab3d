package dfget

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/gateway/internal/late"
	"github.com/supernode-ha/supernode/services/gateway/internal/request"
	"github.com/supernode-ha/supernode/services/gateway/internal/route"
	"github.com/supernode-ha/supernode/services/gateway/internal/verdict"
)

// report tells the scheduler of a task something, and makes the peer known there
// if need be. What cannot be told in time is told later: the client would only
// repeat it, or give it up.
func (s *Service) report(ctx context.Context, task request.TaskID, peer request.PeerID, call clientCall) error {
	key := keyOf(task, peer)
	return s.tell(ctx, late.Report{Key: key}, func(ctx context.Context, again time.Duration) error {
		return s.recall(ctx, key, route.Plan{Attempt: reportAttempt, Again: again}, withClient(call), never)
	})
}

// last is a report that is told even if the client has left meanwhile. It is of
// no use to a scheduler that does not know the peer.
func (s *Service) last(ctx context.Context, task request.TaskID, peer request.PeerID, call clientCall) error {
	key := keyOf(task, peer)
	s.roster.End(key)
	return s.tell(ctx, late.Report{Key: key, Lasting: true}, func(ctx context.Context, again time.Duration) error {
		err := s.router.Do(ctx, key.Task, route.Plan{Attempt: reportAttempt, Again: again}, withClient(call))
		if verdict.Forgotten(err) {
			return nil // then there is nothing to forget
		}
		return err
	})
}

// tell makes the attempts that there is time for: give is told for how long to
// repeat them. A client that does not wait for them has told it all the same.
func (s *Service) tell(ctx context.Context, r late.Report, give func(ctx context.Context, again time.Duration) error) error {
	patience := min(reportBudget, s.cfg.CallBudget)
	budget, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := give(budget, patience)
	if err == nil {
		return nil
	}
	r.Give = func(ctx context.Context) error { return give(ctx, 0) } // what waits has pauses of its own
	switch fate := verdict.Report(err); fate {
	case verdict.Moot:
		return nil
	case verdict.Later, verdict.Soon:
		if s.late.Put(r, fate) {
			return nil
		}
	case verdict.Refused:
	}
	return failed(err)
}

// never adopts: a report alone does not make a peer one that fetches.
func never() bool { return false }

// ReportPiece says that a piece is on a client's disk.
func (s *Service) ReportPiece(ctx context.Context, in *dfgetv1.ReportPieceRequest) (*dfgetv1.ReportPieceResponse, error) {
	r, err := request.NewPieceReport(in)
	if err != nil {
		return nil, failed(err)
	}
	err = s.report(ctx, r.Task, r.Peer, func(ctx context.Context, c schedulerv1.SchedulerServiceClient) error {
		_, err := c.ReportPiece(ctx, &schedulerv1.ReportPieceRequest{
			TaskId: string(r.Task), PeerId: string(r.Peer), DstId: string(r.From), Piece: pieceRef(&r.Piece),
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &dfgetv1.ReportPieceResponse{Code: codePieceKnown}, nil
}

// ReportPieceError says that a piece was missing or wrong.
func (s *Service) ReportPieceError(ctx context.Context, in *dfgetv1.ReportPieceErrorRequest) (*dfgetv1.ReportPieceErrorResponse, error) {
	r, err := request.NewPieceError(in)
	if err != nil {
		return nil, failed(err)
	}
	kind := schedulerv1.PieceErrorType_PIECE_ERROR_TYPE_MD5_NOT_MATCH
	if r.Missing {
		kind = schedulerv1.PieceErrorType_PIECE_ERROR_TYPE_FILE_NOT_EXIST
	}
	err = s.report(ctx, r.Task, r.Peer, func(ctx context.Context, c schedulerv1.SchedulerServiceClient) error {
		_, err := c.ReportPieceError(ctx, &schedulerv1.ReportPieceErrorRequest{
			TaskId: string(r.Task), PeerId: string(r.Peer), DstId: string(r.From), Type: kind, Piece: pieceRef(r.Piece),
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &dfgetv1.ReportPieceErrorResponse{Code: codeSuccess}, nil
}

// ReportServiceDown says that a client serves no more.
func (s *Service) ReportServiceDown(ctx context.Context, in *dfgetv1.ReportServiceDownRequest) (*dfgetv1.ReportServiceDownResponse, error) {
	r, err := request.NewDeparture(in)
	if err != nil {
		return nil, failed(err)
	}
	s.late.Forget(keyOf(r.Task, r.Peer))
	err = s.last(ctx, r.Task, r.Peer, func(ctx context.Context, c schedulerv1.SchedulerServiceClient) error {
		_, err := c.ReportPeerDown(ctx, &schedulerv1.ReportPeerDownRequest{TaskId: string(r.Task), PeerId: string(r.Peer)})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &dfgetv1.ReportServiceDownResponse{Code: codeDeparted}, nil
}

// ReportMetrics says how a download ended. Any scheduler would take it; the
// task's own is asked first, so that what belongs together is counted together.
func (s *Service) ReportMetrics(ctx context.Context, in *dfgetv1.ReportMetricsRequest) (*dfgetv1.ReportMetricsResponse, error) {
	o, err := request.NewOutcome(in)
	if err != nil {
		return nil, failed(err)
	}
	err = s.last(ctx, o.Task, o.Peer, func(ctx context.Context, c schedulerv1.SchedulerServiceClient) error {
		_, err := c.ReportMetrics(ctx, &schedulerv1.ReportMetricsRequest{
			TaskId: string(o.Task), PeerId: string(o.Peer), Success: o.Success,
			Duration: durationpb.New(o.Duration), FileLength: o.FileLength, BackSourceReason: o.BackSourceReason,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &dfgetv1.ReportMetricsResponse{Code: codeCounted}, nil
}
