package process

import (
	"errors"
	"math"
	"os"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"go.uber.org/zap"
)

// memoryShare is the part of the container's memory limit that the Go runtime may
// use. The rest is for what it does not count, such as socket buffers and mapped
// files.
const memoryShare = 0.9

// limitMemory bounds the memory of the Go runtime by the container's limit.
// GOMEMLIMIT in the environment takes precedence. A limit that cannot be read does
// not keep the process from starting.
func limitMemory(log *zap.Logger, container memlimit.Provider) {
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
