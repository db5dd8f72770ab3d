package rpcserver_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/rpcserver"
)

// heldCdn tells when a Stat began and ended, and holds it until its context
// ends or it is released. It writes to its request.
type heldCdn struct {
	cdnv1.UnimplementedCdnServiceServer

	began   chan struct{}
	release chan struct{}
	ended   chan error // of the call's context
}

func newHeldCdn() *heldCdn {
	return &heldCdn{began: make(chan struct{}, 8), release: make(chan struct{}), ended: make(chan error, 8)}
}

func (c *heldCdn) Stat(ctx context.Context, req *cdnv1.StatRequest) (*cdnv1.StatResponse, error) {
	req.TaskId = "overwritten"
	c.began <- struct{}{}
	select {
	case <-ctx.Done():
		c.ended <- ctx.Err()
		return nil, status.FromContextError(ctx.Err()).Err()
	case <-c.release:
		c.ended <- nil
		return &cdnv1.StatResponse{PieceCount: 7}, nil
	}
}

// held is a server with a heldCdn, reached from inside its process.
type held struct {
	cdn    *heldCdn
	client cdnv1.CdnServiceClient
	health healthv1.HealthClient
	run    func()
	stop   func()
	ran    chan error
}

func newHeld(t *testing.T) *held {
	t.Helper()
	s, err := rpcserver.New(zap.NewNop(), prometheus.NewRegistry())
	require.NoError(t, err)
	h := &held{cdn: newHeldCdn(), ran: make(chan error, 1)}
	cdnv1.RegisterCdnServiceServer(s, h.cdn)
	h.client, h.health = cdnv1.NewCdnServiceClient(s.Local()), healthv1.NewHealthClient(s.Local())
	ctx, cancel := context.WithCancel(t.Context())
	h.stop = cancel
	h.run = func() {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		require.NoError(t, err)
		go func() { h.ran <- s.Run(ctx, l) }()
	}
	return h
}

func (h *held) stat(ctx context.Context) chan error {
	done := make(chan error, 1)
	go func() {
		req := &cdnv1.StatRequest{TaskId: "asked"}
		_, err := h.client.Stat(ctx, req)
		if err == nil && req.GetTaskId() != "asked" {
			err = status.Error(codes.DataLoss, "the handler wrote to the request of its caller")
		}
		done <- err
	}()
	return done
}

func TestLocalCallsWaitForTheServer(t *testing.T) {
	h := newHeld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.Equal(t, codes.DeadlineExceeded, status.Code(<-h.stat(ctx)))
	done := h.stat(t.Context())
	h.run()
	<-h.cdn.began
	close(h.cdn.release)
	require.NoError(t, <-done)
	answer, err := h.health.Check(t.Context(), &healthv1.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthv1.HealthCheckResponse_SERVING, answer.GetStatus())
	h.stop()
	require.NoError(t, <-h.ran)
}

func TestLocalCallEndsWithItsCaller(t *testing.T) {
	h := newHeld(t)
	h.run()
	ctx, cancel := context.WithCancel(t.Context())
	done := h.stat(ctx)
	<-h.cdn.began
	cancel()
	require.Equal(t, codes.Canceled, status.Code(<-done))
	require.ErrorIs(t, <-h.cdn.ended, context.Canceled)
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.Equal(t, codes.DeadlineExceeded, status.Code(<-h.stat(ctx)))
	require.ErrorIs(t, <-h.cdn.ended, context.DeadlineExceeded)
	h.stop()
	require.NoError(t, <-h.ran)
}

func TestLocalCallsWhileTheServerStops(t *testing.T) {
	h := newHeld(t)
	h.run()
	first, second := h.stat(t.Context()), h.stat(t.Context())
	<-h.cdn.began
	<-h.cdn.began
	h.stop()
	require.Eventually(t, func() bool { // a call that began before the stop was noticed is held like the others
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		return status.Code(<-h.stat(ctx)) == codes.Unavailable
	}, 10*time.Second, time.Millisecond, "a new call is refused")
	select {
	case err := <-first:
		require.NoError(t, err, "a call under way ended before its time")
	case err := <-second:
		require.NoError(t, err, "a call under way ended before its time")
	default:
	}
	h.cdn.release <- struct{}{} // one of the two
	var err error
	select {
	case err = <-first:
		first = nil
	case err = <-second:
		second = nil
	}
	require.NoError(t, err, "a call under way may end")
	for _, done := range []chan error{first, second} {
		if done != nil {
			require.Equal(t, codes.Unavailable, status.Code(<-done), "what does not end is ended")
		}
	}
	require.NoError(t, <-h.ran)
}
