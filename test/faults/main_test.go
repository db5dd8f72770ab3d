// Package faults lets the things happen to a cluster that happen in the field:
// processes that are killed, held or told to stop, hosts that are cut off,
// disks that are full, fail, are slow or hang, an etcd that is away or has lost
// everything. All of it is real: commands as processes, signals, file systems,
// network namespaces. What a fault costs is measured, that it costs no download
// and no second fetch is required.
//
// The quick form is part of every test run; with the build tag "faults" the
// same tests are as large as the product's promises. Every trial logs a line
// that begins with "outcome" and goes on as JSON.
package faults

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/lab"
)

// builtIn is the variable that tells the isolated process where the commands are.
const builtIn = "SUPERNODE_TEST_BINARIES"

var binaries *cluster.Binaries

func TestMain(m *testing.M) {
	if !lab.Inside() {
		os.Exit(outside())
	}
	if err := lab.Settle(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = cluster.Built(os.Getenv(builtIn))
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"), goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"))
}

// outside builds the commands where the network is, and runs the tests in
// namespaces of their own.
func outside() int {
	// Sixty clients and twelve commands that look for races starve each other:
	// the large form is for figures, the quick one finds the races.
	built, err := cluster.Build(context.Background(), !large)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer built.Remove() //nolint:errcheck // it is a temporary directory
	if err := built.WithClock(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code, err := lab.Isolate(builtIn + "=" + built.Dir())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}
