// Package httpconn sends requests over one kept HTTP/1.1 connection, with little
// memory and little work: thousands of clients run in one process beside the
// server that they measure. It waits, repeats and gives up as dfget's HTTP library
// does.
package httpconn

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

const (
	// callLimit is the time that dfget waits for an answer, all attempts together.
	callLimit = 5 * time.Second
	dialLimit = 3 * time.Second
	attempts  = 5
	// bufferSize in bytes is enough for a line of a header, and for most answers.
	bufferSize = 2 << 10
)

// ErrNoAnswer is returned for a request that the server did not answer in time,
// or whose connection broke again and again.
var ErrNoAnswer = errors.New("no answer")

// Conn is a connection to one server. It is opened with the first request, and
// again when the server has closed it. It is not safe for concurrent use.
type Conn struct {
	address string
	conn    net.Conn // nil when it is closed
	in      *bufio.Reader
	body    []byte
}

// Answer is the answer to a request.
type Answer struct {
	// Status is the HTTP status.
	Status int
	// Body is valid until the next request.
	Body []byte
	// Took is the time from sending the request until all of the answer arrived.
	Took time.Duration
}

// New returns a connection to host:port. Nothing is opened yet.
func New(address string) *Conn { return &Conn{address: address} }

// Close closes the connection. A later request opens it again.
func (c *Conn) Close() {
	if c.conn != nil {
		_ = c.conn.Close() // everything that was wanted of it has been read
		c.conn = nil
	}
}

// Do sends a request, which must be complete, and returns the answer. A request
// whose connection breaks before a byte of the answer arrives is sent again.
func (c *Conn) Do(ctx context.Context, request []byte) (Answer, error) {
	deadline := time.Now().Add(callLimit)
	var err error
	for range attempts {
		var answer Answer
		if answer, err = c.once(ctx, request, deadline); err == nil {
			return answer, nil
		}
		c.Close()
		if !errors.Is(err, errBroken) || errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			break
		}
	}
	return Answer{}, fmt.Errorf("%w: %w", ErrNoAnswer, err)
}

// Abandon sends a request and closes the connection without waiting for the
// answer, as a client does that crashes.
func (c *Conn) Abandon(ctx context.Context, request []byte) {
	if c.conn == nil && c.open(ctx) != nil {
		return
	}
	_, _ = c.conn.Write(request) // nothing depends on it
	c.Close()
}

// errBroken is wrapped by the error of a connection that broke before a byte of
// the answer arrived.
var errBroken = errors.New("the connection broke")

func (c *Conn) once(ctx context.Context, request []byte, deadline time.Time) (Answer, error) {
	if c.conn == nil {
		if err := c.open(ctx); err != nil {
			return Answer{}, err
		}
	}
	began := time.Now()
	if err := c.conn.SetDeadline(deadline); err != nil {
		return Answer{}, fmt.Errorf("%w: %w", errBroken, err)
	}
	if _, err := c.conn.Write(request); err != nil {
		return Answer{}, fmt.Errorf("%w while it sent the request: %w", errBroken, err)
	}
	if _, err := c.in.Peek(1); err != nil {
		return Answer{}, fmt.Errorf("%w before the answer: %w", errBroken, err)
	}
	status, kept, err := c.read()
	if err != nil {
		return Answer{}, fmt.Errorf("reading the answer: %w", err)
	}
	answer := Answer{Status: status, Body: c.body, Took: time.Since(began)}
	if !kept {
		c.Close()
	}
	return answer, nil
}

func (c *Conn) open(ctx context.Context) error {
	dialer := net.Dialer{Timeout: dialLimit}
	conn, err := dialer.DialContext(ctx, "tcp4", c.address)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	c.conn = conn
	if c.in == nil {
		c.in = bufio.NewReaderSize(conn, bufferSize)
	} else {
		c.in.Reset(conn)
	}
	return nil
}
