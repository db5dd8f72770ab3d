package etcdconn

import (
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// isHarmless reports whether a warning of etcd has no meaning here. The first one is about
// ports, and the embedded server opens none. The others are logged once, while a new
// data directory has no snapshot of its schema; etcd retries what failed.
func isHarmless(message string) bool {
	return slices.Contains([]string{
		"Running http and grpc server on single port. This is not recommended for production.",
		"Failed to detect schema version",
		"failed to update storage version",
	}, message)
}

// filterLog returns a logger that drops the entries below a level, and logs harmless ones
// at debug level.
func filterLog(log *zap.Logger, level zapcore.Level) *zap.Logger {
	if log.Core().Enabled(level) {
		log = log.WithOptions(zap.IncreaseLevel(level))
	}
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core { return filterCore{c} }))
}

// filterCore changes the level of harmless entries to debug.
type filterCore struct{ zapcore.Core }

// With returns a filterCore with additional fields.
func (c filterCore) With(fields []zapcore.Field) zapcore.Core { return filterCore{c.Core.With(fields)} }

// Check adds the entry to checked if the core logs its level.
func (c filterCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if isHarmless(entry.Message) {
		entry.Level = zapcore.DebugLevel
	}
	return c.Core.Check(entry, checked)
}
