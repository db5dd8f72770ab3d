package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

const (
	// clockVar names the file that a command built by WithClock reads its
	// clock's offset from, in seconds.
	clockVar = "SUPERNODE_TEST_CLOCK"

	// clockRead is the place in Go's time.Now where the wall clock was read.
	clockRead = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	clockFile = `package time

import (
	"sync/atomic"
	"syscall"
)

var offset atomic.Int64

func init() {
	if path, ok := syscall.Getenv("` + clockVar + `"); ok {
		go followClock(path)
	}
}

func followClock(path string) {
	for ; ; Sleep(10 * Millisecond) {
		fd, err := open(path)
		if err != nil {
			continue
		}
		text := make([]byte, 16)
		n, err := read(fd, text)
		closefd(fd)
		if err != nil || n < 1 {
			continue
		}
		sign, digits := int64(1), text[:n]
		if digits[0] == '-' {
			sign, digits = -1, digits[1:]
		}
		seconds := int64(0)
		for _, d := range digits {
			seconds = 10*seconds + int64(d-'0')
		}
		offset.Store(sign * seconds)
	}
}
`
)

// WithClock builds the bundle once more, with a time package whose wall clock
// can be set while it runs. The one it is built from stays as it is. Remove of b
// removes these too.
func (b *Binaries) WithClock(ctx context.Context) error {
	root, err := repository()
	if err != nil {
		return err
	}
	timeDir := filepath.Join(runtime.GOROOT(), "src", "time") //nolint:staticcheck // the one that builds is the one that runs
	source, err := os.ReadFile(filepath.Join(timeDir, "time.go"))
	if err != nil {
		return fmt.Errorf("reading package time: %w", err)
	}
	if strings.Count(string(source), clockRead) != 1 {
		return errors.New("package time is not what it was: its clock cannot be set")
	}
	dir := b.Clocked().dir
	overlay := map[string]string{
		filepath.Join(timeDir, "time.go"):   filepath.Join(dir, "time.go"),
		filepath.Join(timeDir, "offset.go"): filepath.Join(dir, "offset.go"),
	}
	plan, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		return fmt.Errorf("saying what is replaced: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("making a place for the commands: %w", err)
	}
	for name, text := range map[string]string{
		"time.go":   strings.Replace(string(source), clockRead, clockRead+"\tsec += offset.Load()\n", 1),
		"offset.go": clockFile, "overlay.json": string(plan),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("writing another package time: %w", err)
		}
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", dir, "./services/supernode/cmd/supernode")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the command with another clock: %w\n%s", err, out)
	}
	return nil
}

// Clocked gives the commands that WithClock has built.
func (b *Binaries) Clocked() *Binaries { return Built(filepath.Join(b.dir, "clocked")) }

// Clock is the wall clock of a node.
type Clock struct{ path string }

// NewClock makes a clock that goes right.
func NewClock(t Scope) *Clock {
	t.Helper()
	return &Clock{path: filepath.Join(t.TempDir(), "clock")}
}

// Inside is what a command built by WithClock is put behind to go by it.
func (c *Clock) Inside() []string { return []string{"env", clockVar + "=" + c.path} }

// Set sets the clock of a node so much forward, or back, and waits until the
// node goes by it.
func (c *Clock) Set(t Scope, n *Node, by time.Duration) {
	t.Helper()
	next := c.path + ".next"
	if err := os.WriteFile(next, []byte(strconv.Itoa(int(by/time.Second))), 0o600); err != nil {
		t.Fatalf("setting a clock: %v", err)
	}
	if err := os.Rename(next, c.path); err != nil {
		t.Fatalf("setting a clock: %v", err)
	}
	const near = time.Minute
	limit, tick := time.NewTimer(readyLimit), time.NewTicker(10*time.Millisecond)
	defer limit.Stop()
	defer tick.Stop()
	for {
		told, err := dateOf(t.Context(), n.REST)
		if err == nil && (time.Until(told)-by).Abs() < near {
			return
		}
		select {
		case <-limit.C:
			t.Fatalf("%s says that it is %s (%v), and should be %s off", n.Name, told, err, by)
		case <-tick.C:
		}
	}
}

// dateOf asks a REST server for the time.
func dateOf(ctx context.Context, rest string) (time.Time, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+rest+"/readyz", nil)
	if err != nil {
		return time.Time{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return time.Time{}, err
	}
	defer resp.Body.Close()
	return http.ParseTime(resp.Header.Get("Date"))
}
