package cdn_test

import (
	"testing"

	"go.uber.org/zap/zapcore"
)

// levelOf returns the log level, which is high in benchmarks so that they do not measure
// the log.
func levelOf(t testing.TB) zapcore.Level {
	if _, bench := t.(*testing.B); bench {
		return zapcore.ErrorLevel
	}
	return zapcore.DebugLevel
}
