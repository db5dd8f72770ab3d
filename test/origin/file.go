package origin

import (
	"bytes"
	"io"
	"sync/atomic"
	"time"
)

// File is a file and how the origin behaves when it is asked for it. The zero
// value of every behaviour is the polite one.
type File struct {
	// Content is what the file holds. When it is nil the file holds the Size
	// bytes that Content(Size, Seed) gives.
	Content []byte
	Size    int64
	Seed    uint64

	// ETag is sent as it stands, so it needs its quotes. LastModified is sent
	// when it is not zero. Both are honoured in If-None-Match,
	// If-Modified-Since and If-Range.
	ETag         string
	LastModified time.Time

	// HideLength sends the body in chunks and without a length. It implies
	// NoRange, since a Content-Range tells the length too.
	HideLength bool
	// NoRange answers every request with the whole file.
	NoRange bool

	// Rate bounds each response, in bytes a second; 0 is no bound.
	Rate int64
	// StallAfter makes a response hang after that many bytes of body, until
	// Release is called or the client leaves; 0 never. StallRequests bounds it
	// to the first so many requests for this version; 0 is all.
	StallAfter    int64
	StallRequests int64
	// CutAfter aborts the connection after that many bytes of body, for the
	// first CutRequests requests for this version, or for all when that is 0.
	// CutAfter 0 cuts behind the header when CutRequests is set, else never.
	CutAfter    int64
	CutRequests int64
	// HeaderDelay is waited before anything is answered.
	HeaderDelay time.Duration

	// Status is answered instead of the file; 0 is none.
	Status int
	// RequireHeader answers 401 to a request without this header and value.
	RequireHeader Header
	// BasicAuth answers 401 to a request without these credentials.
	BasicAuth Credentials
	// Redirect answers 302 to that path of this origin, or to that address
	// when it is a whole one.
	Redirect string
}

// Header is a header that a request has to carry. No name, no demand.
type Header struct{ Name, Value string }

// Credentials are those of HTTP's basic scheme. No user, no demand.
type Credentials struct{ User, Password string }

// version is one File as it was put, with what has happened to it.
type version struct {
	File
	content  io.ReaderAt
	size     int64
	released chan struct{}
	requests atomic.Int64
}

func newVersion(f File) *version {
	v := &version{File: f, size: f.Size, released: make(chan struct{})}
	if f.Content != nil {
		v.content, v.size = bytes.NewReader(f.Content), int64(len(f.Content))
	} else {
		v.content = newGenerated(f.Seed)
	}
	return v
}

// limits gives the bytes of body after which the request numbered n (from 1)
// stalls and is cut; -1 is never.
func (v *version) limits(n int64) (stall, cut int64) {
	stall, cut = -1, -1
	if v.StallAfter > 0 && (v.StallRequests == 0 || n <= v.StallRequests) {
		stall = v.StallAfter
	}
	if (v.CutAfter > 0 && v.CutRequests == 0) || n <= v.CutRequests {
		cut = v.CutAfter
	}
	return stall, cut
}
