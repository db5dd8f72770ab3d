// Package telemetry makes the two things through which a process is seen: its
// logger and its metrics registry. What is logged and counted is decided where
// it happens; both are handed on as arguments.
package telemetry

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Logger makes a logger that writes JSON lines to standard error, with Debug
// lines when debug is set.
func Logger(service string, debug bool) (*zap.Logger, error) {
	cfg := zap.NewProductionConfig()
	cfg.Sampling = nil // a line that is missing when it is needed costs more than one too many
	cfg.EncoderConfig.EncodeTime = zapcore.ISO8601TimeEncoder
	cfg.EncoderConfig.EncodeDuration = zapcore.StringDurationEncoder
	cfg.DisableStacktrace = true
	if debug {
		cfg.Level.SetLevel(zapcore.DebugLevel)
	}
	log, err := cfg.Build()
	if err != nil {
		return nil, fmt.Errorf("building the logger: %w", err)
	}
	return log.Named(service), nil
}

// Registry makes a metrics registry that holds what every Go process has.
func Registry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}
