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

// ErrCut is content that ended before its end, or that stopped coming.
var ErrCut = errors.New("the source's answer was cut off")

// Response is an answer of the source with its content still to be read.
type Response struct {
	// Length is how many bytes follow, -1 when the source does not tell.
	Length int64
	// ETag is the header as it was sent, or empty if it is no short UTF-8.
	ETag string
	// LastModified is the header as it was sent, or empty if it is no short UTF-8.
	LastModified string
	// NotModified is the answer that what the asker has is still right.
	NotModified bool
	// Partial is the answer to Range that gives no more than what was asked for.
	Partial bool

	status   int
	ranged   bool // the source has shown, or said, that it understands ranges
	span     span // of a 206
	body     io.ReadCloser
	ctx      context.Context
	cancel   context.CancelCauseFunc
	watchdog *time.Timer
	idle     time.Duration
	waited   time.Duration // in Read, since leastProgress bytes had come
	came     int           // in that time
	received time.Time     // by the source's clock, if it tells
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
		r.span, _ = parseContentRange(res.Header.Get("Content-Range")) // the zero span is known by valid
		if r.span.valid && r.Length < 0 {
			r.Length = r.span.last - r.span.first + 1
		}
	}
	return r
}

// mostValidator in bytes is far beyond what sources need, and within what the
// registry keeps.
const mostValidator = 8 << 10

// validatorText gives a validator that can be passed on. HTTP lets an ETag hold
// bytes that are no UTF-8, which neither protobuf nor JSON can carry: such a
// source is one without validators.
func validatorText(header string) string {
	if len(header) > mostValidator || !utf8.ValidString(header) {
		return ""
	}
	return header
}

// leastProgress is how many bytes must come within the idle time. A source that
// sends one now and then keeps everybody waiting as one does that sends none.
const leastProgress = 1 << 10

// Read reads content. It ends with io.EOF only when all of it has come;
// otherwise the error is ErrCut, or the cause that the request's context ended with.
func (r *Response) Read(p []byte) (int, error) {
	began := time.Now()
	r.watchdog.Reset(r.idle - r.waited)
	n, err := r.body.Read(p)
	r.watchdog.Stop()
	r.waited += time.Since(began)
	if r.came += n; r.came >= leastProgress {
		r.waited, r.came = 0, 0
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

// Cancel makes a Read that waits, and all after it, end with cause.
func (r *Response) Cancel(cause error) { r.cancel(cause) }

// Close lets the answer go, read or not.
func (r *Response) Close() {
	r.watchdog.Stop()
	r.cancel(context.Canceled)
	_ = r.body.Close() // only read from
}

// validator is what If-Range can name this version by, or empty.
func (r *Response) validator() string {
	return strongName(r.ETag, r.LastModified, r.received)
}

// Received is when the source gave its answer, by its own clock.
func (r *Response) Received() time.Time { return r.received }

// received is when the source gave its answer.
func received(header http.Header) time.Time {
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		return date
	}
	return time.Now()
}

// answers tells whether s is what a source with this range has to give for a
// Range header, as far as that names one range and the source tells its length.
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
		return true // several ranges, or none that can be read
	}
}

// span is what a Content-Range header says: first to last byte, of total, -1
// when that is not known.
type span struct {
	first, last, total int64
	valid              bool
}

// parseContentRange reads "bytes first-last/total".
func parseContentRange(s string) (span, error) {
	bad := fmt.Errorf("content range %.64q cannot be read", s)
	rest, ok := strings.CutPrefix(s, "bytes ")
	if !ok {
		return span{}, bad
	}
	bounds, totalText, ok1 := strings.Cut(rest, "/")
	firstText, lastText, ok2 := strings.Cut(bounds, "-")
	first, err1 := strconv.ParseUint(firstText, 10, 63)
	last, err2 := strconv.ParseUint(lastText, 10, 63)
	if !ok1 || !ok2 || err1 != nil || err2 != nil || last < first || last == math.MaxInt64 {
		return span{}, bad // the length of a range to MaxInt64 is no int64
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
