package rpcerr_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

func TestKindSurvivesWrappingAndTheWire(t *testing.T) {
	made := rpcerr.New(codes.FailedPrecondition, rpcerr.NotOwner, "ask %s", "b").With("endpoint", "b:1")
	wire := rpcerr.Status(fmt.Errorf("pulling: %w", made)).Err()
	found := rpcerr.From(fmt.Errorf("at the gateway: %w", wire))
	require.Equal(t, rpcerr.NotOwner, found.Reason)
	require.Equal(t, codes.FailedPrecondition, found.Code)
	require.Equal(t, map[string]string{"endpoint": "b:1"}, found.Metadata)
	require.Contains(t, found.Text, "pulling: ask b")
	require.Equal(t, rpcerr.NotOwner, rpcerr.ReasonOf(wire))
}

func TestKindsOfOthersErrors(t *testing.T) {
	require.Equal(t, codes.OK, rpcerr.Status(nil).Code())
	require.Nil(t, rpcerr.From(nil))
	require.Empty(t, rpcerr.ReasonOf(nil))
	for want, err := range map[codes.Code]error{
		codes.Canceled:         fmt.Errorf("waiting: %w", context.Canceled),
		codes.DeadlineExceeded: fmt.Errorf("waiting: %w", context.DeadlineExceeded),
		codes.Unknown:          errors.New("what"),
	} {
		if want == codes.Unknown {
			want = codes.Internal
		}
		require.Equal(t, want, rpcerr.Status(err).Code())
		require.Empty(t, rpcerr.ReasonOf(err))
	}
}
