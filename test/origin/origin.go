package origin

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// Config says where an origin listens.
type Config struct {
	// Address is the loopback address and port; 127.0.0.1:0 when empty.
	Address string
	// TLS serves HTTPS with a certificate made at start; see CA.
	TLS bool
}

// Origin is a running source. All its methods may be called at any time from
// any goroutine.
type Origin struct {
	server *http.Server
	base   string
	ca     []byte
	ledger *ledger
	done   chan struct{} // closed by Close: ends stalls and delays
	serve  sync.WaitGroup

	mu       sync.Mutex // guards files, closed and the growth of handlers
	files    map[string]*version
	closed   bool
	handlers sync.WaitGroup
}

// Start listens and serves until Close is called.
func Start(cfg Config) (*Origin, error) {
	if cfg.Address == "" {
		cfg.Address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("listening for the origin: %w", err)
	}
	o := &Origin{
		base:   "http://" + listener.Addr().String(),
		ledger: newLedger(),
		done:   make(chan struct{}),
		files:  make(map[string]*version),
	}
	if cfg.TLS {
		certificate, ca, err := selfSigned(listener.Addr())
		if err != nil {
			return nil, fmt.Errorf("making the origin's certificate: %w", joinClose(err, listener))
		}
		o.ca, o.base = ca, "https://"+listener.Addr().String()
		// HTTP/1.1 alone: a cut must end the connection, not one stream of it.
		listener = tls.NewListener(listener, &tls.Config{
			Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		})
	}
	o.server = &http.Server{
		Handler:           http.HandlerFunc(o.handle),
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0), // clients that leave are no news here
	}
	o.serve.Go(func() { _ = o.server.Serve(listener) }) // ends with ErrServerClosed
	return o, nil
}

// URL is the address of a path, which starts with a slash.
func (o *Origin) URL(path string) string { return o.base + path }

// CA is the PEM of the certificate that clients have to trust, nil without TLS.
func (o *Origin) CA() []byte { return o.ca }

// Put adds a file, or swaps it for a new version in one step: responses under
// way go on with the old one, and the path's counts stay.
func (o *Origin) Put(path string, f File) {
	v := newVersion(f)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.files[path] = v
}

// Change is Put, for readers: what was there is replaced.
func (o *Origin) Change(path string, f File) { o.Put(path, f) }

// Remove takes a file away; it is answered 404 from then on.
func (o *Origin) Remove(path string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.files, path)
}

// Release lets the stalled responses of a path's current version go on, and
// makes none of them stall again.
func (o *Origin) Release(path string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v := o.files[path]
	if v == nil {
		return
	}
	select {
	case <-v.released:
	default:
		close(v.released)
	}
}

// Close cuts off whoever is being served and returns when all is over. It may
// be called twice.
func (o *Origin) Close() error {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return nil
	}
	o.closed = true
	close(o.done)
	o.mu.Unlock()
	err := o.server.Close()
	o.serve.Wait()
	o.handlers.Wait()
	if err != nil {
		return fmt.Errorf("closing the origin: %w", err)
	}
	return nil
}

// enter counts a handler in, unless the origin is closed.
func (o *Origin) enter() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.handlers.Add(1)
	return true
}

func (o *Origin) file(path string) *version {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.files[path]
}
