// Package cluster runs the real commands as processes, on loopback addresses or
// on the hosts of package lab: one supernode, several that share an etcd, or
// every service by itself, and the etcd too. It starts, awaits, signals and stops
// them, looks into what they logged, fills a CDN's cache before it starts and
// sets the wall clocks that they go by. Isolated gives the tests of a process
// namespaces of their own to run them in. What is asked of the processes is
// package operator's, and what should come of it is for those who run them.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Binaries is a directory with the commands.
type Binaries struct {
	dir string
}

// Build builds the commands into a new directory, with the race detector if
// wanted. Remove must follow.
func Build(ctx context.Context, race bool) (*Binaries, error) {
	root, err := repository()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "supernode-bin")
	if err != nil {
		return nil, fmt.Errorf("making a place for the commands: %w", err)
	}
	args := []string{"build"}
	if race {
		args = append(args, "-race")
	}
	args = append(args, "-o", dir)
	for _, service := range []string{"supernode", "gateway", "scheduler", "cdn", "registry"} {
		args = append(args, "./services/"+service+"/cmd/"+service)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./test/cmd/etcd")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("building the commands: %w\n%s", err, out), os.RemoveAll(dir))
	}
	return &Binaries{dir: dir}, nil
}

// Built gives the commands that Build has built in a directory, in another
// process perhaps.
func Built(dir string) *Binaries { return &Binaries{dir: dir} }

// Dir is the directory.
func (b *Binaries) Dir() string { return b.dir }

// Path is where a command is.
func (b *Binaries) Path(name string) string { return filepath.Join(b.dir, name) }

// Remove removes the commands.
func (b *Binaries) Remove() error { return os.RemoveAll(b.dir) }

// repository finds the directory with the workspace, at or above the current one.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the repository: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("finding the repository: there is no go.work here or above")
		}
		dir = parent
	}
}
