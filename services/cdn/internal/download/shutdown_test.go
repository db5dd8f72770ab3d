package download_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/cdn/internal/download"
	"github.com/supernode-ha/supernode/services/cdn/internal/engine"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// pipes is a listener of in-memory connections, which work with a fake clock.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

var errClosed = errors.New("the listener is closed")

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, errClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// request sends a request on a new connection.
func (p *pipes) request() (status int, err error) {
	client, server := net.Pipe()
	defer func() { _ = client.Close() }() // the response has been read
	select {
	case p.conns <- server:
	case <-p.closed:
		return 0, errors.Join(errClosed, server.Close())
	}
	if _, err := io.WriteString(client, "GET /download/abc/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return 0, err
	}
	res, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, errors.Join(err, res.Body.Close())
}

type noTasks struct{}

func (noTasks) Find(task.ID) *engine.Task { return nil }
func (noTasks) Lost(*engine.Task)         {}

func TestServerThatStopsAcceptsRequestsUntilNoneArriveOrTheDrainTimeEnds(t *testing.T) {
	const apart, requests = 400 * time.Millisecond, 20
	for name, c := range map[string]struct {
		drain  time.Duration
		served int
	}{
		"no requests arrive":  {time.Minute, requests},
		"the drain time ends": {10*apart + apart/2, 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- download.New(zap.NewNop(), noTasks{}, c.drain, 0).Serve(ctx, l) }()
				status, err := l.request()
				require.NoError(t, err)
				require.Equal(t, http.StatusNotFound, status)
				cancel()
				served := 0
				for range requests { // each extends the wait
					<-time.After(apart)
					if _, err := l.request(); err == nil {
						served++
					}
				}
				require.Equal(t, c.served, served)
				require.NoError(t, <-ended)
				_, err = l.request()
				require.ErrorIs(t, err, errClosed)
			})
		})
	}
}
