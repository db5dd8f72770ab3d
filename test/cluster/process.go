package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// logsIn is the variable that names a directory for the whole logs of the
// processes of tests that fail.
const logsIn = "SUPERNODE_TEST_LOGS"

// stopLimit is how long a process may take to stop that was told to. Its parts
// have 25 s together, and some more each when that is over.
const stopLimit = time.Minute

// Process is a running command.
type Process struct {
	// Name says what it is, for messages.
	Name string

	// foreign is not ours: it may log what it likes.
	foreign bool
	// allowed are parts of the errors that it may log.
	allowed []string

	cmd  *exec.Cmd
	log  *buffer
	done chan struct{}
	err  error // after done
}

// buffer is what a process wrote.
type buffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// Start runs a command until its scope ends, when it is stopped, and the scope
// fails if it did not stop well or has logged an error.
func Start(t Scope, name, path string, args ...string) *Process {
	t.Helper()
	p := start(t, name, path, args...)
	t.Cleanup(func() { p.finish(t) })
	return p
}

// start runs a command. Its finish must follow.
func start(t Scope, name, path string, args ...string) *Process {
	t.Helper()
	// Without a context: the scope decides how and when it ends.
	cmd := exec.Command(path, args...) //nolint:noctx // see above
	p := &Process{Name: name, cmd: cmd, log: &buffer{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	// The environment of whoever runs the tests must not configure supernodes.
	// The clients of a test share one address, so there is no limit for an address.
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "SUPERNODE_MAX_REGISTRATIONS=0"}
	// Nothing outlives those who started it, even if they are killed.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p
}

func (p *Process) finish(t Scope) {
	if p.Running() {
		_ = p.Signal(syscall.SIGCONT) // one that failed may have left it held
		if err := p.Stop(); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
	if bad := p.unexpected(); len(bad) > 0 && !p.foreign {
		t.Errorf("%s logged:\n%s", p.Name, bytes.Join(bad, []byte("\n")))
	}
	if !t.Failed() {
		return
	}
	t.Logf("the end of the log of %s:\n%s", p.Name, tail(p.Log(), 8000))
	if dir := os.Getenv(logsIn); dir != "" {
		name := fmt.Sprintf("%s-%s-%d.log", strings.ReplaceAll(t.Name(), "/", "-"), strings.ReplaceAll(p.Name, " ", "-"), p.cmd.Process.Pid)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(p.Log()), 0o600); err != nil {
			t.Logf("keeping the log: %v", err)
		}
	}
}

// Running says that it has not ended; one that is held by a signal runs too.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is what it wrote so far.
func (p *Process) Log() string { return p.log.String() }

// Complaints are the lines of its log that tell of errors, panics and races.
func (p *Process) Complaints() [][]byte {
	var bad [][]byte
	for line := range bytes.Lines([]byte(p.Log())) {
		for _, mark := range []string{`"level":"error"`, "panic:", "DATA RACE", "fatal error:"} {
			if bytes.Contains(line, []byte(mark)) {
				bad = append(bad, bytes.TrimSpace(line))
				break
			}
		}
	}
	return bad
}

// Allow names a part of errors that it may log: what was done to it is an
// error. Panics and races are never allowed.
func (p *Process) Allow(part string) { p.allowed = append(p.allowed, part) }

func (p *Process) unexpected() [][]byte {
	return slices.DeleteFunc(p.Complaints(), func(line []byte) bool {
		return bytes.Contains(line, []byte(`"level":"error"`)) &&
			slices.ContainsFunc(p.allowed, func(part string) bool { return bytes.Contains(line, []byte(part)) })
	})
}

// Signal sends a signal.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Kill ends it at once, as a crash would, and waits for that.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop tells it to stop and waits. The error says how it ended, if not well.
func (p *Process) Stop() error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("telling it to stop: %w", err)
	}
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("stopping: %w", p.err)
		}
		return nil
	case <-time.After(stopLimit):
		p.Kill()
		return errors.New("it had to be killed: it did not stop")
	}
}

// Ended waits for it to end by itself and gives how it did.
func (p *Process) Ended(limit time.Duration) error {
	select {
	case <-p.done:
		return p.err
	case <-time.After(limit):
		return errors.New("it runs on")
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return s[len(s)-n:]
	}
	return s
}
