package ids

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

func TestInvalidIDsAreRefused(t *testing.T) {
	task := strings.Repeat("0a", 32)
	for _, peer := range []string{"p", "127.0.0.1-1-1.5", strings.Repeat("p", 255)} {
		require.NoError(t, Check(task, peer))
	}
	for _, peer := range []string{"", "a/b", "..", strings.Repeat("p", 256)} {
		require.Equal(t, rpcerr.InvalidArgument, rpcerr.ReasonOf(Check(task, peer)), "%q", peer)
	}
	for _, invalid := range []string{"", "../x", task + "0"} {
		require.Equal(t, rpcerr.InvalidArgument, rpcerr.ReasonOf(Check(invalid, "p")), "%q", invalid)
		require.Equal(t, rpcerr.InvalidArgument, rpcerr.ReasonOf(CheckTask(invalid)), "%q", invalid)
	}
}
