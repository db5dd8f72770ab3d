package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// serverPort is what an upload server prints before its port.
	serverPort = "dfget uploader server port is "

	// serverAttempts is how often an upload server is started: it gives itself
	// 233 ms, which is not always enough on a busy machine.
	serverAttempts = 20
	serverWait     = 5 * time.Second

	// unlimited is above what any link here carries, in bytes per second.
	unlimited = 1 << 30
)

// Dfget is a real dfget and its upload server.
type Dfget struct {
	cfg       Config
	binary    string
	processes processes
}

// NewDfget returns a client that runs a dfget binary. Nothing runs yet.
func NewDfget(cfg Config, binary string) *Dfget { return &Dfget{cfg: cfg, binary: binary} }

// Prepare starts the upload server as dfget itself does, which then finds it
// through its meta file.
func (d *Dfget) Prepare(ctx context.Context) error {
	for _, dir := range []string{"meta", "data", "logs"} {
		if err := os.MkdirAll(filepath.Join(d.cfg.Dir, dir), 0o755); err != nil { //nolint:gosec // dfget's own mode
			return fmt.Errorf("making the home of a dfget: %w", err)
		}
	}
	var err error
	for range serverAttempts {
		if err = d.startServer(); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("starting an upload server, %d times: %w", serverAttempts, err)
}

func (d *Dfget) startServer() error {
	cmd := command(d.cfg, d.binary, "server", "--ip", d.cfg.IP, "--port", "0",
		"--meta", filepath.Join(d.cfg.Dir, "meta", "host.meta"), "--data", filepath.Join(d.cfg.Dir, "data"), "--home", d.cfg.Dir,
		"--expiretime", "3m0s", "--alivetime", "1h0m0s")
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close() //nolint:errcheck // only read
	cmd.Stdout = in
	p, err := d.processes.start(cmd)
	if err = errors.Join(err, in.Close()); err != nil {
		return err
	}
	if err := out.SetReadDeadline(time.Now().Add(serverWait)); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if strings.HasPrefix(line, serverPort) {
		return nil
	}
	p.kill()
	return fmt.Errorf("it said %q: %w", line, errors.Join(err, p.err))
}

// Download is part of Client.
func (d *Dfget) Download(ctx context.Context) Outcome {
	limit := d.cfg.LocalLimit
	if limit == 0 {
		limit = unlimited
	}
	out := Outcome{Path: filepath.Join(d.cfg.Dir, "file")}
	cmd := command(d.cfg, d.binary, "-u", d.cfg.URL, "-o", out.Path, "--node", strings.Join(d.cfg.Nodes, ","),
		"--ip", d.cfg.IP, "--home", d.cfg.Dir, "--notbs", "--locallimit", strconv.FormatInt(limit, 10), "--totallimit", strconv.FormatInt(limit, 10))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	stop := context.AfterFunc(ctx, d.Kill)
	defer stop()
	out.Began = time.Now()
	p, err := d.processes.start(cmd)
	if err != nil {
		out.Err = err
		return out
	}
	<-p.done
	out.Ended = time.Now()
	if p.err != nil {
		out.Err = errors.Join(fmt.Errorf("%w: %s", p.err, tail(said.String())), context.Cause(ctx))
	}
	out.Err = errors.Join(out.Err, out.readLog(d.cfg.Dir))
	return out
}

// Kill is part of Client.
func (d *Dfget) Kill() { d.processes.kill() }

func tail(s string) string {
	const most = 2000
	return s[max(len(s)-most, 0):]
}
