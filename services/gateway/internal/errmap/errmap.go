// Package errmap is the one place that says what an error means: to the
// router, whether asking again can help; to the client, which answer it gets.
// It writes nothing and calls nobody.
//
//	                        register      pull      report          anything else
//	source not there        607           610       taken           by its gRPC code
//	source wants to know    608           610       taken           by its gRPC code
//	source broken           607           610       taken           by its gRPC code
//	cluster can repair it   503           602       taken, later    503
//	nobody knows who asks   404           404       taken, soon     404
//	all else                by its gRPC code
//
// Three-digit codes from 600 on are dfget's own and go out with HTTP 200;
// dfget takes every other one as a reason to turn to its next supernode.
package errmap

import (
	"net/http"

	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// The codes of dfget that stand for an error.
const (
	Wait              int32 = 602
	SourceUnreachable int32 = 607
	SourceAuth        int32 = 608
	SourceError       int32 = 610
)

// Call is what the client asked for, as far as its answers differ.
type Call int

// The calls.
const (
	Other Call = iota
	Register
	Pull
)

// Answer is what a client gets for an error.
type Answer struct {
	// HTTP is the HTTP status.
	HTTP int
	// Code is dfget's own code when HTTP is 200, and HTTP otherwise.
	Code int32
	// Text is for people.
	Text string
	// Internal is set when the fault is ours and the text does not tell it.
	Internal bool
}

// HasDfgetCode tells whether dfget has a code of its own for it.
func (a Answer) HasDfgetCode() bool { return a.HTTP == http.StatusOK }

// HTTPAnswer is the answer to a request that never became a call.
func HTTPAnswer(status int, text string) Answer {
	return Answer{HTTP: status, Code: int32(status), Text: text}
}

// ToAnswer decides on the answer to a call that ended with err, which is not nil.
func ToAnswer(call Call, err error) Answer {
	e := rpcerr.From(err)
	if code := dfgetCode(call, e); code != 0 {
		return Answer{HTTP: http.StatusOK, Code: code, Text: e.Text}
	}
	status := httpStatus(e)
	if status == http.StatusInternalServerError {
		return Answer{HTTP: status, Code: int32(status), Text: "internal error", Internal: true}
	}
	return HTTPAnswer(status, e.Text)
}

// Retryable tells whether the cluster may still do what was asked, so that
// asking again is worth it.
func Retryable(err error) bool {
	return retryable(rpcerr.From(err))
}

// PeerUnknown tells whether a scheduler does not know who asked: it may have
// taken the task over from one that did.
func PeerUnknown(err error) bool {
	r := rpcerr.ReasonOf(err)
	return r == rpcerr.TaskNotFound || r == rpcerr.PeerNotFound
}

// ReportAction is what becomes of a report that a scheduler did not take.
type ReportAction int

// The actions.
const (
	// Refuse is a report that is wrong: the client is told so.
	Refuse ReportAction = iota
	// Retry is one that may be taken another time.
	Retry
	// RetryBriefly is one of a peer that nobody knows: it will be taken within seconds,
	// when the peer's next pull has it adopted, or never.
	RetryBriefly
	// Discard is one that is of no use to anybody any more.
	Discard
)

// ForReport decides on the action for a report that ended with err, which is not nil.
// dfget can do nothing about any but the first, and repeats the others.
func ForReport(err error) ReportAction {
	switch e := rpcerr.From(err); {
	case fromSource(e.Reason):
		return Discard
	case PeerUnknown(err):
		return RetryBriefly
	case retryable(e):
		return Retry
	}
	return Refuse
}

func dfgetCode(call Call, e *rpcerr.Error) int32 {
	switch {
	case call == Pull && fromSource(e.Reason):
		return SourceError
	case call == Pull && retryable(e):
		return Wait
	case call == Register && e.Reason == rpcerr.SourceAuthRequired:
		return SourceAuth
	case call == Register && fromSource(e.Reason):
		return SourceUnreachable
	}
	return 0
}

func fromSource(r rpcerr.Reason) bool {
	switch r {
	case rpcerr.SourceNotFound, rpcerr.SourceAuthRequired, rpcerr.SourceUnreachable, rpcerr.SourceBroken:
		return true
	}
	return false
}

func retryable(e *rpcerr.Error) bool {
	// A source that is not reachable travels as Unavailable, too.
	if fromSource(e.Reason) {
		return false
	}
	switch e.Reason {
	case rpcerr.NoCDN, rpcerr.NoScheduler, rpcerr.NotOwner, rpcerr.StaleEpoch, rpcerr.StoreUnavailable:
		return true
	}
	switch e.Code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted, codes.Canceled:
		return true
	}
	return false
}

func httpStatus(e *rpcerr.Error) int {
	if retryable(e) || e.Reason == rpcerr.DiskFull {
		return http.StatusServiceUnavailable
	}
	switch e.Code {
	case codes.InvalidArgument, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.NotFound:
		return http.StatusNotFound
	case codes.AlreadyExists:
		return http.StatusConflict
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.DataLoss:
		return http.StatusBadGateway
	case codes.FailedPrecondition, codes.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
