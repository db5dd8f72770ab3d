package source

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Timeouts holds the time limits for a source.
type Timeouts struct {
	// Connect limits the time to open a connection, and again its TLS handshake.
	Connect time.Duration
	// Idle limits the wait for the headers of a response, and then the wait for
	// each minProgress bytes of its body.
	Idle time.Duration
}

// Client sends requests to sources. It is safe for concurrent use. Tasks with their
// own TLS settings do not share connections with other tasks.
type Client struct {
	timeouts Timeouts
	shared   *http.Transport
}

// NewClient returns a client. The caller closes it.
func NewClient(timeouts Timeouts) *Client {
	return &Client{timeouts: timeouts, shared: newTransport(timeouts, nil)}
}

// Close closes the idle connections that sessions share.
func (c *Client) Close() { c.shared.CloseIdleConnections() }

// Session sends all requests of one fetch of one source.
type Session struct {
	spec *Spec
	idle time.Duration
	http *http.Client
	own  *http.Transport // nil if the session uses the shared one
}

// Session starts a session. The caller closes it.
func (c *Client) Session(spec *Spec) *Session {
	s := &Session{spec: spec, idle: c.timeouts.Idle}
	transport := c.shared
	if spec.private() {
		s.own = newTransport(c.timeouts, &tls.Config{
			InsecureSkipVerify: spec.insecure, // the client requested it for this task
			RootCAs:            spec.rootCAs,
		})
		transport = s.own
	}
	s.http = &http.Client{Transport: transport, CheckRedirect: checkRedirect}
	return s
}

// Close closes the idle connections of the session.
func (s *Session) Close() {
	if s.own != nil {
		s.own.CloseIdleConnections()
	}
}

// newTransport returns a transport for HTTP/1.1 only. A fetch reads one long body per
// connection, and the flow control of HTTP/2 makes that slower.
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

// checkRedirect removes the client's headers from a request to another origin than
// that of the first request, except for those that cannot hold credentials. Go
// removes only the well-known credential headers, and compares host names only: a
// custom token header would be sent, and another port of the same host would get all
// of them. Once a redirect has led to another origin, the headers are not sent again,
// even if a later redirect leads back.
func checkRedirect(req *http.Request, via []*http.Request) error {
	const maxRequests = 10
	if len(via) >= maxRequests {
		return fmt.Errorf("the source redirected %d times; giving up", len(via))
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

// sameOrigin reports whether both requests have the same scheme, host and port, or
// whether b is the https request on port 443 for an http request a on port 80.
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

// errIdle cancels a request if the source has sent too little for the idle timeout.
var errIdle = errors.New("the source sent nothing for too long")

// do sends a request with the client's headers and with extra, which replaces
// headers of the same name. The response may have any status.
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
	res, err := s.http.Do(req) //nolint:bodyclose // Response.Close closes it
	watchdog.Stop()
	if err != nil {
		cause := context.Cause(ctx)
		cancel(nil)
		if cause != nil && !errors.Is(cause, errIdle) {
			return nil, cause // the caller has canceled the request
		}
		if cause != nil {
			err = cause
		}
		return nil, unreachable(err)
	}
	return newResponse(ctx, cancel, res, watchdog, s.idle), nil
}
