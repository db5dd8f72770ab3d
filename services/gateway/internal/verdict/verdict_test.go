package verdict_test

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
	"github.com/supernode-ha/supernode/services/gateway/internal/verdict"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRepairable(t *testing.T) {
	for _, err := range []error{
		context.DeadlineExceeded, fmt.Errorf("asking: %w", context.Canceled),
		status.Error(codes.Unavailable, ""), status.Error(codes.Aborted, ""),
		rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, ""), rpcerr.New(codes.FailedPrecondition, rpcerr.StaleEpoch, ""),
		rpcerr.Status(rpcerr.New(codes.FailedPrecondition, rpcerr.NotOwner, "")).Err(),
	} {
		require.True(t, verdict.Repairable(err), err)
		require.Equal(t, verdict.Wait, verdict.Of(verdict.Pull, err).Code)
		require.Equal(t, http.StatusServiceUnavailable, verdict.Of(verdict.Register, err).HTTP)
	}
	for _, err := range []error{
		errors.New("x"), status.Error(codes.NotFound, ""), status.Error(codes.InvalidArgument, ""),
		rpcerr.New(codes.Unavailable, rpcerr.SourceUnreachable, ""), rpcerr.New(codes.ResourceExhausted, rpcerr.DiskFull, ""),
	} {
		require.False(t, verdict.Repairable(err), err)
	}
}

func TestOursIsNotTold(t *testing.T) {
	for _, call := range []verdict.Call{verdict.Register, verdict.Pull, verdict.Other} {
		for _, err := range []error{errors.New("secret"), status.Error(codes.Internal, "secret"), status.Error(codes.Unknown, "secret"), status.Error(codes.Unimplemented, "secret")} {
			a := verdict.Of(call, err)
			require.True(t, a.Internal)
			require.False(t, a.Known())
			require.Equal(t, http.StatusInternalServerError, a.HTTP)
			require.NotContains(t, a.Text, "secret")
		}
	}
}

func TestFatesOfReports(t *testing.T) {
	for _, c := range []struct {
		err  error
		want verdict.Fate
	}{
		{context.DeadlineExceeded, verdict.Later},
		{rpcerr.New(codes.Unavailable, rpcerr.NoScheduler, ""), verdict.Later},
		{rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, ""), verdict.Soon},
		{rpcerr.New(codes.NotFound, rpcerr.PeerNotFound, ""), verdict.Soon},
		{rpcerr.New(codes.Unavailable, rpcerr.SourceUnreachable, ""), verdict.Moot},
		{rpcerr.Invalid("no such piece"), verdict.Refused},
		{errors.New("x"), verdict.Refused},
	} {
		require.Equal(t, c.want, verdict.Report(c.err), c.err)
	}
}
