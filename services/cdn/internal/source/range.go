package source

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// Known describes a version of the source of which the caller has some pieces.
type Known struct {
	Validators
	// Length is the length of the content in bytes.
	Length int64
	// At is the time at which the source sent the validators, see Response.Received.
	At time.Time
}

// validator returns the value of If-Range for the version, or an empty string.
func (k Known) validator() string { return strongValidator(k.ETag, k.LastModified, k.At) }

// Rangeable reports whether ranges of the version can be requested.
func (s *Session) Rangeable(k Known) bool {
	_, ok := s.base()
	return ok && k.Length > 0 && k.validator() != ""
}

// base returns the offset in the source at which the content begins. It returns false
// if the offset is unknown, because the client's Range header is not a single range
// with a first byte.
func (s *Session) base() (int64, bool) {
	if s.spec.rangeSpec == "" {
		return 0, true
	}
	bounds, ok := strings.CutPrefix(s.spec.rangeSpec, "bytes=")
	firstText, _, ok2 := strings.Cut(bounds, "-")
	first, err := strconv.ParseUint(firstText, 10, 63)
	return int64(first), ok && ok2 && err == nil && !strings.Contains(bounds, ",")
}

// Range requests the bytes first to last of the content, provided that the source
// still has the known version. A response that is not Partial has the content from
// its start: the source has changed, or it does not support ranges. Errors are those
// of Get.
func (s *Session) Range(ctx context.Context, k Known, first, last int64) (*Response, error) {
	base, _ := s.base()
	want := span{first: base + first, last: base + last}
	extra := http.Header{
		"Range":    {"bytes=" + strconv.FormatInt(want.first, 10) + "-" + strconv.FormatInt(want.last, 10)},
		"If-Range": {k.validator()},
	}
	res, err := s.do(ctx, extra)
	if err != nil {
		return nil, err
	}
	if err := s.checkRange(res, k, want); err != nil {
		res.Close()
		return nil, err
	}
	return res, nil
}

func (s *Session) checkRange(res *Response, k Known, want span) error {
	switch {
	case res.status == http.StatusOK && s.spec.rangeSpec == "":
		return s.check(res, false)
	case res.status == http.StatusOK, res.status == http.StatusRequestedRangeNotSatisfiable:
		return Broken("the source changed")
	case res.status != http.StatusPartialContent:
		return s.refusal(res.status)
	case !res.span.valid || res.span.first != want.first || res.span.last != want.last:
		return Broken("the source does not send the requested range")
	case res.ETag != k.ETag || res.LastModified != k.LastModified && res.LastModified != "" && k.LastModified != "":
		return Broken("the source changed")
	case s.spec.rangeSpec == "" && res.span.total >= 0 && res.span.total != k.Length:
		return Broken("the source has another length than before")
	case res.Length != res.span.last-res.span.first+1:
		return Broken("the source sends another length than it says")
	}
	res.Partial = true
	return nil
}

// refusal returns the error for a response without content.
func (s *Session) refusal(status int) error {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusProxyAuthRequired:
		return &statusError{status, rpcerr.New(codes.Unauthenticated, rpcerr.SourceAuthRequired, "the source answered %d", status)}
	case status == http.StatusNotFound || status == http.StatusGone:
		return &statusError{status, rpcerr.New(codes.NotFound, rpcerr.SourceNotFound, "the source answered %d", status)}
	case status >= 200 && status < 300:
		return Broken("the source answered %d", status)
	default:
		return &statusError{status, rpcerr.New(codes.Unavailable, rpcerr.SourceUnreachable, "the source answered %d", status)}
	}
}

// strongValidator returns a strong validator: an ETag or a date that changes whenever
// the content does. It returns an empty string if there is none. at is the time of
// the response.
func strongValidator(etag, lastModified string, at time.Time) string {
	if etag != "" && !strings.HasPrefix(etag, "W/") {
		return etag
	}
	// Dates have a resolution of 1 s. If the content was modified less than 1 s
	// before the response, it may change again and keep the date.
	date, err := http.ParseTime(lastModified)
	if err != nil || at.Sub(date) < time.Second {
		return ""
	}
	return lastModified
}
