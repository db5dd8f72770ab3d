package cluster

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Main builds the commands, with the race detector, for the tests of a package,
// which use is given them for, and runs these. It ends the process. A goroutine
// that is left fails it.
func Main(m *testing.M, use func(*Binaries)) {
	built, err := Build(context.Background(), true)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	use(built)
	VerifyLeaks(m, goleak.Cleanup(func(code int) {
		_ = built.Remove()
		os.Exit(code)
	}))
}

// VerifyLeaks runs the tests of a package; a goroutine that is left fails them,
// but for those of connections that net/http is about to close.
func VerifyLeaks(m *testing.M, more ...goleak.Option) {
	goleak.VerifyTestMain(m, append(more,
		goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"))...)
}
