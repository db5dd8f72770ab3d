package errmap_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/gateway/internal/errmap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRetryableErrorIsAWaitToAPullAnd503ToARegistration(t *testing.T) {
	for _, err := range []error{
		context.DeadlineExceeded, fmt.Errorf("calling: %w", context.Canceled),
		status.Error(codes.Unavailable, ""), status.Error(codes.Aborted, ""),
		rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, ""), rpcerr.New(codes.FailedPrecondition, rpcerr.StaleEpoch, ""),
		rpcerr.Status(rpcerr.New(codes.FailedPrecondition, rpcerr.NotOwner, "")).Err(),
	} {
		require.True(t, errmap.Retryable(err), err)
		require.Equal(t, errmap.Wait, errmap.ToAnswer(errmap.Pull, err).Code)
		require.Equal(t, http.StatusServiceUnavailable, errmap.ToAnswer(errmap.Register, err).HTTP)
	}
	for _, err := range []error{
		errors.New("x"), status.Error(codes.NotFound, ""), status.Error(codes.InvalidArgument, ""),
		rpcerr.New(codes.Unavailable, rpcerr.SourceUnreachable, ""), rpcerr.New(codes.ResourceExhausted, rpcerr.DiskFull, ""),
	} {
		require.False(t, errmap.Retryable(err), err)
	}
}

func TestInternalErrorHidesItsCause(t *testing.T) {
	for _, call := range []errmap.Call{errmap.Register, errmap.Pull, errmap.Other} {
		for _, err := range []error{errors.New("secret"), status.Error(codes.Internal, "secret"), status.Error(codes.Unknown, "secret"), status.Error(codes.Unimplemented, "secret")} {
			a := errmap.ToAnswer(call, err)
			require.True(t, a.Internal)
			require.False(t, a.HasDfgetCode())
			require.Equal(t, http.StatusInternalServerError, a.HTTP)
			require.NotContains(t, a.Text, "secret")
		}
	}
}

func TestActionForAReportFollowsItsError(t *testing.T) {
	for _, c := range []struct {
		err  error
		want errmap.ReportAction
	}{
		{context.DeadlineExceeded, errmap.Retry},
		{rpcerr.New(codes.Unavailable, rpcerr.NoScheduler, ""), errmap.Retry},
		{rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, ""), errmap.RetryBriefly},
		{rpcerr.New(codes.NotFound, rpcerr.PeerNotFound, ""), errmap.RetryBriefly},
		{rpcerr.New(codes.Unavailable, rpcerr.SourceUnreachable, ""), errmap.Discard},
		{rpcerr.New(codes.ResourceExhausted, rpcerr.LimitReached, ""), errmap.RetryBriefly},
		{rpcerr.Invalid("no such piece"), errmap.Refuse},
		{errors.New("x"), errmap.Refuse},
	} {
		require.Equal(t, c.want, errmap.ForReport(c.err), c.err)
	}
}

// The client of a refused registration tries its next supernode. The client of a
// refused pull has begun its download and has to stay, so it waits.
func TestReachedBoundIs429ToARegistrationAndAWaitToAPull(t *testing.T) {
	err := rpcerr.Status(rpcerr.New(codes.ResourceExhausted, rpcerr.LimitReached, "the task has 7 peers")).Err()
	require.False(t, errmap.Retryable(err), "other schedulers cannot help")
	for _, call := range []errmap.Call{errmap.Register, errmap.Other} {
		require.Equal(t, errmap.Answer{HTTP: http.StatusTooManyRequests, Code: http.StatusTooManyRequests, RetryAfter: 10, Text: "the task has 7 peers"},
			errmap.ToAnswer(call, err))
	}
	require.Equal(t, errmap.Answer{HTTP: http.StatusOK, Code: errmap.Wait, Text: "the task has 7 peers"}, errmap.ToAnswer(errmap.Pull, err))
}
