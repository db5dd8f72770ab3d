package process

import (
	"context"
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

	"github.com/supernode-ha/supernode/pkg/settings"
)

// Values that are the default neither of the runtime nor of limitMemory.
const (
	otherLimit   = 3 << 30
	otherPercent = 123
)

func noLimit() (uint64, error) { return 0, memlimit.ErrNoLimit }

// setRuntime sets the limits of the Go runtime as its environment does at the
// start, and restores them at the end of the test.
func setRuntime(t *testing.T, limit int64, percent int) {
	t.Helper()
	oldLimit, oldPercent := debug.SetMemoryLimit(limit), debug.SetGCPercent(percent)
	t.Cleanup(func() {
		debug.SetMemoryLimit(oldLimit)
		debug.SetGCPercent(oldPercent)
	})
	for _, name := range []string{"GOMEMLIMIT", "GOGC", "AUTOMEMLIMIT"} {
		t.Setenv(name, "") // restores the variable at the end of the test
		require.NoError(t, os.Unsetenv(name))
	}
}

func currentPercent() int {
	percent := debug.SetGCPercent(otherPercent)
	debug.SetGCPercent(percent)
	return percent
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
		percent     int
		level       zapcore.Level
		fields      map[string]any
	}{
		"container with a limit": {
			nil, math.MaxInt64, memlimit.Limit(10 * gib), 9 * gib, gcPercent, zap.InfoLevel,
			map[string]any{"gogc": "200", "memory_limit_bytes": int64(9 * gib), "from_environment": false},
		},
		"container without a limit": {nil, math.MaxInt64, noLimit, math.MaxInt64, gcPercent, zap.InfoLevel, map[string]any{"gogc": "200"}},
		"no container":              {nil, math.MaxInt64, noCgroup, math.MaxInt64, gcPercent, zap.InfoLevel, map[string]any{"gogc": "200"}},
		"unreadable limit": {
			nil, math.MaxInt64, unreadable, math.MaxInt64, gcPercent, zap.WarnLevel,
			map[string]any{"gogc": "200", "error": "failed to set GOMEMLIMIT: permission denied"},
		},
		"GOMEMLIMIT": {
			map[string]string{"GOMEMLIMIT": "3GiB"}, otherLimit, memlimit.Limit(10 * gib), otherLimit, gcPercent, zap.InfoLevel,
			map[string]any{"gogc": "200", "memory_limit_bytes": int64(otherLimit), "from_environment": true},
		},
		"GOMEMLIMIT off": {
			map[string]string{"GOMEMLIMIT": "off"}, math.MaxInt64, memlimit.Limit(10 * gib), math.MaxInt64, gcPercent, zap.InfoLevel,
			map[string]any{"gogc": "200"},
		},
		"GOGC": {
			map[string]string{"GOGC": "123"}, math.MaxInt64, memlimit.Limit(10 * gib), 9 * gib, otherPercent, zap.InfoLevel,
			map[string]any{"gogc": "123", "memory_limit_bytes": int64(9 * gib), "from_environment": false},
		},
	} {
		t.Run(name, func(t *testing.T) {
			setRuntime(t, c.atStart, otherPercent)
			for name, value := range c.environment {
				t.Setenv(name, value)
			}
			core, logs := observer.New(zap.DebugLevel)
			limitMemory(zap.New(core), c.container)
			require.Equal(t, c.limit, debug.SetMemoryLimit(-1))
			require.Equal(t, c.percent, currentPercent())
			require.Equal(t, 1, logs.Len())
			require.Equal(t, c.level, logs.All()[0].Level)
			require.Equal(t, c.fields, logs.All()[0].ContextMap())
		})
	}
}

func TestCommandLimitsMemoryBeforeItBuildsTheProcess(t *testing.T) {
	setRuntime(t, math.MaxInt64, otherPercent)
	var percent int
	built := errors.New("built")
	cmd := Command("gateway", "", func(context.Context, *Process) error {
		percent = currentPercent()
		return built
	}, settings.Gateway)
	cmd.SilenceErrors = true
	cmd.SetArgs([]string{"--advertise-ip", "127.0.0.1", "--rpc-port", "0"})
	require.ErrorIs(t, cmd.ExecuteContext(t.Context()), built)
	require.Equal(t, gcPercent, percent)
}
