package source

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"
)

// Timeouts are how long a source may take.
type Timeouts struct {
	// Connect is for a connection, and again for its TLS handshake.
	Connect time.Duration
	// Idle is for silence, before the headers and between two bytes, and for
	// next to nothing.
	Idle time.Duration
}

// Client asks sources. Tasks with TLS settings of their own share nothing with
// the others.
type Client struct {
	timeouts Timeouts
	shared   *http.Transport
}

// NewClient makes a Client.
func NewClient(timeouts Timeouts) *Client {
	return &Client{timeouts: timeouts, shared: newTransport(timeouts, nil)}
}

// Close lets the idle connections go.
func (c *Client) Close() { c.shared.CloseIdleConnections() }

// Session is one fetch of one source, with all its requests.
type Session struct {
	spec *Spec
	idle time.Duration
	http *http.Client
	own  *http.Transport // nil when the session uses the shared one
}

// Session begins a fetch; the caller closes it.
func (c *Client) Session(spec *Spec) *Session {
	s := &Session{spec: spec, idle: c.timeouts.Idle}
	transport := c.shared
	if spec.private() {
		s.own = newTransport(c.timeouts, &tls.Config{
			InsecureSkipVerify: spec.insecure, // the client asked for it, for this task
			RootCAs:            spec.rootCAs,
		})
		transport = s.own
	}
	s.http = &http.Client{Transport: transport, CheckRedirect: checkRedirect}
	return s
}

// Close ends the fetch.
func (s *Session) Close() {
	if s.own != nil {
		s.own.CloseIdleConnections()
	}
}

// newTransport speaks HTTP/1.1 alone: one long body a connection is what it is
// for, and the flow control of HTTP/2 only slows that down.
func newTransport(timeouts Timeouts, config *tls.Config) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: timeouts.Connect, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    timeouts.Connect,
		DisableCompression:     true,
		MaxIdleConns:           100,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		Protocols:              protocols,
	}
}

// checkRedirect keeps what the client sent for one origin from any other. Go
// does so for the well-known credentials and by host name only; a client's
// token header, or another port of the same host, deserves the same. Whoever
// has been elsewhere in between does not get it back.
func checkRedirect(req *http.Request, via []*http.Request) error {
	const most = 10
	if len(via) >= most {
		return errors.New("more than 10 redirects")
	}
	first := via[0]
	same := sameOrigin(first, req)
	for _, earlier := range via {
		same = same && sameOrigin(first, earlier)
	}
	if same {
		return nil
	}
	kept := make(http.Header)
	for _, name := range []string{
		"Accept", "Accept-Encoding", "Accept-Language", "User-Agent",
		"Range", "If-Range", "If-None-Match", "If-Modified-Since",
	} {
		if values := req.Header.Values(name); len(values) > 0 {
			kept[name] = values
		}
	}
	req.Header = kept
	return nil
}

// sameOrigin tells whether both requests go to one server, or the second to
// its secure side on the usual ports.
func sameOrigin(a, b *http.Request) bool {
	if a.URL.Hostname() != b.URL.Hostname() {
		return false
	}
	if a.URL.Scheme == b.URL.Scheme {
		return port(a) == port(b)
	}
	return a.URL.Scheme == "http" && port(a) == "80" && port(b) == "443"
}

func port(r *http.Request) string {
	if p := r.URL.Port(); p != "" {
		return p
	}
	if r.URL.Scheme == "https" {
		return "443"
	}
	return "80"
}

// errIdle is why a request is given up that nothing has come from.
var errIdle = errors.New("the source sent nothing for too long")

// do sends the request with extra headers on top of the client's. The answer
// may have any status.
func (s *Session) do(ctx context.Context, extra http.Header) (*Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.spec.url.String(), nil)
	if err != nil {
		cancel(nil)
		return nil, unreachable(err)
	}
	req.Header = s.spec.header.Clone()
	for name, values := range extra {
		req.Header[name] = values
	}
	req.Host = s.spec.host
	watchdog := time.AfterFunc(s.idle, func() { cancel(errIdle) })
	res, err := s.http.Do(req) //nolint:bodyclose // the response that is returned closes it
	watchdog.Stop()
	if err != nil {
		cause := context.Cause(ctx)
		cancel(nil)
		if cause != nil && !errors.Is(cause, errIdle) {
			return nil, cause // not the source's fault
		}
		if cause != nil {
			err = cause
		}
		return nil, unreachable(err)
	}
	return newResponse(ctx, cancel, res, watchdog, s.idle), nil
}
