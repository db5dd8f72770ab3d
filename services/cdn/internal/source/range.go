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

// Known is a version of the source that the asker has some of.
type Known struct {
	Validators
	// Length is the number of bytes of the content.
	Length int64
	// At is when the source told this, by its own clock.
	At time.Time
}

// Name is what If-Range can name the version by, or empty.
func (k Known) Name() string { return strongName(k.ETag, k.LastModified, k.At) }

// Rangeable tells whether parts of the version can be asked for.
func (s *Session) Rangeable(k Known) bool {
	_, ok := s.base()
	return ok && k.Length > 0 && k.Name() != ""
}

// base is where in the source the content begins, if that can be known.
func (s *Session) base() (int64, bool) {
	if s.spec.rangeSpec == "" {
		return 0, true
	}
	bounds, ok := strings.CutPrefix(s.spec.rangeSpec, "bytes=")
	firstText, _, ok2 := strings.Cut(bounds, "-")
	first, err := strconv.ParseUint(firstText, 10, 63)
	return int64(first), ok && ok2 && err == nil && !strings.Contains(bounds, ",")
}

// Range asks for the content from first to last, if the source still is of the
// known version. An answer that is not Partial is the content from its start,
// be it because the source changed or because it knows no ranges. Errors are
// those of Get.
func (s *Session) Range(ctx context.Context, k Known, first, last int64) (*Response, error) {
	base, _ := s.base()
	want := span{first: base + first, last: base + last}
	extra := http.Header{
		"Range":    {"bytes=" + strconv.FormatInt(want.first, 10) + "-" + strconv.FormatInt(want.last, 10)},
		"If-Range": {k.Name()},
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
		return Broken("the source does not give the range that was asked for")
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

// refusal is an answer without content.
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

// strongName gives a strong validator, or empty.
func strongName(etag, lastModified string, at time.Time) string {
	if etag != "" && !strings.HasPrefix(etag, "W/") {
		return etag
	}
	// What changed within the second of its date may do so again unnoticed.
	date, err := http.ParseTime(lastModified)
	if err != nil || at.Sub(date) < time.Second {
		return ""
	}
	return lastModified
}
