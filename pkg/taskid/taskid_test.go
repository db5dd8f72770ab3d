package taskid_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/taskid"
)

// The ids are those that a Dragonfly v1.0.6 supernode gave in a recorded exchange.
func TestIDsAreTheOriginals(t *testing.T) {
	require.Equal(t, "cd71c34dd87c301ae592859bc137bada697da48f11dd1f9b4f5f9d1690c5ce85",
		taskid.Compute("http://127.0.0.9:9000/f9.bin", "", "", nil))
	require.Equal(t, "378021f24453cf5bf7a747e5068989b9e9f425331768583fe94b36e96cfea045",
		taskid.Compute("http://127.0.0.9:9000/f9.bin", "af733ffc6d13f12bdb4d749091927ea0", "ignored", []string{"X-Foo: bar"}))
}

func TestOnlyRangeAmongTheHeadersCounts(t *testing.T) {
	plain := taskid.Compute("u", "", "", nil)
	ranged := taskid.Compute("u", "", "", []string{"Range: bytes=0-9"})
	require.NotEqual(t, plain, ranged)
	require.Equal(t, plain, taskid.Compute("u", "", "", []string{"Accept: x", "broken"}))
	require.Equal(t, ranged, taskid.Compute("u", "", "", []string{"A: b", "range:bytes=0-9 "}))
	require.NotEqual(t, plain, taskid.Compute("u", "", "i", nil))
}

func TestCheck(t *testing.T) {
	require.NoError(t, taskid.Check(taskid.Compute("u", "", "", nil)))
	for _, id := range []string{"", "abc", strings.Repeat("g", 64), strings.Repeat("A", 64), strings.Repeat("a", 65), "../" + strings.Repeat("a", 61)} {
		require.ErrorIs(t, taskid.Check(id), taskid.ErrInvalid, "%q", id)
	}
}
