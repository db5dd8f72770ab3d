package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/supernode-ha/supernode/test/peer"
)

var errKilled = errors.New("the client was killed")

// OwnCommand is the first argument of the command when it is one of our clients
// and not the benchmark.
const OwnCommand = "client"

const (
	ready = "ready\n"
	begin = "begin\n"
)

// report is what one of our clients says at the end.
type report struct {
	Began, Ended, First, Last time.Time
	Path, Err                 string
	FailedPieces              int
}

// Own is a client of our own kind, in a process of its own.
type Own struct {
	cfg       Config
	processes processes
	stdin     io.WriteCloser
	stdout    *bufio.Reader
}

// NewOwn returns a client that does not run yet.
func NewOwn(cfg Config) *Own { return &Own{cfg: cfg} }

// Prepare starts the process and waits until it can begin.
func (o *Own) Prepare(context.Context) error {
	config, err := json.Marshal(o.cfg)
	if err != nil {
		return fmt.Errorf("configuring a client: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding the command of a client: %w", err)
	}
	cmd := command(o.cfg, self, OwnCommand)
	cmd.Stderr = os.Stderr
	if o.stdin, err = cmd.StdinPipe(); err != nil {
		return fmt.Errorf("starting a client: %w", err)
	}
	out, in, err := os.Pipe() // StdoutPipe would be closed by Wait, unread
	if err != nil {
		return fmt.Errorf("starting a client: %w", err)
	}
	cmd.Stdout, o.stdout = in, bufio.NewReader(out)
	_, err = o.processes.start(cmd)
	if err = errors.Join(err, in.Close()); err != nil {
		return fmt.Errorf("starting a client: %w", err)
	}
	if _, err := o.stdin.Write(append(config, '\n')); err != nil {
		return fmt.Errorf("configuring a client: %w", err)
	}
	if line, err := o.stdout.ReadString('\n'); err != nil || line != ready {
		return fmt.Errorf("awaiting a client: %q: %w", line, err)
	}
	return nil
}

// Download is part of Client.
func (o *Own) Download(ctx context.Context) Outcome {
	stop := context.AfterFunc(ctx, o.Kill)
	defer stop()
	fail := func(err error) Outcome { return Outcome{Err: errors.Join(err, context.Cause(ctx))} }
	if _, err := io.WriteString(o.stdin, begin); err != nil {
		return fail(fmt.Errorf("beginning: %w", err))
	}
	line, err := o.stdout.ReadBytes('\n')
	if err != nil {
		return fail(fmt.Errorf("awaiting the end of a client: %w", err))
	}
	var r report
	if err := json.Unmarshal(line, &r); err != nil {
		return fail(fmt.Errorf("reading what a client says: %w", err))
	}
	out := Outcome{
		Began: r.Began, Ended: r.Ended, Path: r.Path, First: r.First, Last: r.Last,
		FailedPieces: r.FailedPieces,
	}
	if r.Err != "" {
		out.Err = errors.New(r.Err)
	}
	return out
}

// Kill is part of Client.
func (o *Own) Kill() { o.processes.kill() }

// Serve is one of our clients: it reads its configuration, says that it is
// ready, downloads when it is told to, reports, and serves others until the
// input ends.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	var cfg Config
	if err := json.Unmarshal(line, &cfg); err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	var seen pieces
	p, err := peer.New(peer.Config{
		Nodes: cfg.Nodes, IP: cfg.IP, Dir: cfg.Dir, URL: cfg.URL, NoBackSource: true,
		LocalLimit: cfg.LocalLimit, Observe: seen.observe,
	})
	if err != nil {
		return err
	}
	defer p.Close()
	if _, err := io.WriteString(out, ready); err != nil {
		return err
	}
	if _, err := lines.ReadString('\n'); err != nil {
		return fmt.Errorf("awaiting the signal: %w", err)
	}
	r := report{Began: time.Now()}
	result, err := p.Download(ctx)
	r.Ended = time.Now()
	r.First, r.Last = seen.times()
	r.Path, r.FailedPieces = result.Path, result.PieceFailures
	if err != nil {
		r.Err = err.Error()
	}
	if err := json.NewEncoder(out).Encode(r); err != nil {
		return fmt.Errorf("reporting: %w", err)
	}
	_, _ = io.Copy(io.Discard, lines)
	return nil
}

// pieces records when pieces arrived.
type pieces struct {
	mu          sync.Mutex // guards what follows
	first, last time.Time
}

func (p *pieces) observe(e peer.Event) {
	if e.Kind != peer.Arrived {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.first.IsZero() {
		p.first = e.Time
	}
	p.last = e.Time
}

func (p *pieces) times() (first, last time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.first, p.last
}
