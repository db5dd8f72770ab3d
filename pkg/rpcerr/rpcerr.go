// Package rpcerr is the errors that cross process borders: a gRPC code for
// machines that know gRPC, a reason for our own, a text for people. The kind
// of an error is decided where the fact is known, with New; everything between
// wraps it with %w; Status turns whatever arrives at the border into a status.
package rpcerr

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Reason is what exactly went wrong, readable for machines.
type Reason string

// The reasons that services give each other. The proto files say which call
// gives which.
const (
	NotOwner           Reason = "NOT_OWNER"
	NoCDN              Reason = "NO_CDN"
	NoScheduler        Reason = "NO_SCHEDULER"
	StaleEpoch         Reason = "STALE_EPOCH"
	TaskNotFound       Reason = "TASK_NOT_FOUND"
	PeerNotFound       Reason = "PEER_NOT_FOUND"
	TaskDeleted        Reason = "TASK_DELETED"
	InvalidArgument    Reason = "INVALID_ARGUMENT"
	SourceNotFound     Reason = "SOURCE_NOT_FOUND"
	SourceAuthRequired Reason = "SOURCE_AUTH_REQUIRED"
	SourceUnreachable  Reason = "SOURCE_UNREACHABLE"
	SourceBroken       Reason = "SOURCE_BROKEN"
	DiskFull           Reason = "DISK_FULL"
	DiskFailed         Reason = "DISK_FAILED"
	CopyPartial        Reason = "COPY_PARTIAL"
	StoreUnavailable   Reason = "STORE_UNAVAILABLE"
	LimitReached       Reason = "LIMIT_REACHED"
	Stopping           Reason = "STOPPING"
)

// domain marks our error details among others'.
const domain = "supernode"

// Error is an error of a known kind.
type Error struct {
	// Code is the gRPC code it travels under.
	Code codes.Code
	// Reason is what exactly went wrong.
	Reason Reason
	// Text is for people.
	Text string
	// Metadata goes with the reason, such as who the owner is instead.
	Metadata map[string]string
}

// New makes an error of a known kind; the text is formatted as by fmt.Sprintf.
func New(code codes.Code, reason Reason, format string, args ...any) *Error {
	return &Error{Code: code, Reason: reason, Text: fmt.Sprintf(format, args...)}
}

// Invalid is a request that can never succeed.
func Invalid(format string, args ...any) *Error {
	return New(codes.InvalidArgument, InvalidArgument, format, args...)
}

// final is the metadata of errors that another instance would find again.
const final = "final"

// AsFinal marks an error that nobody else can mend either, and gives the same
// error back.
func (e *Error) AsFinal() *Error { return e.With(final, "true") }

// IsFinal tells whether an error was marked so, here or beyond the wire.
func IsFinal(err error) bool {
	found := From(err)
	return found != nil && found.Metadata[final] == "true"
}

// With adds one entry of metadata and gives the same error back.
func (e *Error) With(key, value string) *Error {
	if e.Metadata == nil {
		e.Metadata = make(map[string]string)
	}
	e.Metadata[key] = value
	return e
}

// Error is the text.
func (e *Error) Error() string { return e.Text }

// Status turns err into what goes over the wire. Errors of no known kind
// become Internal, those of a context Canceled or DeadlineExceeded.
func Status(err error) *status.Status {
	var known *Error
	switch {
	case err == nil:
		return status.New(codes.OK, "")
	case errors.As(err, &known):
		s := status.New(known.Code, err.Error())
		detailed, detailErr := s.WithDetails(&errdetails.ErrorInfo{
			Reason: string(known.Reason), Domain: domain, Metadata: known.Metadata,
		})
		if detailErr != nil {
			return s
		}
		return detailed
	case errors.Is(err, context.Canceled):
		return status.New(codes.Canceled, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.New(codes.DeadlineExceeded, err.Error())
	}
	if s, ok := status.FromError(err); ok {
		return s
	}
	return status.New(codes.Internal, err.Error())
}

// From finds the kind of an error, whether it was made here or came over the
// wire. It answers nil for nil, and an Error without reason for one that tells none.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	s := Status(err)
	found := &Error{Code: s.Code(), Text: s.Message()}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == domain {
			found.Reason, found.Metadata = Reason(info.GetReason()), info.GetMetadata()
		}
	}
	return found
}

// ReasonOf gives the reason of an error, empty if it tells none.
func ReasonOf(err error) Reason {
	if found := From(err); found != nil {
		return found.Reason
	}
	return ""
}
