package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

const (
	callTimeout   = 5 * time.Second
	callDial      = 3 * time.Second
	callIdle      = 10 * time.Second
	callAttempts  = 5
	callRedirects = 16
	maxAnswer     = 64 << 20
)

// errNoAnswer is a call that nobody answered in time.
var errNoAnswer = errors.New("no answer within 5 s")

// statusError is an answer whose HTTP status is not 200.
type statusError struct {
	status int
	body   []byte
}

func (e *statusError) Error() string { return fmt.Sprintf("%d:%.200s", e.status, e.body) }

// api makes the calls to the cluster the way dfget's HTTP library does: over
// connections that are kept, given up after 5 s but not taken back (the
// request stays on its connection until it is answered), a GET repeated when
// its connection breaks, a POST when it ends or breaks behind the request and
// before a byte of answer. There are five attempts in all, a connection that
// was refused is the last.
type api struct {
	life      context.Context // the process's: when it ends, connections are cut
	calls     *sync.WaitGroup
	client    *http.Client
	transport *http.Transport
	delay     time.Duration
}

func newAPI(life context.Context, calls *sync.WaitGroup, delay time.Duration) *api {
	dialer := &net.Dialer{Timeout: callDial}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp4", addr)
		},
		MaxIdleConnsPerHost: 512,
		IdleConnTimeout:     callIdle,
		DisableCompression:  true,
	}
	follow := func(r *http.Request, via []*http.Request) error {
		if via[0].Method != http.MethodGet {
			return http.ErrUseLastResponse
		}
		if len(via) > callRedirects {
			return errors.New("too many redirects")
		}
		return nil
	}
	return &api{
		life: life, calls: calls, delay: delay, transport: transport,
		client: &http.Client{Transport: transport, CheckRedirect: follow},
	}
}

func (a *api) close() { a.transport.CloseIdleConnections() }

// get calls a path of a node and gives the body of a 200 answer.
func (a *api) get(ctx context.Context, node, path, query string) ([]byte, error) {
	return a.call(ctx, http.MethodGet, &url.URL{Scheme: "http", Host: node, Path: path, RawQuery: query}, nil)
}

func (a *api) post(ctx context.Context, node, path string, message any) ([]byte, error) {
	body, err := json.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("writing the request: %w", err)
	}
	return a.call(ctx, http.MethodPost, &url.URL{Scheme: "http", Host: node, Path: path}, body)
}

type answer struct {
	status int
	body   []byte
	err    error
	begun  bool // a byte of it came
}

func (a *api) call(ctx context.Context, method string, to *url.URL, body []byte) ([]byte, error) {
	if err := sleep(ctx, a.delay); err != nil {
		return nil, err
	}
	answered := make(chan answer, 1)
	a.calls.Go(func() { answered <- a.attempts(method, to, body) })
	timer := time.NewTimer(callTimeout)
	defer timer.Stop()
	select {
	case got := <-answered:
		if got.err != nil {
			return nil, fmt.Errorf("%s %s at %s: %w", method, to.Path, to.Host, got.err)
		}
		if got.status != http.StatusOK {
			return nil, &statusError{status: got.status, body: got.body}
		}
		return got.body, nil
	case <-timer.C:
		return nil, fmt.Errorf("%s %s at %s: %w", method, to.Path, to.Host, errNoAnswer)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (a *api) attempts(method string, to *url.URL, body []byte) answer {
	var got answer
	for range callAttempts {
		got = a.once(method, to, body)
		if got.err == nil || a.life.Err() != nil || !worthRepeating(method, got) {
			break
		}
	}
	return got
}

func worthRepeating(method string, got answer) bool {
	op, doing := (*net.OpError)(nil), ""
	if errors.As(got.err, &op) {
		doing = op.Op
	}
	switch {
	case doing == "dial":
		return false
	case method == http.MethodGet:
		return true
	}
	return doing != "write" && !got.begun
}

func (a *api) once(method string, to *url.URL, body []byte) answer {
	var begun atomic.Bool
	ctx := httptrace.WithClientTrace(a.life, &httptrace.ClientTrace{GotFirstResponseByte: func() { begun.Store(true) }})
	request, err := http.NewRequestWithContext(ctx, method, "", bytes.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	request.URL, request.Host = to, to.Host // set whole: parsing would encode
	request.Header.Set("User-Agent", "fasthttp")
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/json;charset=utf-8")
	}
	response, err := a.client.Do(request)
	if err != nil {
		return answer{err: err, begun: begun.Load()}
	}
	defer response.Body.Close() //nolint:errcheck // it has been read
	got, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	return answer{status: response.StatusCode, body: got, err: err, begun: true}
}

// sleep waits, and gives the context's cause when that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
