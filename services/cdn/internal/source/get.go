package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// Validators identifies a version of the source that the caller has. The zero value
// identifies none.
type Validators struct {
	// ETag is the header as it was sent, or empty.
	ETag string
	// LastModified is the header as it was sent, or empty.
	LastModified string
}

// Get requests the content. If the source still has the version of have, the response
// has NotModified set and no content. Errors: SOURCE_NOT_FOUND, SOURCE_AUTH_REQUIRED,
// SOURCE_UNREACHABLE, SOURCE_BROKEN, or the cause of the end of ctx.
func (s *Session) Get(ctx context.Context, have Validators) (*Response, error) {
	extra := make(http.Header)
	if have.ETag != "" {
		extra.Set("If-None-Match", have.ETag)
	}
	if have.LastModified != "" {
		extra.Set("If-Modified-Since", have.LastModified)
	}
	res, err := s.do(ctx, extra)
	if err != nil {
		return nil, err
	}
	if err := s.check(res, len(extra) > 0); err != nil {
		res.Close()
		return nil, err
	}
	return res, nil
}

// check returns an error with its kind for a response that Get cannot use.
func (s *Session) check(res *Response, conditional bool) error {
	want := http.StatusOK
	if s.spec.rangeSpec != "" {
		want = http.StatusPartialContent
	}
	switch status := res.status; {
	case status == want:
		if res.span.valid && res.Length != res.span.last-res.span.first+1 {
			return Broken("the source sends another length than it says")
		}
		if !res.span.answers(s.spec.rangeSpec) {
			return Broken("the source does not send the requested range")
		}
		if res.Length >= 0 && piece.Count(res.Length, piece.SizeFor(res.Length)) == 0 {
			return Broken("the source announces %d bytes, too many to be split into pieces", res.Length)
		}
		return nil
	case status == http.StatusNotModified && conditional:
		res.NotModified = true
		return nil
	case status == http.StatusOK:
		return Broken("the source does not send the requested range")
	default:
		return s.refusal(status)
	}
}

// Resumable reports whether a response that was cut off can be resumed: its version
// has a strong validator, and the source supports ranges.
func (r *Response) Resumable() bool {
	plain := r.status == http.StatusOK || r.span.valid // a multipart response has no offsets
	return r.ranged && plain && r.validator() != ""
}

// Resume requests the content of first from offset on. It returns SOURCE_BROKEN if
// the source does not send exactly that, for example because its version has changed.
// If Transient is true for the error, the request can be repeated.
func (s *Session) Resume(ctx context.Context, first *Response, offset int64) (*Response, error) {
	want := strconv.FormatInt(first.span.first+offset, 10) + "-"
	if first.span.valid {
		want += strconv.FormatInt(first.span.last, 10)
	}
	extra := http.Header{"Range": {"bytes=" + want}, "If-Range": {first.validator()}}
	res, err := s.do(ctx, extra)
	if err != nil {
		return nil, err
	}
	if err := checkResumed(res, first, offset); err != nil {
		res.Close()
		return nil, err
	}
	return res, nil
}

func checkResumed(res, first *Response, offset int64) error {
	switch {
	case transientStatus(res.status):
		return &statusError{res.status, rpcerr.New(codes.Unavailable, rpcerr.SourceUnreachable, "the source answered %d", res.status)}
	case res.status == http.StatusOK:
		return Broken("the source changed while it was fetched")
	case res.status != http.StatusPartialContent:
		return Broken("the source answered %d to the request for the rest", res.status)
	case !res.span.valid || res.span.first != first.span.first+offset:
		return Broken("the source resumed at another offset than requested")
	case !sameVersion(res, first):
		return Broken("the source changed while it was fetched")
	case first.Length >= 0 && res.span.last-res.span.first+1 != first.Length-offset:
		return Broken("the source has another length than before")
	case first.Length < 0 && res.span.last+1 != res.span.total:
		return Broken("the source does not send all of the rest")
	case res.Length != res.span.last-res.span.first+1:
		return Broken("the source sends another length than it says")
	}
	return nil
}

// sameVersion reports whether two responses are of the same version. It is needed
// because a source may ignore If-Range. A 206 response must repeat the ETag, and may
// omit Last-Modified.
func sameVersion(res, first *Response) bool {
	if res.LastModified != first.LastModified && res.LastModified != "" && first.LastModified != "" {
		return false
	}
	return res.ETag == first.ETag
}

// statusError holds the HTTP status of a response and the error that it is reported as.
type statusError struct {
	status int
	err    *rpcerr.Error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// Transient reports whether the same request may succeed later: the source was not
// reached, or answered with a status that says that its problem is temporary.
func Transient(err error) bool {
	var answered *statusError
	if errors.As(err, &answered) {
		return transientStatus(answered.status)
	}
	return rpcerr.ReasonOf(err) == rpcerr.SourceUnreachable
}

func transientStatus(status int) bool {
	return status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
}

// Broken returns a SOURCE_BROKEN error: the content of the source cannot be used.
func Broken(format string, args ...any) error { return broken(format, args...) }

// Wrong returns a final SOURCE_BROKEN error: the source sent all of its content, and
// that is not the requested content. Another instance would get the same error.
func Wrong(format string, args ...any) error { return broken(format, args...).AsFinal() }

func broken(format string, args ...any) *rpcerr.Error {
	return rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "%s", readable(fmt.Sprintf(format, args...)))
}

// unreachable returns a SOURCE_UNREACHABLE error: the source did not answer. It omits
// the URL that net/http adds to its errors, because a URL may contain secrets.
func unreachable(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return rpcerr.New(codes.Unavailable, rpcerr.SourceUnreachable, "requesting the source: %s", readable(err.Error()))
}

// readable shortens a text and replaces bytes that are not UTF-8. The text may quote
// what the source sent, and a gRPC status that is not UTF-8 would arrive without its
// reason.
func readable(text string) string {
	const maxLength = 512
	if len(text) > maxLength {
		text = text[:maxLength] + "..."
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
