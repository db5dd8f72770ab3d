package dfget

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/gateway/internal/errmap"
	"github.com/supernode-ha/supernode/services/gateway/internal/request"
	"github.com/supernode-ha/supernode/services/gateway/internal/route"
)

// PullPieces asks for the next pieces. A retryable error is retried for pullRetry
// and then answered with a wait, because dfget leaves its supernode after any
// error.
func (s *Service) PullPieces(ctx context.Context, in *dfgetv1.PullPiecesRequest) (*dfgetv1.PullPiecesResponse, error) {
	p, err := request.NewPull(in)
	if err != nil {
		return nil, statusError(err)
	}
	out, err := s.pull(ctx, p)
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	if err == nil {
		out, err := pullAnswer(out)
		if err != nil {
			return nil, statusError(err)
		}
		return out, nil
	}
	if a := errmap.ToAnswer(errmap.Pull, err); a.HasDfgetCode() {
		return &dfgetv1.PullPiecesResponse{Code: a.Code, Msg: proto.String(a.Text)}, nil
	}
	return nil, statusError(err)
}

// pull calls the scheduler of the task and holds the call for up to MaxHold.
func (s *Service) pull(ctx context.Context, p request.Pull) (*schedulerv1.PullPiecesResponse, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CallBudget)
	defer cancel()
	hold := s.cfg.MaxHold
	if s.holdCtx.Err() != nil {
		hold = 0
	} else {
		defer context.AfterFunc(s.holdCtx, cancel)()
	}
	ask := pullRequest(p)
	// Half of the budget beyond the hold is for the round trip to a scheduler, and
	// half for an attempt at another one. The time spent on an unresponsive
	// scheduler is subtracted from the hold.
	plan := route.Plan{AttemptTimeout: hold + (s.cfg.CallBudget-s.cfg.MaxHold)/2, RetryFor: pullRetry}
	var out *schedulerv1.PullPiecesResponse
	key := keyOf(p.Task, p.Peer)
	err := s.doRegistered(ctx, key, plan, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		ask.MaxWait = durationpb.New(max(0, hold-time.Since(start)))
		var err error
		out, err = schedulerv1.NewSchedulerServiceClient(conn).PullPieces(ctx, ask)
		return err
	}, func() bool {
		ask.Adopt = true
		return true
	})
	if err == nil && p.Status == request.Finished {
		s.registrations.End(key)
	}
	return out, err
}

func pullRequest(p request.Pull) *schedulerv1.PullPiecesRequest {
	return &schedulerv1.PullPiecesRequest{
		TaskId: string(p.Task), PeerId: string(p.Peer), DstId: string(p.From),
		Status: pullStatus(p.Status), Result: pieceResult(p.Result), Piece: pieceRef(p.Piece),
	}
}

func pullStatus(s request.Status) schedulerv1.PullStatus {
	switch s {
	case request.Started:
		return schedulerv1.PullStatus_PULL_STATUS_STARTED
	case request.Running:
		return schedulerv1.PullStatus_PULL_STATUS_RUNNING
	default:
		return schedulerv1.PullStatus_PULL_STATUS_FINISHED
	}
}

func pieceResult(r request.Result) schedulerv1.PieceResult {
	switch r {
	case request.Failed:
		return schedulerv1.PieceResult_PIECE_RESULT_FAILED
	case request.Success:
		return schedulerv1.PieceResult_PIECE_RESULT_SUCCESS
	case request.SemiSuccess:
		return schedulerv1.PieceResult_PIECE_RESULT_SEMI_SUCCESS
	default:
		return schedulerv1.PieceResult_PIECE_RESULT_UNSPECIFIED
	}
}

// pullAnswer converts a scheduler's answer to dfget's.
func pullAnswer(in *schedulerv1.PullPiecesResponse) (*dfgetv1.PullPiecesResponse, error) {
	switch answer := in.GetAnswer().(type) {
	case *schedulerv1.PullPiecesResponse_Finished:
		return &dfgetv1.PullPiecesResponse{Code: codeFinished, Data: &dfgetv1.PullPiecesResponse_Finish{
			Finish: &dfgetv1.FinishData{Md5: answer.Finished.GetMd5(), FileLength: answer.Finished.GetWrappedLength()},
		}}, nil
	case *schedulerv1.PullPiecesResponse_Offers:
		list := &dfgetv1.PieceList{Items: make([]*dfgetv1.Piece, len(answer.Offers.GetItems()))}
		for i, o := range answer.Offers.GetItems() {
			list.Items[i] = &dfgetv1.Piece{
				Range: piece.Range(o.GetNum(), o.GetSize()), PieceNum: o.GetNum(), PieceSize: o.GetSize(),
				PieceMd5: piece.Digest(o.GetMd5(), o.GetLength()), Cid: o.GetPeerId(),
				PeerIp: o.GetIp(), PeerPort: o.GetPort(), Path: o.GetPath(),
			}
		}
		return &dfgetv1.PullPiecesResponse{
			Code: codeContinue, Data: &dfgetv1.PullPiecesResponse_Pieces{Pieces: list},
		}, nil
	case *schedulerv1.PullPiecesResponse_Wait:
		return &dfgetv1.PullPiecesResponse{Code: codeWait, Msg: proto.String(answer.Wait.GetReason())}, nil
	default:
		return nil, rpcerr.New(codes.Internal, "", "a scheduler sent an empty answer to a pull")
	}
}
