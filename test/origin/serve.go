package origin

import (
	"context"
	"crypto/subtle"
	"errors"
	"io"
	"net/http"
	"time"
)

// handle answers one request and counts it.
func (o *Origin) handle(w http.ResponseWriter, r *http.Request) {
	if !o.enter() {
		http.Error(w, "closing", http.StatusServiceUnavailable)
		return
	}
	defer o.handlers.Done()
	headers := r.Header.Clone()
	headers.Set("Host", r.Host)
	o.ledger.note(r.URL.Path, func(s *Stats) {
		s.Requests++
		s.Active++
		s.LastHeaders = headers
	})
	defer o.ledger.note(r.URL.Path, func(s *Stats) { s.Active-- })

	v := o.file(r.URL.Path)
	if v == nil {
		http.NotFound(w, r)
		return
	}
	number := v.requests.Add(1)
	if o.wait(r.Context(), v.HeaderDelay) != nil || o.refused(w, r, v) {
		return
	}
	o.send(w, r, v, number)
}

// refused answers everything that is not the file itself.
func (o *Origin) refused(w http.ResponseWriter, r *http.Request, v *version) bool {
	if h := v.RequireHeader; h.Name != "" && r.Header.Get(h.Name) != h.Value {
		http.Error(w, "header "+h.Name+" demanded", http.StatusUnauthorized)
		return true
	}
	if c := v.BasicAuth; c.User != "" {
		user, password, _ := r.BasicAuth()
		if subtle.ConstantTimeCompare([]byte(user+":"+password), []byte(c.User+":"+c.Password)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="origin"`)
			http.Error(w, "credentials demanded", http.StatusUnauthorized)
			return true
		}
	}
	if v.Redirect != "" {
		http.Redirect(w, r, v.Redirect, http.StatusFound)
		return true
	}
	if v.Status != 0 {
		http.Error(w, http.StatusText(v.Status), v.Status)
		return true
	}
	return false
}

// send lets the standard library decide between 200, 206, 304 and 416, and
// puts the behaviours between it and the network.
func (o *Origin) send(w http.ResponseWriter, r *http.Request, v *version, number int64) {
	header := w.Header()
	header.Set("Content-Type", "application/octet-stream")
	if v.ETag != "" {
		header.Set("ETag", v.ETag)
	}
	if v.NoRange || v.HideLength {
		r.Header.Del("Range")
	}
	stall, cut := v.limits(number)
	out := &writer{ResponseWriter: w, origin: o, request: r, version: v, stall: stall, cut: cut, started: time.Now()}
	http.ServeContent(out, r, "", v.LastModified, io.NewSectionReader(v.content, 0, v.size))
	if cut == 0 {
		out.abort()
	}
	out.finish()
}

// wait sleeps, and gives an error when the client or the origin goes away.
func (o *Origin) wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-o.done:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errClosed = errors.New("the origin is closed")

// writer is a response on its way to the network. It counts, paces, stalls
// and cuts.
type writer struct {
	http.ResponseWriter
	origin     *Origin
	request    *http.Request
	version    *version
	stall, cut int64 // in bytes of body, -1 for never
	started    time.Time

	status  int
	sent    int64
	counted bool
}

func (w *writer) WriteHeader(status int) {
	w.status = status
	switch {
	case status == http.StatusNotModified:
		w.origin.ledger.note(w.request.URL.Path, func(s *Stats) { s.NotModified++ })
	case w.version.HideLength:
		w.Header().Del("Content-Length")
	}
	if w.version.NoRange || w.version.HideLength {
		w.Header().Del("Accept-Ranges")
	}
	w.ResponseWriter.WriteHeader(status)
	if w.version.HideLength && status == http.StatusOK {
		w.flush() // else a short body would be sent with a length after all
	}
}

// Write sends p in steps that end where the response stalls or is cut.
func (w *writer) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		step := p[written:]
		for _, limit := range []int64{w.stall, w.cut} {
			if limit > w.sent && int64(len(step)) > limit-w.sent {
				step = step[:limit-w.sent]
			}
		}
		if rate := w.version.Rate; rate > 0 {
			step = step[:min(int64(len(step)), max(rate/50, 1))]
		}
		n, err := w.step(step)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func (w *writer) step(p []byte) (int, error) {
	if w.sent == w.cut {
		w.abort()
	}
	if w.sent == w.stall {
		if err := w.hang(); err != nil {
			return 0, err
		}
	}
	if rate := w.version.Rate; rate > 0 {
		due := w.due(rate, time.Now())
		if err := w.origin.wait(w.request.Context(), time.Until(due)); err != nil {
			return 0, err
		}
	}
	n, err := w.ResponseWriter.Write(p)
	w.count(int64(n))
	if w.version.Rate > 0 {
		w.flush()
	}
	if err == nil && w.sent == w.cut {
		w.abort()
	}
	return n, err
}

// jitter is how late a step may be and be made up for.
const jitter = 100 * time.Millisecond

// due is when the next byte may be sent. What a client did not take for longer is
// not made up for: the rate is the same after it.
func (w *writer) due(rate int64, now time.Time) time.Time {
	due := w.started.Add(time.Duration(float64(w.sent) / float64(rate) * float64(time.Second)))
	if late := now.Sub(due) - jitter; late > 0 {
		w.started, due = w.started.Add(late), due.Add(late)
	}
	return due
}

// hang waits until the file is released. That is not made up for either.
func (w *writer) hang() error {
	w.flush()
	began := time.Now()
	select {
	case <-w.version.released:
		w.stall = -1
		w.started = w.started.Add(time.Since(began))
		return nil
	case <-w.origin.done:
		return errClosed
	case <-w.request.Context().Done():
		return w.request.Context().Err()
	}
}

// abort breaks the connection off behind what was sent. It does not return;
// the server takes this panic for what it is.
func (w *writer) abort() {
	w.flush()
	panic(http.ErrAbortHandler)
}

func (w *writer) flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

func (w *writer) isBody() bool {
	return w.request.Method == http.MethodGet && (w.status == http.StatusOK || w.status == http.StatusPartialContent)
}

func (w *writer) count(n int64) {
	w.sent += n
	if n == 0 || !w.isBody() {
		return
	}
	first := !w.counted
	w.counted = true
	w.origin.ledger.note(w.request.URL.Path, func(s *Stats) {
		s.BytesSent += n
		if first {
			s.Bodies++
		}
	})
}

// finish counts the body of an empty file, which no write announces.
func (w *writer) finish() {
	if w.counted || !w.isBody() || w.version.size != 0 {
		return
	}
	w.origin.ledger.note(w.request.URL.Path, func(s *Stats) { s.Bodies++ })
}
