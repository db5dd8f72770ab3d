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

// Validators name the version of the source that the asker has. The zero value
// is none.
type Validators struct {
	// ETag is the header as it was sent, or empty.
	ETag string
	// LastModified is the header as it was sent, or empty.
	LastModified string
}

// Get asks for the content, unless it is still the version of have. Errors:
// SOURCE_NOT_FOUND, SOURCE_AUTH_REQUIRED, SOURCE_UNREACHABLE, SOURCE_BROKEN,
// or the cause that ctx ended with.
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

// check gives every answer but the wanted ones its kind.
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
			return Broken("the source does not give the range that was asked for")
		}
		if res.Length >= 0 && piece.Count(res.Length, piece.SizeFor(res.Length)) == 0 {
			return Broken("the source announces %d bytes, more than can be cut into pieces", res.Length)
		}
		return nil
	case status == http.StatusNotModified && conditional:
		res.NotModified = true
		return nil
	case status == http.StatusOK:
		return Broken("the source does not give the range that was asked for")
	default:
		return s.refusal(status)
	}
}

// Resumable tells whether an answer that was cut off can be continued: its
// version has a name, and the source understands ranges.
func (r *Response) Resumable() bool {
	plain := r.status == http.StatusOK || r.span.valid // a multipart answer has no offsets
	return r.ranged && plain && r.validator() != ""
}

// Resume asks for the content of first again, from offset on, and takes it
// only if it is of the same version. Errors: SOURCE_BROKEN if it is not;
// those for which Transient is true are worth another try.
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
		return Broken("the source answered %d when it was to go on", res.status)
	case !res.span.valid || res.span.first != first.span.first+offset:
		return Broken("the source went on at another place")
	case !sameVersion(res, first):
		return Broken("the source changed while it was fetched")
	case first.Length >= 0 && res.span.last-res.span.first+1 != first.Length-offset:
		return Broken("the source has another length than before")
	case first.Length < 0 && res.span.last+1 != res.span.total:
		return Broken("the source does not go on to its end")
	case res.Length != res.span.last-res.span.first+1:
		return Broken("the source sends another length than it says")
	}
	return nil
}

// sameVersion does not rely on the source having understood If-Range. A 206
// must repeat the ETag; the date may be left out.
func sameVersion(res, first *Response) bool {
	if res.LastModified != first.LastModified && res.LastModified != "" && first.LastModified != "" {
		return false
	}
	return res.ETag == first.ETag
}

// statusError is an answer of a kind, which the number says more about.
type statusError struct {
	status int
	err    *rpcerr.Error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// Transient tells whether the same request may fare better later: the source
// was not reached, or said that it has a bad time.
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

// Broken is a source whose content cannot be used, a SOURCE_BROKEN.
func Broken(format string, args ...any) error { return broken(format, args...) }

// Wrong is a source that sent all that it had, and it is not what was asked
// for: a SOURCE_BROKEN that another instance would find again.
func Wrong(format string, args ...any) error { return broken(format, args...).AsFinal() }

func broken(format string, args ...any) *rpcerr.Error {
	return rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "%s", readable(fmt.Sprintf(format, args...)))
}

// unreachable is a source that gave no answer. The address that net/http puts
// into its errors may hold secrets, so it is left out.
func unreachable(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return rpcerr.New(codes.Unavailable, rpcerr.SourceUnreachable, "asking the source: %s", readable(err.Error()))
}

// readable makes a text that may quote what a source sent fit to travel: a
// status with bytes that are no UTF-8 would lose its reason on the way.
func readable(text string) string {
	const most = 512
	if len(text) > most {
		text = text[:most] + "..."
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
