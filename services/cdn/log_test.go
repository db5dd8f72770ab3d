package cdn_test

import (
	"testing"

	"go.uber.org/zap/zapcore"
)

// levelOf keeps benchmarks from measuring the log.
func levelOf(t testing.TB) zapcore.Level {
	if _, bench := t.(*testing.B); bench {
		return zapcore.ErrorLevel
	}
	return zapcore.DebugLevel
}
