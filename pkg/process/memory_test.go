package process

import (
	"errors"
	"math"
	"os"
	"runtime/debug"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// otherLimit is a limit that neither the runtime nor limitMemory chooses.
const otherLimit = 3 << 30

func noLimit() (uint64, error) { return 0, memlimit.ErrNoLimit }

// setRuntime sets the limit of the Go runtime as its environment does at the
// start, and restores it at the end of the test.
func setRuntime(t *testing.T, limit int64) {
	t.Helper()
	old := debug.SetMemoryLimit(limit)
	t.Cleanup(func() { debug.SetMemoryLimit(old) })
	for _, name := range []string{"GOMEMLIMIT", "AUTOMEMLIMIT"} {
		t.Setenv(name, "") // which restores it at the end
		require.NoError(t, os.Unsetenv(name))
	}
}

func TestMemoryIsLimitedByTheContainerUnlessTheEnvironmentSaysOtherwise(t *testing.T) {
	const gib = 1 << 30
	unreadable := func() (uint64, error) { return 0, errors.New("permission denied") }
	noCgroup := func() (uint64, error) { return 0, memlimit.ErrNoCgroup }
	for name, c := range map[string]struct {
		environment map[string]string
		atStart     int64
		container   memlimit.Provider
		limit       int64
		level       zapcore.Level
		fields      map[string]any
	}{
		"container with a limit": {
			nil, math.MaxInt64, memlimit.Limit(10 * gib), 9 * gib, zap.InfoLevel,
			map[string]any{"memory_limit_bytes": int64(9 * gib), "from_environment": false},
		},
		"container without a limit": {nil, math.MaxInt64, noLimit, math.MaxInt64, zap.InfoLevel, map[string]any{}},
		"no container":              {nil, math.MaxInt64, noCgroup, math.MaxInt64, zap.InfoLevel, map[string]any{}},
		"unreadable limit": {
			nil, math.MaxInt64, unreadable, math.MaxInt64, zap.WarnLevel,
			map[string]any{"error": "failed to set GOMEMLIMIT: permission denied"},
		},
		"GOMEMLIMIT": {
			map[string]string{"GOMEMLIMIT": "3GiB"}, otherLimit, memlimit.Limit(10 * gib), otherLimit, zap.InfoLevel,
			map[string]any{"memory_limit_bytes": int64(otherLimit), "from_environment": true},
		},
		"GOMEMLIMIT off": {
			map[string]string{"GOMEMLIMIT": "off"}, math.MaxInt64, memlimit.Limit(10 * gib), math.MaxInt64, zap.InfoLevel,
			map[string]any{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			setRuntime(t, c.atStart)
			for name, value := range c.environment {
				t.Setenv(name, value)
			}
			core, logs := observer.New(zap.DebugLevel)
			limitMemory(zap.New(core), c.container)
			require.Equal(t, c.limit, debug.SetMemoryLimit(-1))
			require.Equal(t, 1, logs.Len())
			require.Equal(t, c.level, logs.All()[0].Level)
			require.Equal(t, c.fields, logs.All()[0].ContextMap())
		})
	}
}
