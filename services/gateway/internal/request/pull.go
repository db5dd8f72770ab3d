package request

import (
	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// Status is the state of a client's download, with dfget's numbers.
type Status int32

// The statuses.
const (
	Started  Status = 700
	Running  Status = 701
	Finished Status = 702
)

// Result is the result of a piece at a client, with dfget's numbers.
type Result int32

// The results.
const (
	Failed      Result = 500
	Success     Result = 501
	NoResult    Result = 502
	SemiSuccess Result = 503
)

// Pull is a request for the next pieces. It may also report the result of a piece.
type Pull struct {
	// Task and Peer identify the client.
	Task TaskID
	Peer PeerID
	// From is the peer or CDN copy that Piece was fetched from; it may be empty.
	From PeerID
	// Status is one of the three statuses.
	Status Status
	// Result is the result of Piece. Without a piece it is NoResult, except for a
	// client that has finished: then it is the result of the download.
	Result Result
	// Piece is nil if the pull reports no piece.
	Piece *Piece
}

// NewPull validates a pull. A client that has changed its supernode sends its last
// result with Started, so a piece is accepted with any status.
func NewPull(in *dfgetv1.PullPiecesRequest) (Pull, error) {
	p := Pull{Status: Status(in.GetStatus()), Result: Result(in.GetResult())}
	var err error
	if p.Task, err = checkTaskID(in.GetTaskId()); err != nil {
		return Pull{}, err
	}
	if p.Peer, err = checkPeerID("srcCid", in.GetSrcCid()); err != nil {
		return Pull{}, err
	}
	if p.From, err = checkOptionalPeerID("dstCid", in.GetDstCid()); err != nil {
		return Pull{}, err
	}
	if p.Status < Started || p.Status > Finished {
		return Pull{}, rpcerr.Invalid("status %d is none of 700, 701 and 702", p.Status)
	}
	if p.Result == 0 {
		p.Result = NoResult
	}
	if p.Result < Failed || p.Result > SemiSuccess {
		return Pull{}, rpcerr.Invalid("result %d is none of 500, 501, 502 and 503", p.Result)
	}
	if p.Piece, err = checkOptionalPiece("range", in.GetRange()); err != nil {
		return Pull{}, err
	}
	switch {
	case p.Result == NoResult:
		p.Piece = nil
	case p.Piece == nil && p.Status == Running:
		return Pull{}, rpcerr.Invalid("range is required with result %d", p.Result)
	case p.Piece == nil && p.Status == Started:
		p.Result = NoResult
	}
	return p, nil
}
