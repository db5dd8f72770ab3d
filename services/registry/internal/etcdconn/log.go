package etcdconn

import (
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// harmless are etcd's complaints that mean nothing here. The first is about
// ports, of which there are none. The others come once, while a new data
// directory has no first snapshot of its schema, and are tried again by etcd.
func harmless(message string) bool {
	return slices.Contains([]string{
		"Running http and grpc server on single port. This is not recommended for production.",
		"Failed to detect schema version",
		"failed to update storage version",
	}, message)
}

// quiet lets through what is at least of a level, and not harmless.
func quiet(log *zap.Logger, level zapcore.Level) *zap.Logger {
	if log.Core().Enabled(level) {
		log = log.WithOptions(zap.IncreaseLevel(level))
	}
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core { return calm{c} }))
}

// calm makes harmless entries those of debugging.
type calm struct{ zapcore.Core }

// With keeps the wrapping.
func (c calm) With(fields []zapcore.Field) zapcore.Core { return calm{c.Core.With(fields)} }

// Check decides by the level that an entry deserves.
func (c calm) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if harmless(entry.Message) {
		entry.Level = zapcore.DebugLevel
	}
	return c.Core.Check(entry, checked)
}
