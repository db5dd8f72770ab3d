package request

import (
	"errors"
	"math"
	"strconv"
	"time"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// PieceReport reports that a piece is on a client's disk.
type PieceReport struct {
	// Task and Peer identify the client.
	Task TaskID
	Peer PeerID
	// From is the peer or CDN copy that sent the piece; it may be empty.
	From PeerID
	// Piece is the piece on disk.
	Piece Piece
}

// NewPieceReport validates the report of a piece.
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

// PieceError reports that a piece was missing at its source or had a wrong MD5.
type PieceError struct {
	// Task and Peer identify the client.
	Task TaskID
	Peer PeerID
	// From is the peer or CDN copy that failed; it may be empty.
	From PeerID
	// Missing is true if the file was missing, and false if the MD5 of the piece
	// was wrong.
	Missing bool
	// Piece is nil if the report does not name a piece.
	Piece *Piece
}

// NewPieceError validates the report of a missing or wrong piece.
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

// Departure reports that a client has stopped serving its file.
type Departure struct {
	// Task and Peer identify the client.
	Task TaskID
	Peer PeerID
}

// NewDeparture validates the report of a client that leaves.
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

// Outcome reports how a download ended.
type Outcome struct {
	// Task and Peer identify the client.
	Task TaskID
	Peer PeerID
	// Success is true if the client has the file.
	Success bool
	// Duration is not negative.
	Duration time.Duration
	// FileLength is in bytes, -1 if unknown.
	FileLength int64
	// BackSourceReason is dfget's number of the reason for which it downloaded from
	// the source, 0 if it did not.
	BackSourceReason int32
}

// maxDuration is the longest duration that a client can report, in seconds.
const maxDuration = 1e9

// NewOutcome validates the report of a finished download.
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

// CheckHeartbeat validates the heartbeat of a resident client. Nothing of it is
// stored.
func CheckHeartbeat(in *dfgetv1.HeartbeatRequest) error {
	_, err := checkOptionalPeerID("cID", in.GetCid())
	return errors.Join(err, checkHost(in.GetIp(), in.GetPort()))
}

// checkHost checks an optional address that is only displayed.
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
