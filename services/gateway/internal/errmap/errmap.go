// Package errmap maps an error of the cluster to the answer that the client
// gets, and decides whether a call or a report is retried. It is the only place
// that makes these decisions. It has no state and makes no calls.
//
//	error                          register    pull    report                other calls
//	source not found, unreachable  607         610     accepted, discarded   by gRPC code
//	source requires credentials    608         610     accepted, discarded   by gRPC code
//	source broken                  607         610     accepted, discarded   by gRPC code
//	the cluster can recover        503         602     accepted, retried     503
//	task or peer unknown           404         404     accepted, retried     404
//	                                                   for a few seconds
//	too many peers or tasks        429         602     accepted, retried     429
//	                                                   for a few seconds
//	the only scheduler is stopping 503 at once 503     an error              503
//	any other                      by gRPC code
//
// A client that gets 429 is told when to try again (Retry-After).
//
// A pull is never answered with 603 (limited), although dfget stays after it: dfget
// then pulls again only when a piece that it is downloading ends, so without such a
// piece it would pull no more until its own timeout ends the download.
//
// A registration that is refused because its client makes too many is 609.
//
// Codes from 600 are dfget's own and are sent with HTTP status 200. After any
// other error dfget leaves for its next supernode.
package errmap

import (
	"net/http"

	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// The dfget codes that stand for an error.
const (
	Wait              int32 = 602
	SourceUnreachable int32 = 607
	SourceAuth        int32 = 608
	WaitAuth          int32 = 609
	SourceError       int32 = 610
)

// Call is the kind of call that failed. It has one value for each column of the
// table in the package comment that has its own answers.
type Call int

// The kinds of calls.
const (
	Other Call = iota
	Register
	Pull
)

// Answer is what the client gets for an error.
type Answer struct {
	// HTTP is the HTTP status.
	HTTP int
	// Code is dfget's own code when HTTP is 200, and HTTP otherwise.
	Code int32
	// RetryAfter is the number of seconds after which the client may try again, for
	// the header of that name; 0 for no header.
	RetryAfter int
	// Text is the message for the user.
	Text string
	// Internal is true for an unexpected error. Text then hides the cause, which
	// has to be logged.
	Internal bool
}

// HasDfgetCode reports whether the answer uses one of dfget's own codes.
func (a Answer) HasDfgetCode() bool { return a.HTTP == http.StatusOK }

// HTTPAnswer returns the answer to a request that was rejected before it became
// a call.
func HTTPAnswer(status int, text string) Answer {
	return Answer{HTTP: status, Code: int32(status), Text: text}
}

// TooManyRegistrations returns the answer to a registration of a client that has made
// too many of them. dfget repeats a registration up to three times at the same
// address after this code, 1 s apart, where any other refusal would make it leave at
// once, in the end for the source.
func TooManyRegistrations() Answer {
	return Answer{
		HTTP: http.StatusOK, Code: WaitAuth, RetryAfter: 1,
		Text: "this address registers too often (--max-registrations); try again in a second",
	}
}

// ToAnswer returns the answer to a call that failed with err, which must not be
// nil.
func ToAnswer(call Call, err error) Answer {
	e := rpcerr.From(err)
	if code := dfgetCode(call, e); code != 0 {
		return Answer{HTTP: http.StatusOK, Code: code, Text: e.Text}
	}
	status := httpStatus(e)
	if status == http.StatusInternalServerError {
		return Answer{HTTP: status, Code: int32(status), Text: "internal error", Internal: true}
	}
	a := HTTPAnswer(status, e.Text)
	if e.Reason == rpcerr.LimitReached {
		a.RetryAfter = limitRetryAfter
	}
	return a
}

// limitRetryAfter is the Retry-After of a bound that is reached, in seconds. Peers and
// tasks are removed minutes after their last call.
const limitRetryAfter = 10

// Retryable reports whether the cluster may recover from err, so that the same
// call may succeed later.
func Retryable(err error) bool {
	return retryable(rpcerr.From(err))
}

// PeerUnknown reports whether a scheduler failed a call because it does not have
// the task or the peer. It may have taken the task over from a scheduler that
// had them.
func PeerUnknown(err error) bool {
	r := rpcerr.ReasonOf(err)
	return r == rpcerr.TaskNotFound || r == rpcerr.PeerNotFound
}

// ReportAction says what to do with a report that could not be delivered.
type ReportAction int

// The actions.
const (
	// Refuse returns the error to the client, because the report is invalid.
	Refuse ReportAction = iota
	// Retry accepts the report and sends it again later.
	Retry
	// RetryBriefly accepts the report and sends it again for a few seconds only:
	// no scheduler has the peer, or its task is full. Either the peer's next pull has
	// it adopted within that time, or the report will never be accepted.
	RetryBriefly
	// Discard accepts the report and drops it, because the source of its task
	// has failed and the report is of no use.
	Discard
)

// ForReport returns the action for a report that failed with err, which must not
// be nil. Only Refuse is an error to the client: for any other cause dfget could
// do no more than send the report again.
func ForReport(err error) ReportAction {
	switch e := rpcerr.From(err); {
	case fromSource(e.Reason):
		return Discard
	case PeerUnknown(err), e.Reason == rpcerr.LimitReached:
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
	case call == Pull && (retryable(e) || e.Reason == rpcerr.LimitReached):
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
	// An unreachable source also has the gRPC code Unavailable, but the cluster
	// does not recover from it. Nor does it if its only scheduler is stopping.
	if fromSource(e.Reason) || e.Reason == rpcerr.Stopping {
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
