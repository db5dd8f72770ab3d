// Package client runs the clients of the benchmark, each as processes on a host
// of its own: our model of dfget, or a real dfget and its upload server. The
// processes are started before the clock; a download is begun by a signal.
package client

import (
	"context"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Config is where a client runs and what it downloads.
type Config struct {
	// Inside is what a command line is put behind to run on the host, IP the
	// host's address.
	Inside []string
	IP     string
	// Dir is the client's directory; it must exist.
	Dir string
	// Nodes are the supernodes, host:port each.
	Nodes []string
	// URL is the file's.
	URL string
	// LocalLimit bounds a download in bytes per second; 0 is no bound.
	LocalLimit int64
}

// Outcome is how a download ended.
type Outcome struct {
	// Began and Ended bound the download.
	Began, Ended time.Time
	// Path is the file.
	Path string
	// Err is why it failed.
	Err error
	// First and Last are when the first and the last piece arrived. A real dfget
	// is later with the last one: it logs it when its current pull is answered.
	First, Last time.Time
	// FailedPieces counts the pieces that did not arrive right.
	FailedPieces int
	// NoUploads means that the client had no upload server.
	NoUploads bool
}

// Client is one client on its host.
type Client interface {
	// Prepare starts all that runs before the clock.
	Prepare(ctx context.Context) error
	// Download downloads and returns how that ended. The client goes on serving.
	Download(ctx context.Context) Outcome
	// Kill ends all its processes at once, as a crash does. It may be called
	// twice, and while the client downloads.
	Kill()
}

// process is a started command that somebody waits for.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // after done
}

// command returns a command on the host that dies with this process.
func command(cfg Config, name string, args ...string) *exec.Cmd {
	line := append(append([]string(nil), cfg.Inside...), name)
	line = append(line, args...)
	cmd := exec.Command(line[0], line[1:]...) //nolint:noctx // Kill ends it
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cfg.Dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd
}

func start(cmd *exec.Cmd) (*process, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) kill() {
	p.signal()
	<-p.done
}

// signal kills the process and whatever it has started.
func (p *process) signal() { _ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }

// processes are those of a client. The zero value is usable.
type processes struct {
	mu     sync.Mutex // guards what follows
	list   []*process
	killed bool
}

// start starts a command, unless the client has been killed.
func (l *processes) start(cmd *exec.Cmd) (*process, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.killed {
		return nil, errKilled
	}
	p, err := start(cmd)
	if err == nil {
		l.list = append(l.list, p)
	}
	return p, err
}

func (l *processes) kill() {
	l.mu.Lock()
	l.killed = true
	list := l.list
	l.mu.Unlock()
	for _, p := range list {
		p.signal()
	}
	for _, p := range list {
		<-p.done
	}
}
