package budget

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBytesAreBoundedPerInstance(t *testing.T) {
	b := New(10)
	require.True(t, b.Take("a", 10, false))
	require.False(t, b.Take("a", 1, false))
	require.True(t, b.Take("b", 10, false), "another instance has a budget of its own")
	require.True(t, b.Take("a", 5, true), "each task may have a few")
	b.Give("a", 10)
	require.False(t, b.Take("a", 6, false), "what was forced counts, too")
	require.True(t, b.Take("a", 5, false))
	b.Give("a", 5)
	b.Give("a", 5)
	b.Give("b", 10)
	require.Empty(t, b.used, "instances that are gone are forgotten")
}
