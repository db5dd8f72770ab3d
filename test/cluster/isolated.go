package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/supernode-ha/supernode/test/lab"
)

// builtIn is the variable that tells the isolated process where the commands are.
const builtIn = "SUPERNODE_TEST_BINARIES"

// Isolated runs the tests of this process in namespaces of their own. It builds
// the commands where the network is, runs this very command again inside, and
// gives the code to exit with. Inside, where it is called again, it gives the
// commands: nil means that it is time to exit. It must be called from TestMain.
func Isolated(race, clocked bool) (b *Binaries, code int) {
	var err error
	if lab.Inside() {
		if err = lab.Settle(); err == nil {
			return Built(os.Getenv(builtIn)), 0
		}
	} else if code, err = outside(race, clocked); err == nil {
		return nil, code
	}
	fmt.Fprintln(os.Stderr, err)
	return nil, 1
}

func outside(race, clocked bool) (code int, err error) {
	built, err := Build(context.Background(), race)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, built.Remove()) }()
	if clocked {
		if err := built.WithClock(context.Background()); err != nil {
			return 1, err
		}
	}
	return lab.Isolate(builtIn + "=" + built.Dir())
}
