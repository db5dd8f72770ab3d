package lab_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/supernode-ha/supernode/test/lab"
)

func TestMain(m *testing.M) {
	if !lab.Inside() {
		code, err := lab.Isolate()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}
	if err := lab.Settle(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
