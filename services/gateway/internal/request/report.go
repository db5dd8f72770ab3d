package request

import (
	"errors"
	"math"
	"strconv"
	"time"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// PieceReport says that a piece is on a client's disk.
type PieceReport struct {
	// Task and Peer are whose piece it is.
	Task TaskID
	Peer PeerID
	// From is where it came from; it may be empty.
	From PeerID
	// Piece is the piece.
	Piece Piece
}

// NewPieceReport checks the report of a piece.
func NewPieceReport(in *dfgetv1.ReportPieceRequest) (PieceReport, error) {
	var r PieceReport
	var err error
	if r.Task, err = checkTaskID(in.GetTaskId()); err != nil {
		return PieceReport{}, err
	}
	if r.Peer, err = checkPeerID("cid", in.GetCid()); err != nil {
		return PieceReport{}, err
	}
	if r.From, err = checkOptionalPeerID("dstCid", in.GetDstCid()); err != nil {
		return PieceReport{}, err
	}
	if r.Piece, err = checkPiece("pieceRange", in.GetPieceRange()); err != nil {
		return PieceReport{}, err
	}
	return r, nil
}

// PieceError says that a piece was missing or wrong.
type PieceError struct {
	// Task and Peer are who tried to fetch what.
	Task TaskID
	Peer PeerID
	// From is where it tried; it may be empty.
	From PeerID
	// Missing is true for a piece that was not there, false for one that had
	// other bytes than announced.
	Missing bool
	// Piece is nil when the client does not name it.
	Piece *Piece
}

// NewPieceError checks the report of a wrong piece.
func NewPieceError(in *dfgetv1.ReportPieceErrorRequest) (PieceError, error) {
	var r PieceError
	var err error
	switch in.GetErrorType() {
	case "FILE_NOT_EXIST":
		r.Missing = true
	case "FILE_MD5_NOT_MATCH":
	default:
		return PieceError{}, rpcerr.Invalid("errorType %.80q is neither FILE_NOT_EXIST nor FILE_MD5_NOT_MATCH", in.GetErrorType())
	}
	if r.Task, err = checkTaskID(in.GetTaskId()); err != nil {
		return PieceError{}, err
	}
	if r.Peer, err = checkPeerID("srcCid", in.GetSrcCid()); err != nil {
		return PieceError{}, err
	}
	if r.From, err = checkOptionalPeerID("dstCid", in.GetDstCid()); err != nil {
		return PieceError{}, err
	}
	if in.GetDstIp() != "" {
		if _, err = checkIP("dstIp", in.GetDstIp()); err != nil {
			return PieceError{}, err
		}
	}
	if r.Piece, err = checkOptionalPiece("range", in.GetRange()); err != nil {
		return PieceError{}, err
	}
	return r, nil
}

// Departure says that a client serves no more.
type Departure struct {
	// Task and Peer are who serves what no more.
	Task TaskID
	Peer PeerID
}

// NewDeparture checks the report of a client that leaves.
func NewDeparture(in *dfgetv1.ReportServiceDownRequest) (Departure, error) {
	task, err := checkTaskID(in.GetTaskId())
	if err != nil {
		return Departure{}, err
	}
	peer, err := checkPeerID("cid", in.GetCid())
	if err != nil {
		return Departure{}, err
	}
	return Departure{Task: task, Peer: peer}, nil
}

// Outcome is how a download ended.
type Outcome struct {
	// Task and Peer are who downloaded what.
	Task TaskID
	Peer PeerID
	// Success tells whether the file is there.
	Success bool
	// Duration is not negative.
	Duration time.Duration
	// FileLength is in bytes, -1 when the client does not know it.
	FileLength int64
	// BackSourceReason is the client's number, 0 when it did not go to the source.
	BackSourceReason int32
}

// maxDuration in seconds bounds what a client can say of a download.
const maxDuration = 1e9

// NewOutcome checks the report of a download.
func NewOutcome(in *dfgetv1.ReportMetricsRequest) (Outcome, error) {
	o := Outcome{Success: in.GetSuccess(), FileLength: in.GetFileLength()}
	var err error
	if o.Task, err = checkTaskID(in.GetTaskId()); err != nil {
		return Outcome{}, err
	}
	if o.Peer, err = checkPeerID("cID", in.GetCid()); err != nil {
		return Outcome{}, err
	}
	if err = checkHost(in.GetIp(), in.GetPort()); err != nil {
		return Outcome{}, err
	}
	if err = checkText("callSystem", in.GetCallSystem(), maxText); err != nil {
		return Outcome{}, err
	}
	if d := in.GetDuration(); math.IsNaN(d) || d < 0 || d > maxDuration {
		return Outcome{}, rpcerr.Invalid("duration is no number of seconds")
	}
	o.Duration = time.Duration(in.GetDuration() * float64(time.Second))
	if o.FileLength < -1 {
		return Outcome{}, rpcerr.Invalid("fileLength %d is negative", o.FileLength)
	}
	if text := in.GetBacksourceReason(); text != "" {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return Outcome{}, rpcerr.Invalid("backsourceReason %.80q is not a number", text)
		}
		o.BackSourceReason = int32(n)
	}
	return o, nil
}

// CheckHeartbeat checks the heartbeat of a resident client, of which nothing
// is kept.
func CheckHeartbeat(in *dfgetv1.HeartbeatRequest) error {
	_, err := checkOptionalPeerID("cID", in.GetCid())
	return errors.Join(err, checkHost(in.GetIp(), in.GetPort()))
}

// checkHost is for addresses that are only shown, and may be left out.
func checkHost(ip string, port int32) error {
	if ip != "" {
		if _, err := checkIP("IP", ip); err != nil {
			return err
		}
	}
	if port < 0 || port > math.MaxUint16 {
		return rpcerr.Invalid("port %d is not a port", port)
	}
	return nil
}
