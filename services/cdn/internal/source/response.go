package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// ErrCut is returned if the content ends early, or if the source stops sending.
var ErrCut = errors.New("the response of the source was cut off")

// Response is a response of the source whose content has not been read. The caller
// closes it.
type Response struct {
	// Length is the length of the content in bytes, -1 if the source did not send it.
	Length int64
	// ETag is the header as it was sent. It is empty if the header is missing, is not
	// UTF-8 or is longer than maxValidator.
	ETag string
	// LastModified is the header as it was sent, with the same exceptions.
	LastModified string
	// NotModified says that the source still has the version that the caller has.
	NotModified bool
	// Partial says that the response to Range has the requested bytes only.
	Partial bool

	status   int
	ranged   bool // the source supports ranges
	span     span // of a 206 response
	body     io.ReadCloser
	ctx      context.Context
	cancel   context.CancelCauseFunc
	watchdog *time.Timer
	idle     time.Duration
	waited   time.Duration // time spent in Read since the last minProgress bytes
	progress int           // bytes received in that time
	received time.Time
}

func newResponse(
	ctx context.Context, cancel context.CancelCauseFunc, res *http.Response, watchdog *time.Timer, idle time.Duration,
) *Response {
	r := &Response{
		Length:       res.ContentLength,
		ETag:         validatorText(res.Header.Get("ETag")),
		LastModified: validatorText(res.Header.Get("Last-Modified")),
		status:       res.StatusCode,
		body:         res.Body,
		ctx:          ctx, cancel: cancel, watchdog: watchdog, idle: idle,
		received: received(res.Header),
		ranged:   strings.EqualFold(strings.TrimSpace(res.Header.Get("Accept-Ranges")), "bytes"),
	}
	if r.status == http.StatusPartialContent {
		r.ranged = true
		r.span, _ = parseContentRange(res.Header.Get("Content-Range")) // the span is not valid then
		if r.span.valid && r.Length < 0 {
			r.Length = r.span.last - r.span.first + 1
		}
	}
	return r
}

// maxValidator is the maximum length of a validator in bytes. Sources send much
// shorter ones, and the registry stores longer ones.
const maxValidator = 8 << 10

// validatorText returns a header if it is a usable validator, and an empty string
// otherwise. HTTP permits an ETag that is not UTF-8, which neither protobuf nor JSON
// can transport. Such a source is treated as one without that validator.
func validatorText(header string) string {
	if len(header) > maxValidator || !utf8.ValidString(header) {
		return ""
	}
	return header
}

// minProgress is the number of bytes that must arrive within the idle timeout. Without
// it a source that sends single bytes could delay a fetch without end.
const minProgress = 1 << 10

// Read reads content. It returns io.EOF only after all of the content. Other errors
// are ErrCut, or the cause of the end of the request's context.
func (r *Response) Read(p []byte) (int, error) {
	began := time.Now()
	r.watchdog.Reset(r.idle - r.waited)
	n, err := r.body.Read(p)
	r.watchdog.Stop()
	r.waited += time.Since(began)
	if r.progress += n; r.progress >= minProgress {
		r.waited, r.progress = 0, 0
	}
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if cause := context.Cause(r.ctx); cause != nil {
		if !errors.Is(cause, errIdle) {
			return n, cause
		}
		err = cause
	}
	return n, fmt.Errorf("%w: %w", ErrCut, err)
}

// Cancel makes a running Read, and all later ones, return cause.
func (r *Response) Cancel(cause error) { r.cancel(cause) }

// Close releases the response. The content need not have been read.
func (r *Response) Close() {
	r.watchdog.Stop()
	r.cancel(context.Canceled)
	_ = r.body.Close() // only read from
}

// validator returns the value of If-Range for this version, or an empty string.
func (r *Response) validator() string {
	return strongValidator(r.ETag, r.LastModified, r.received)
}

// Received returns the time of the response: the source's Date header, or the local
// time if it sent none.
func (r *Response) Received() time.Time { return r.received }

// received returns the Date header, or the local time if there is none.
func received(header http.Header) time.Time {
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		return date
	}
	return time.Now()
}

// answers reports whether s is a correct response to a Range header. It returns true
// if it cannot decide that: the header names several ranges, or s is not valid. If
// the total length is unknown, it checks less.
func (s span) answers(rangeSpec string) bool {
	bounds, ok := strings.CutPrefix(rangeSpec, "bytes=")
	firstText, lastText, ok2 := strings.Cut(bounds, "-")
	if !ok || !ok2 || !s.valid {
		return true
	}
	first, err1 := strconv.ParseInt(firstText, 10, 64)
	last, err2 := strconv.ParseInt(lastText, 10, 64)
	switch known := s.total >= 0; {
	case firstText == "" && err2 == nil: // the last bytes
		return !known || s.first == max(0, s.total-last) && s.last == s.total-1
	case err1 == nil && lastText == "":
		return s.first == first && (!known || s.last == s.total-1)
	case err1 == nil && err2 == nil:
		return s.first == first && s.last <= last && (!known || s.last == min(last, s.total-1))
	default:
		return true // several ranges, or an invalid header
	}
}

// span is a parsed Content-Range header: the bytes first to last of total. total is
// -1 if it is unknown.
type span struct {
	first, last, total int64
	valid              bool
}

// parseContentRange parses "bytes first-last/total".
func parseContentRange(s string) (span, error) {
	bad := fmt.Errorf("invalid content range %.64q", s)
	rest, ok := strings.CutPrefix(s, "bytes ")
	if !ok {
		return span{}, bad
	}
	bounds, totalText, ok1 := strings.Cut(rest, "/")
	firstText, lastText, ok2 := strings.Cut(bounds, "-")
	first, err1 := strconv.ParseUint(firstText, 10, 63)
	last, err2 := strconv.ParseUint(lastText, 10, 63)
	if !ok1 || !ok2 || err1 != nil || err2 != nil || last < first || last == math.MaxInt64 {
		return span{}, bad // the length would overflow int64
	}
	found := span{first: int64(first), last: int64(last), total: -1, valid: true}
	if totalText == "*" {
		return found, nil
	}
	total, err := strconv.ParseUint(totalText, 10, 63)
	if err != nil || total <= last {
		return span{}, bad
	}
	found.total = int64(total)
	return found, nil
}
