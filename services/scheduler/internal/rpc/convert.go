package rpc

import (
	"net/url"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

// stageFrom converts the status of a pull.
func stageFrom(s schedulerv1.PullStatus) (task.Stage, error) {
	switch s {
	case schedulerv1.PullStatus_PULL_STATUS_STARTED:
		return task.Started, nil
	case schedulerv1.PullStatus_PULL_STATUS_RUNNING:
		return task.Running, nil
	case schedulerv1.PullStatus_PULL_STATUS_FINISHED:
		return task.Finished, nil
	}
	return 0, rpcerr.Invalid("status %v", s)
}

// outcomeFrom converts the result of a piece.
func outcomeFrom(r schedulerv1.PieceResult) (task.Outcome, error) {
	switch r {
	case schedulerv1.PieceResult_PIECE_RESULT_UNSPECIFIED:
		return task.NoReport, nil
	case schedulerv1.PieceResult_PIECE_RESULT_SUCCESS:
		return task.Written, nil
	case schedulerv1.PieceResult_PIECE_RESULT_SEMI_SUCCESS:
		return task.SemiSuccess, nil
	case schedulerv1.PieceResult_PIECE_RESULT_FAILED:
		return task.Failed, nil
	}
	return 0, rpcerr.Invalid("result %v", r)
}

// answerProto converts the answer to a pull: the result of a finished download, offers,
// or a wait.
func answerProto(a task.Answer) *schedulerv1.PullPiecesResponse {
	switch {
	case a.Result != nil:
		return &schedulerv1.PullPiecesResponse{Answer: &schedulerv1.PullPiecesResponse_Finished{Finished: &schedulerv1.Finished{
			Md5: a.Result.MD5, Length: a.Result.Length, WrappedLength: a.Result.WrappedLength(),
		}}}
	case len(a.Offers) > 0:
		offers := &schedulerv1.PieceOffers{}
		for _, o := range a.Offers {
			offers.Items = append(offers.Items, &schedulerv1.PieceOffer{
				Num: o.Num, Size: a.PieceSize, Md5: o.MD5, Length: o.Length,
				PeerId: o.SourceID, Ip: o.IP, Port: o.Port, Path: o.Path,
			})
		}
		return &schedulerv1.PullPiecesResponse{Answer: &schedulerv1.PullPiecesResponse_Offers{Offers: offers}}
	}
	return &schedulerv1.PullPiecesResponse{Answer: &schedulerv1.PullPiecesResponse_Wait{
		Wait: &schedulerv1.Wait{Reason: "no piece that the peer misses is available at the moment"},
	}}
}

// withoutCredentials returns a URL without user and password. It returns an empty string
// if the URL is invalid, because it may contain them in any place then.
func withoutCredentials(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	u.User = nil
	return u.String()
}

// entryProto converts the pieces that a peer serves.
func entryProto(t *task.Task, h swarm.Holding, facts swarm.Facts) *schedulerv1.PeerEntry {
	return &schedulerv1.PeerEntry{
		Peer: &schedulerv1.Peer{
			Id: h.ID, Ip: h.IP, Port: h.Port, Path: h.Path, HostName: h.HostName, Version: h.Version,
		},
		TaskId: t.ID, TaskUrl: withoutCredentials(t.URL), PieceSize: facts.PieceSize, Length: facts.Length,
		Pieces: h.Pieces, Load: int32(h.Uploads),
	}
}
