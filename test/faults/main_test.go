// Package faults lets the things happen to a cluster that happen in the field:
// processes that are killed, held or told to stop, hosts that are cut off,
// disks that are full, fail, are slow or hang, an etcd that is away or has lost
// everything. All of it is real: commands as processes, signals, file systems,
// network namespaces. What a fault costs is measured, that it costs no download
// and no second fetch is required.
//
// The quick form is part of every test run; with the build tag "faults" the
// same tests are as large as the product's promises. Most trials log a line that
// begins with "outcome" and goes on as JSON; those of gateways, and of the memory
// of who has which piece, log what they saw in words.
package faults

import (
	"os"
	"testing"

	"github.com/supernode-ha/supernode/test/cluster"
)

var binaries *cluster.Binaries

func TestMain(m *testing.M) {
	// Sixty clients and twelve commands that look for races starve each other:
	// the large form is for figures, the quick one finds the races.
	built, code := cluster.Isolated(!large, true)
	if built == nil {
		os.Exit(code)
	}
	binaries = built
	cluster.VerifyLeaks(m)
}
