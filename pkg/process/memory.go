package process

import (
	"errors"
	"math"
	"os"
	"runtime/debug"
	"strconv"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"go.uber.org/zap"
)

const (
	// memoryShare is the fraction of the container's memory limit that the Go runtime
	// may use. The rest is for memory that the runtime does not count, such as socket
	// buffers and mapped files.
	memoryShare = 0.9
	// gcPercent is the GOGC of every process. The measurements behind it are in
	// docs/benchmarks.md.
	gcPercent = 200
)

// limitMemory sets the memory limit of the Go runtime from the limit of the container,
// and sets GOGC. The environment variables GOMEMLIMIT and GOGC take precedence. If the
// limit of the container cannot be read, the process starts without one.
func limitMemory(log *zap.Logger, container memlimit.Provider) {
	gogc := os.Getenv("GOGC")
	if gogc == "" {
		debug.SetGCPercent(gcPercent)
		gogc = strconv.Itoa(gcPercent)
	}
	log = log.With(zap.String("gogc", gogc))
	limit, err := memlimit.Set(memlimit.WithRatio(memoryShare), memlimit.WithProvider(container))
	switch {
	case errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported), err == nil && limit == math.MaxInt64:
		log.Info("the memory of the process is not limited")
	case err != nil:
		log.Warn("cannot determine the memory limit: the memory of the process is not limited; set GOMEMLIMIT to limit it", zap.Error(err))
	default:
		log.Info("the memory of the process is limited",
			zap.Int64("memory_limit_bytes", limit), zap.Bool("from_environment", os.Getenv("GOMEMLIMIT") != ""))
	}
}
